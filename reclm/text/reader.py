"""Read item texts with a pretrained language model, and say as vectors what it makes of them.

In: item texts. Out: unit vectors. A language model has read more of the world than a sentence encoder: which films
share a director, which things are used together. Its hidden states while it reads "title: … Genres and themes:",
averaged over the tokens, carry that; no token is generated. Two depths are taken, two thirds of the layers and the last
but one, because the middle layers tell meanings apart and the last ones prepare the next token. What all texts share is
taken off: the mean of ANCHORS, words for things of every kind. `beside` puts the vector next to the sentence encoder's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.progress import quiet
from reclm.settings.machine import device_of, use_threads
from reclm.storage.files import content_of_folder
from reclm.text import gguf
from reclm.text.encoder import Encoder, model_name
from reclm.text.hub import MODEL_FILES, hub_snapshot

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.settings.tree import Settings

BEFORE, AFTER = "title: ", "\nGenres and themes:"
WEIGHT = 1.5
"""Length of a reading beside a sentence vector of length 1. Chosen on the validation slice of ml-100k, where 1 and 2 do
hardly worse (docs/experiments.md)."""
ANCHORS = tuple(
    "adventure album animal art baby beauty bicycle boots camera car cat chair children classic coffee "  # noqa: SIM905
    "comedy computer cooking crime dance documentary dog drama electronics family fantasy fiction film "
    "fitness flower food football game garden guitar health history holiday horror house jazz kettle "
    "kitchen knife lamp love magazine medicine music mystery news novel paper perfume phone photography "
    "poetry politics romance running science shirt shoes song sport story tea tent thriller tool toy "
    "travel war watch western wine".split()
)


def embedding_name(settings: Settings) -> str:
    """Return the label of an embeddings artifact: the encoder, and the reader of the item texts, if any.

    Raises ModelError when the reader is not there.
    """
    reader, name = settings.embedding.reader, model_name(settings.embedding)
    if not reader:
        return name
    if gguf.gguf_file(reader) is not None:
        return f"{name}+{Path(reader).stem}-{gguf.weights_version(reader)}"
    folder = Path(reader).expanduser()
    if folder.is_dir():
        return f"{name}+{folder.resolve().name}-{_content(folder)}"
    return f"{name}+{reader}@{_snapshot(settings).name}"


@cache
def _content(folder: Path) -> str:
    return content_of_folder(folder, MODEL_FILES)


def _snapshot(settings: Settings) -> Path:
    """Return the folder of a Hub model: of the commit that `llm.revision` names where it is also the base model."""
    reader, llm = settings.embedding.reader, settings.llm
    return hub_snapshot("embedding.reader", reader, llm.revision if reader == llm.base_model else "")


def reader_parents(settings: Settings) -> dict[str, str]:
    """Return the artifact `weights` that a reader is loaded from, as a parent of the vectors; empty without one."""
    reader = settings.embedding.reader
    if not reader or gguf.gguf_file(reader) is None:
        return {}
    return {gguf.KIND: gguf.weights_version(reader)}


def beside(sentence: Encoder, read: Encoder) -> Encoder:
    """Return an encoder of both vectors, one after the other, at length one together."""

    def encode(texts: list[str]) -> NDArray[np.float32]:
        both = np.concatenate([sentence(texts), WEIGHT * read(texts)], axis=1)
        return np.asarray(both / np.sqrt(1 + WEIGHT**2), dtype=np.float32)

    return encode


def load_reader(settings: Settings) -> Encoder:
    """Load the language model `embedding.reader` as an encoder: texts to unit vectors (n_texts, 2 * its width).

    Raises ModelError when the model cannot be found or read. No code of the model is run.
    """
    name = settings.embedding.reader
    if gguf.gguf_file(name) is not None:
        folder = gguf.weights(settings, name)
    else:
        folder = Path(name).expanduser()
        folder = folder if folder.is_dir() else _snapshot(settings)
    tokenizer, model = _load(settings, str(folder))
    states = _states(tokenizer, model, settings.embedding.max_tokens)
    shared = _unit(states(list(ANCHORS))).mean(axis=0)

    def read(texts: list[str]) -> NDArray[np.float32]:
        own = _unit(_unit(states(texts)) - shared)
        return np.asarray(own.reshape(len(texts), -1) / np.sqrt(own.shape[1]), dtype=np.float32)

    return read


def _load(settings: Settings, folder: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    use_threads(settings.runtime)
    dtype = torch.bfloat16 if settings.embedding.dtype == "bfloat16" else torch.float32
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"embedding.reader = {settings.embedding.reader!r} cannot be loaded: {error}") from None
    return tokenizer, model.to(device_of(settings.runtime)).eval()


def _states(
    tokenizer: PreTrainedTokenizerBase, model: Any, max_tokens: int
) -> Callable[[list[str]], NDArray[np.float64]]:
    """Return a function from texts to the mean hidden states (n_texts, 2, width) of both depths."""
    import torch

    layers = int(model.config.get_text_config().num_hidden_layers)
    depths = (max(1, round(layers * 2 / 3)), max(1, layers - 1))

    def tokens(texts: list[str]) -> list[list[int]]:  # what looks like a special token in a text is read as text
        return list(tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    after = tokens([AFTER])[0]

    def states(texts: list[str]) -> NDArray[np.float64]:
        rows = [ids[:max_tokens] + after for ids in tokens([BEFORE + text for text in texts])]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
        return np.stack([_mean(hidden[depth], mask) for depth in depths], axis=1)

    return states


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> NDArray[np.float64]:
    total = (hidden.double() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return np.asarray(total.cpu().numpy(), dtype=np.float64)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float64)
