"""Train a small language model from scratch.

In: documents. Out: a byte-level BPE tokenizer and a small Llama model. It is the embedded default: in minutes on one
core it learns the words of the data set and the form of a dialogue (byte-level BPE: Radford et al. 2019; architecture:
Touvron et al. 2023, arXiv 2302.13971). Documents are rendered in the chat template below, whose turns cost one token
each, and are read whole, because an answer does not follow from half a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Message
from reclm.progress import track

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TINY = "tiny"
"""The value of `llm.base_model` that asks for a model trained from scratch."""
END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_POSITIONS = 2048
RECIPE = 2  # raise it when a change here changes the model
BATCH_TOKENS = 1200
"""Tokens of a training step. Small steps: at a fixed number of tokens, more steps teach more."""
WORD_LENGTH = 3
"""Letters that a token must have to be taken for a word; one more when it does not begin one."""
SORTED_TOGETHER = 16
"""Batches sorted by length together."""
BACKGROUND_SHARE, BACKGROUND_PASSES = 1 / 3, 4
"""Limits of reading the background first: a share of all tokens, and passes over its documents."""
WORD_SCALE = 0.04
"""Standard deviation of token vectors that start from the sentence encoder; of the others it is 0.02, as usual."""
PROMPT_WEIGHT = 0.1
"""Loss weight of a token of a prompt or a plain text; tokens that the assistant writes have weight 1."""
MIN_TOKENS, MAX_TOKENS, TOKENS_PER_DIALOGUE = 1_200_000, 4_000_000, 280
"""Default number of training tokens: each dialogue about once, after the background, within these limits."""


@dataclass(frozen=True)
class Size:
    """Widths and depth of a model; the embeddings are tied to the output."""

    hidden: int
    layers: int
    heads: int
    intermediate: int


SIZES = {
    "small": Size(hidden=192, layers=2, heads=4, intermediate=576),
    "medium": Size(hidden=320, layers=4, heads=5, intermediate=864),
    "large": Size(hidden=448, layers=5, heads=7, intermediate=1216),
}


def step_size(rate: float, size: Size) -> float:
    """Scale the small model's learning rate to a size: inversely to the width (Yang et al. 2022, arXiv 2203.03466)."""
    return rate * (SIZES["small"].hidden / size.hidden)


def token_budget(dialogues: int, requested: int = 0) -> int:
    """Return the number of training tokens: `requested`, or by the number of dialogues when that is 0."""
    return requested or min(max(MIN_TOKENS, TOKENS_PER_DIALOGUE * dialogues), MAX_TOKENS)


def as_document(messages: Sequence[Message]) -> str:
    """Render messages as the template of `tiny` does; tokenizers are trained on the result, so none is used."""
    return "".join(
        f"<|{message['role']}|>{message['content']}{END if message['role'] == 'assistant' else ''}"
        for message in messages
    )


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` tokens with the chat template of `tiny`; it can encode any text."""
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
    """The documents without template tokens, so that no merge contains a part of one."""
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
    background: Sequence[str] = (),
    embed: Callable[[Sequence[str]], NDArray[np.float32]] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "cpu",
) -> tuple[PreTrainedModel, list[tuple[int, float]]]:
    """Train a model on about `tokens` tokens, repeats included; return it and its curve of (step, mean loss).

    `background` is read first, within BACKGROUND_SHARE and BACKGROUND_PASSES, then `documents`, whose form the model
    is to learn. `embed` turns words into vectors of a sentence encoder, (n, d), which tokens that are words start
    from. A step reads whole documents of similar length, `batch_tokens` together. AdamW; the learning rate warms up
    over a twentieth of the steps and falls as a cosine to a twentieth of its peak. Raises ModelError without
    documents and when the loss is not finite.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    background_rows, plan = _encoded(tokenizer, background), []
    if background_rows:
        total = sum(row.shape[1] for row in background_rows)
        background_tokens = int(min(tokens * BACKGROUND_SHARE, BACKGROUND_PASSES * total))
        plan = _plan(background_rows, background_tokens, batch_tokens, rng)
        tokens -= background_tokens
    rows = _encoded(tokenizer, documents)
    if not rows:
        raise ModelError("llm.base_model = 'tiny' learns from the data set's texts and profiles, but there are none")
    plan += _plan(rows, tokens, batch_tokens, rng)
    model: Any = _untrained(tokenizer, size).train()
    if embed is not None:
        initialise_from_encoder(model, tokenizer, embed)
    model.to(device)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, len(plan)))
    curve: list[tuple[int, float]] = []
    every = max(1, len(plan) // 50)
    losses: list[float] = []
    for step, batch in enumerate(track(plan, "training tiny")):
        ids, weights = (tensor.to(device) for tensor in _padded(batch, tokenizer.get_vocab()[PAD]))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
            loss = _loss(model(input_ids=ids, use_cache=False).logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ModelError(
                f"the loss of the tiny model is {losses[-1]} at step {step + 1} of {len(plan)}; lower "
                f"llm.tiny_learning_rate (this size's rate is {learning_rate:g} now)"
            )
        if len(losses) == every or step == len(plan) - 1:
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


def initialise_from_encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, embed: Callable[[Sequence[str]], NDArray[np.float32]]
) -> None:
    """Start the vectors of tokens that are words from a sentence encoder's vectors, on their leading directions.

    Words of similar meaning then start alike, which a small log is too short to teach.
    """
    import torch

    names = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    words = {
        token: name.strip().lower()
        for token, name in enumerate(names)
        if name.strip().isalpha() and len(name.strip()) >= (WORD_LENGTH if name.startswith(" ") else WORD_LENGTH + 1)
    }
    if len(words) < 2:
        return
    vectors = embed(list(words.values())).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    table: Any = model.get_input_embeddings().weight
    width = min(table.shape[1], int((values > 0).sum()))
    leading = left[:, :width] * values[:width]
    if not leading.std():
        return
    with torch.no_grad():
        rows = torch.tensor(list(words))
        table[rows, :width] = torch.from_numpy((leading / leading.std() * WORD_SCALE).astype(np.float32))


def _rate_factor(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean cross-entropy of each token after those before it; ids and weights are (batch, length)."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def _encoded(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> list[NDArray[np.int64]]:
    """Each document as (2, length): its tokens with the end token, and 1 where the assistant writes."""
    encoded = tokenizer.backend_tokenizer.encode_batch(list(documents), add_special_tokens=False)
    vocabulary = tokenizer.get_vocab()
    end, assistant = vocabulary[END], vocabulary[ROLES[-1]]
    others = {vocabulary[role] for role in ROLES[:-1]}
    rows = []
    for one in encoded:
        if one.ids:
            ids = (one.ids if one.ids[-1] == end else [*one.ids, end])[:MAX_POSITIONS]
            rows.append(np.array([ids, _in_answers(ids, assistant, others)], dtype=np.int64))
    return rows


def _in_answers(ids: Sequence[int], assistant: int, others: set[int]) -> list[int]:
    inside, flags = 0, []
    for token in ids:
        inside = 0 if token in others or token == assistant else inside
        flags.append(inside)
        inside = 1 if token == assistant else inside
    return flags


def _plan(
    documents: Sequence[NDArray[np.int64]], tokens: int, batch_tokens: int, rng: np.random.Generator
) -> list[list[NDArray[np.int64]]]:
    """Batches of whole documents in training order, with `tokens` tokens in all or a few more.

    In each pass the documents are shuffled, sorted by length within a few batches, and the batches shuffled again.
    """
    lengths = np.array([document.shape[1] for document in documents])
    span = max(1, int(SORTED_TOGETHER * batch_tokens / lengths.mean()))
    plan: list[list[NDArray[np.int64]]] = []
    while True:
        rows = rng.permutation(len(documents))
        chunks = [rows[start : start + span] for start in range(0, len(rows), span)]
        order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
        batches = _batches(order.tolist(), lengths, batch_tokens)
        for at in rng.permutation(len(batches)):
            plan.append([documents[row] for row in batches[at]])
            tokens -= int(lengths[batches[at]].sum())
            if tokens <= 0:
                return plan


def _batches(order: Sequence[int], lengths: NDArray[np.int64], batch_tokens: int) -> list[list[int]]:
    """Cut `order` into batches of at most `batch_tokens` tokens when padded, or of a single document."""
    batches: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, int(lengths[row]))
        if not batches or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = int(lengths[row])
        batches[-1].append(row)
    return batches


def _padded(rows: Sequence[NDArray[np.int64]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and loss weights, both (batch, length), padded on the right, which causal attention ignores."""
    import torch

    longest = max(row.shape[1] for row in rows)
    ids = torch.full((len(rows), longest), pad)
    weights = torch.zeros(len(rows), longest)
    for at, row in enumerate(rows):
        ids[at, : row.shape[1]] = torch.from_numpy(row[0])
        weights[at, : row.shape[1]] = torch.where(torch.from_numpy(row[1]) > 0, 1.0, PROMPT_WEIGHT)
    return ids, weights
