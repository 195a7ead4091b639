"""Encode profiles and item texts as vectors (stage `embed`).

In: the distinct texts. Out: one unit vector per text. The texts are the current profiles and `dim_items.full_text`; the
files are shards of (text_hash, embedding). A sentence encoder makes the vectors: the packaged one is all-MiniLM-L6-v2
(Wang et al. 2020, arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084). With `embedding.reader`, item texts
are also read by a language model, whose vector stands beside (`reclm.text.reader`). Texts that an earlier artifact
holds for the same models are not encoded again: an artifact holds only what was new, and the vectors of a model are
those of all its artifacts together. Texts are sorted by length, so that batches need little padding, and a shard
appears whole or not at all, so a killed run repeats at most one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.errors import ArtifactError
from reclm.progress import detail, track
from reclm.settings.llm import EmbeddingSettings
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, content_hash
from reclm.storage.files import write_table
from reclm.storage.schemas import PROFILE_FILES, VECTORS
from reclm.storage.workspace import Workspace
from reclm.text.encoder import Encoder, embed_texts, load_encoder, model_name, text_hash
from reclm.text.reader import beside, embedding_name, load_reader, reader_parents
from reclm.warehouse.sources import current_profiles

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def write_embeddings(
    settings: Settings, encoder: Encoder | None = None, *, profiles: Artifact | None = None
) -> Artifact:
    """Encode the texts that have no vector yet, or reuse an artifact when none lacks one.

    The artifact becomes the current one unless `profiles` names other profiles than the current ones. `encoder`
    replaces the settings' encoder (for tests). Raises WorkspaceError when there are no profiles.
    """
    from reclm.warehouse.reading import connect
    from reclm.warehouse.sources import set_current_artifact

    workspace = settings.paths
    source = current_profiles(workspace) if profiles is None else [profiles]
    with closing(connect(settings)) as connection:
        texts = distinct_texts(connection, [artifact.path for artifact in source])
        items = item_texts(connection) if settings.embedding.reader else set()
    artifact = _embed(settings, source[-1], texts, items, Encoders(settings, encoder))
    if profiles is None:
        set_current_artifact(workspace, "embeddings", artifact.version)
    return artifact


def distinct_texts(connection: DuckDBPyConnection, profiles: Sequence[Path]) -> dict[str, str]:
    """Return {text hash: text} of every profile of these folders that parses and every item text that is not empty."""
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
        [[str(folder / PROFILE_FILES[kind]) for folder in profiles] for kind in ("user", "item")],
    ).fetchall()
    return {text_hash(row[0]): row[0] for row in rows}


def item_texts(connection: DuckDBPyConnection) -> set[str]:
    """Return the hashes of the item texts, which a reader reads."""
    rows = connection.execute("select distinct full_text from dim_items where full_text is not null").fetchall()
    return {text_hash(row[0]) for row in rows}


class Encoders:
    """The encoder of profiles and that of item texts; each model is loaded when the first text needs it.

    `sentence` replaces the sentence encoder of the settings.
    """

    def __init__(self, settings: Settings, sentence: Encoder | None = None) -> None:
        self._settings, self._given = settings, sentence
        self.known: Mapping[str, NDArray[np.float32]] = {}
        """{text hash: vector of the sentence encoder} of texts that need not be encoded again."""

    def of_profiles(self, texts: list[str]) -> NDArray[np.float32]:
        new = [text for text in texts if text_hash(text) not in self.known]
        encoded = dict(zip(new, self._sentence(new), strict=True)) if new else {}
        return np.stack([encoded[text] if text in encoded else self.known[text_hash(text)] for text in texts])

    def of_items(self, texts: list[str]) -> NDArray[np.float32]:
        return self._both(texts)

    @cached_property
    def _sentence(self) -> Encoder:
        return load_encoder(self._settings) if self._given is None else self._given

    @cached_property
    def _both(self) -> Encoder:
        return beside(self.of_profiles, load_reader(self._settings))


def _embed(
    settings: Settings, profiles: Artifact, texts: dict[str, str], items: Collection[str], encoders: Encoders
) -> Artifact:
    """Encode the new ones of `texts`, {text hash: text}; those whose hash is in `items` as item texts."""
    workspace, model = settings.paths, embedding_name(settings)
    earlier = [a for a in artifacts.all_of(workspace, "embeddings") if a.manifest["parameters"]["model"] == model]
    known = _known_hashes(earlier)
    new = sorted((key for key in texts if key not in known), key=lambda key: (len(texts[key]), key))
    texts_hash = content_hash(sorted(texts))
    same_texts = [a for a in earlier if a.manifest["parameters"]["texts"] == texts_hash]
    if not new and same_texts:
        detail(f"reusing embeddings {same_texts[-1].version}: no text has changed")
        return same_texts[-1]
    detail(f"embedding {len(new):,} texts with {model}; {len(texts) - len(new):,} have a vector already")
    parameters = {
        "model": model,
        "batch_size": settings.embedding.batch_size,
        "shard_size": settings.embedding.shard_size,
        "texts": texts_hash,
        "new": content_hash(new),
    }
    parents = {"profiles": profiles.version, **reader_parents(settings)}
    version = artifacts.version_of("embeddings", parameters, parents)
    with artifacts.writing(workspace, "embeddings", parameters, parents, resumable=True) as draft:
        if new:
            if settings.embedding.reader:  # a workspace that gets a reader has the sentence vectors already
                encoders.known = _sentence_vectors(workspace, model_name(settings.embedding), new)
            jobs = [
                (encoders.of_profiles, [key for key in new if key not in items]),
                (encoders.of_items, [key for key in new if key in items]),
            ]
            dim = write_shards(draft.path, jobs, texts, settings.embedding, model, version)
        else:  # other profiles' artifacts hold every text: this one records that, without rows
            dim = earlier[-1].metrics["dim"] if earlier else 0
            _write_shard(draft.path / "vectors-00000.parquet", [], np.zeros((0, 0), np.float32), model, version)
        draft.metrics.update(texts=len(texts), new=len(new), dim=dim)
    return artifacts.load(workspace, "embeddings", version)


def _sentence_vectors(workspace: Workspace, model: str, wanted: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return {text hash: vector} of the `wanted` texts that artifacts of the encoder `model` hold."""
    found: dict[str, NDArray[np.float32]] = {}
    hashes = pa.array(wanted, pa.string())
    for artifact in artifacts.all_of(workspace, "embeddings"):
        if artifact.manifest["parameters"]["model"] != model:
            continue
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            table = pq.read_table(shard, columns=["text_hash", "embedding"])
            table = table.filter(pc.is_in(table["text_hash"], hashes))
            if len(table):
                vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
                found.update(zip(table["text_hash"].to_pylist(), vectors, strict=True))
    return found


def _known_hashes(earlier: Sequence[Artifact]) -> set[str]:
    known: set[str] = set()
    for artifact in earlier:
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            known.update(pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist())
    return known


def write_shards(
    folder: Path,
    jobs: Sequence[tuple[Encoder, Sequence[str]]],
    texts: Mapping[str, str],
    settings: EmbeddingSettings,
    model: str,
    version: str,
) -> int:
    """Write `vectors-00000.parquet` … for the text hashes of each job, in order, by its encoder.

    Finished shards are kept. Returns the width of the vectors of the first job that has any.
    """
    size = settings.shard_size
    for leftover in folder.glob(".vectors-*.tmp"):
        leftover.unlink()
    cut = [(encoder, keys[at : at + size]) for encoder, keys in jobs for at in range(0, len(keys), size)]
    shards = {folder / f"vectors-{number:05d}.parquet": shard for number, shard in enumerate(cut)}
    pending = {path: shard for path, shard in shards.items() if not _is_finished(path, shard[1])}
    if len(pending) < len(shards):
        detail(f"{len(shards) - len(pending)} of {len(shards)} shards were finished by an interrupted run")
    for path, keys, vectors in _encoded(pending, texts, settings.batch_size):
        _write_shard(path, keys, vectors, model, version)
    for encoder, _ in jobs:
        widths = {_width(path) for path, shard in shards.items() if shard[0] == encoder}
        if len(widths) > 1:
            raise ArtifactError(
                f"{folder} holds vectors of several widths ({sorted(widths)}); delete it and embed again"
            )
    return _width(next(iter(shards)))


def _encoded(
    shards: Mapping[Path, tuple[Encoder, Sequence[str]]], texts: Mapping[str, str], batch_size: int
) -> Iterator[tuple[Path, Sequence[str], NDArray[np.float32]]]:
    """Yield each shard with its hashes and vectors, as soon as they are ready."""
    batches = [
        (path, [texts[key] for key in keys[start : start + batch_size]], start + batch_size >= len(keys))
        for path, (_, keys) in shards.items()
        for start in range(0, len(keys), batch_size)
    ]
    parts: list[NDArray[np.float32]] = []
    for path, batch, is_last in track(batches, "embedding texts"):
        encoder, keys = shards[path]
        parts.append(embed_texts(encoder, batch, batch_size))
        if is_last:
            yield path, keys, np.concatenate(parts)
            parts = []


def _is_finished(shard: Path, hashes: Sequence[str]) -> bool:
    return shard.exists() and pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist() == list(hashes)


def _width(shard: Path) -> int:
    first = pq.read_table(shard, columns=["embedding"])["embedding"].slice(0, 1).to_pylist()
    return len(first[0]) if first else 0


def _write_shard(shard: Path, hashes: Sequence[str], vectors: NDArray[np.float32], model: str, version: str) -> None:
    n, dim = vectors.shape
    offsets = np.arange(n + 1, dtype=np.int32) * dim
    columns = [
        pa.array(list(hashes), pa.string()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float32())),
        pa.repeat(pa.scalar(model, pa.string()), n),
        pa.repeat(pa.scalar(version, pa.string()), n),
    ]
    write_table(shard, pa.Table.from_arrays(columns, schema=VECTORS))
