"""A language model from scratch: documents come in, a byte-level BPE tokenizer and a small Llama-architecture model go out.

It is the embedded default: minutes on one core buy a model that knows the words of the data set and the form of a
dialogue, and knows nothing else (byte-level BPE: Radford et al. 2019; architecture: Touvron et al. 2023, arXiv
2302.13971). Documents are rendered in our own chat template, whose turns cost one token each, end to end in blocks
without padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.prompts import Message
from reclm.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_POSITIONS = 2048
BLOCK, BATCH = 256, 2  # small steps: of a given number of tokens, the number of steps is what teaches


@dataclass(frozen=True)
class Size:
    """Widths and depths of a model; the embeddings are tied to the output."""

    hidden: int
    layers: int
    heads: int
    intermediate: int


SIZES = {
    "small": Size(hidden=128, layers=4, heads=4, intermediate=384),
    "medium": Size(hidden=256, layers=5, heads=4, intermediate=688),
    "large": Size(hidden=384, layers=6, heads=6, intermediate=1024),
}


def as_document(messages: Sequence[Message]) -> str:
    """The messages as our template renders them; needs no tokenizer, since a tokenizer is trained on the result."""
    return "".join(
        f"<|{message['role']}|>{message['content']}{END if message['role'] == 'assistant' else ''}"
        for message in messages
    )


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` tokens with our chat template. Any text can be encoded and decoded again."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, *ROLES]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without(documents, special), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _without(documents: Sequence[str], special: Sequence[str]) -> Iterator[str]:
    """The documents' words alone: no merge may ever reach into a token of the template."""
    for document in documents:
        for token in special:
            document = document.replace(token, "\n")
        yield document


def train_model(
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[str],
    size: Size,
    *,
    tokens: int,
    learning_rate: float,
    seed: int,
    block: int = BLOCK,
    batch: int = BATCH,
    device: str = "cpu",
) -> tuple[PreTrainedModel, list[tuple[int, float]]]:
    """A model that has read `tokens` tokens of the documents, repeats included, and its curve of (step, mean loss).

    AdamW, warm-up over a tenth of the steps, then a cosine to a tenth of the peak. Raises ModelError without documents.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    steps = max(1, math.ceil(tokens / (block * batch)))
    model: Any = _untrained(tokenizer, size).train()
    model.to(device)
    stream = _blocks(_encoded(tokenizer, documents), block, rng)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    curve: list[tuple[int, float]] = []
    every = max(1, steps // 50)
    losses: list[float] = []
    for step in track(range(steps), "training tiny", total=steps):
        ids = torch.from_numpy(np.stack([next(stream) for _ in range(batch)])).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if len(losses) == every or step == steps - 1:
            curve.append((step + 1, float(np.mean(losses))))
            losses = []
    return model.cpu().eval(), curve


def _untrained(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _encoded(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> list[NDArray[np.int64]]:
    """Each document's tokens, closed by the end token."""
    encoded = tokenizer.backend_tokenizer.encode_batch(list(documents), add_special_tokens=False)
    end = tokenizer.eos_token_id
    rows = [np.array(e.ids if e.ids[-1] == end else [*e.ids, end], dtype=np.int64) for e in encoded if e.ids]
    if not rows:
        raise ModelError("llm.base_model = 'tiny' learns from the data set's texts and profiles, and there are none")
    return rows


def _blocks(
    documents: Sequence[NDArray[np.int64]], block: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """(block,) tokens, for ever: the documents in a new order each time round, end to end."""
    rest = np.zeros(0, dtype=np.int64)
    while True:
        rest = np.concatenate([rest, *(documents[row] for row in rng.permutation(len(documents)))])
        whole = len(rest) // block
        yield from rest[: whole * block].reshape(whole, block)
        rest = rest[whole * block :]
