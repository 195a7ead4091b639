"""Check text vectors: their lengths, and how far they moved since the previous embeddings.

In: the current profiles, the item texts and the embeddings artifacts. Out: results `embedding_norm` and
`embedding_shift`. The vector of a text may be in any artifact of the same encoder (`reclm.generation.embeddings`), so
every shard of that encoder is read once, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.dataset import ENTITY_KINDS
from reclm.health.check_result import CheckResult
from reclm.health.profiles import current_or_newest
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

NO_VECTORS = "There are no embeddings yet; run `reclm profile`."
PROFILE_TEXTS = (
    "select sha256(profile), count(*) from read_parquet(?) where snapshot = 'serve' and parse_status = 'ok' "
    "and trim(coalesce(profile, '')) != '' group by profile"
)
ITEM_TEXTS = (
    "select sha256(full_text), count(*) from dim_items where trim(coalesce(full_text, '')) != '' group by full_text"
)


@dataclass(frozen=True)
class EmbeddingSets:
    """The current embeddings and the last ones of the same encoder for other profiles; `no_before` says why none."""

    current: Artifact | None
    before: Artifact | None
    no_before: str = NO_VECTORS


@dataclass
class VectorSum:
    """The sum and the worst length error of the vectors of a group of texts.

    `hashes` (n_texts,) are the texts, `counts` (n_texts,) how many users or items have each. A text whose vector has
    been added gets count 0.
    """

    hashes: pa.Array
    counts: NDArray[np.int64]
    total: NDArray[np.float64] | None = None
    worst: float | None = None

    def add(self, hashes: pa.ChunkedArray, vectors: NDArray[np.float32]) -> None:
        """Add the rows of `vectors` (n, dim) whose text belongs to this group; the first vector of a text counts."""
        positions = pc.index_in(hashes, value_set=self.hashes)
        rows = np.flatnonzero(pc.is_valid(positions).to_numpy(zero_copy_only=False))
        positions = positions.drop_null().to_numpy()
        rows, positions = rows[self.counts[positions] > 0], positions[self.counts[positions] > 0]
        if not len(rows):
            return
        added = vectors[rows].astype(np.float64)
        errors = np.abs(np.linalg.norm(added, axis=1) - 1)
        self.worst = max(self.worst or 0.0, float(np.nan_to_num(errors, nan=np.inf).max()))
        weighted = self.counts[positions] @ added
        self.total = weighted if self.total is None else self.total + weighted
        self.counts[positions] = 0


def embeddings_to_check(workspace: Workspace) -> EmbeddingSets:
    """Find the current embeddings and those to compare them with."""
    from reclm.warehouse.sources import current_versions

    found = artifacts.all_of(workspace, "embeddings")
    if not found:
        return EmbeddingSets(None, None)
    versions = current_versions(workspace, "embeddings")
    current = next((artifact for artifact in reversed(found) if artifact.version in versions), found[-1])
    earlier = [artifact for artifact in found[: found.index(current)] if _profiles_of(workspace, artifact)]
    others = [artifact for artifact in earlier if artifact.manifest["parents"] != current.manifest["parents"]]
    same_encoder = [artifact for artifact in others if _encoder(artifact) == _encoder(current)]
    if same_encoder:
        return EmbeddingSets(current, same_encoder[-1], "")
    if others:
        return EmbeddingSets(
            current, None, "The earlier embeddings are of another encoder, so the vectors cannot be compared."
        )
    return EmbeddingSets(current, None, "There are no earlier embeddings to compare with.")


def _encoder(embeddings: Artifact) -> str:
    return str(embeddings.manifest["parameters"]["model"])


def _profiles_of(workspace: Workspace, embeddings: Artifact) -> Artifact | None:
    return artifacts.find(workspace, "profiles", embeddings.manifest["parents"]["profiles"])


def measure(connection: DuckDBPyConnection, settings: Settings, sets: EmbeddingSets) -> list[CheckResult]:
    """Run `embedding_norm` (user profiles, item profiles, item texts) and `embedding_shift` (user, item profiles)."""
    sums = _texts_by_subject(connection, settings, sets)
    if sets.current:
        _add_vectors(settings.paths, _encoder(sets.current), sums)
    health = settings.health
    norms = [
        CheckResult(
            "embedding_norm",
            subject,
            sums[subject].worst if subject in sums else None,
            None,
            health.max_norm_error,
            "A vector does not have length one, so cosines are wrong: "
            "delete the embeddings artifacts and run `reclm profile`.",
            f"No {subject} has a vector." if sets.current else NO_VECTORS,
        )
        for subject in (*(f"{kind} profile" for kind in ENTITY_KINDS), "item text")
    ]
    shifts = [
        CheckResult(
            "embedding_shift",
            f"{kind} profile",
            _shift(sums.get(f"{kind} profile"), sums.get(f"{kind} profile before")),
            None,
            health.max_embedding_shift,
            "Profiles say something else than before: read some of them, then train the recommenders again.",
            sets.no_before or f"No {kind} profile has a vector in both sets.",
        )
        for kind in ENTITY_KINDS
    ]
    return norms + shifts


def _texts_by_subject(
    connection: DuckDBPyConnection, settings: Settings, sets: EmbeddingSets
) -> Mapping[str, VectorSum]:
    sums: dict[str, VectorSum] = {}
    profiles_of = {
        "": current_or_newest(settings.paths),
        " before": sets.before and _profiles_of(settings.paths, sets.before),
    }
    for suffix, profiles in profiles_of.items():
        if profiles is None:
            continue
        for kind in ENTITY_KINDS:
            file = str(profiles.path / f"{kind}_profiles.parquet")
            sums[f"{kind} profile{suffix}"] = _empty_sum(connection.execute(PROFILE_TEXTS, [file]).fetchall())
    sums["item text"] = _empty_sum(connection.execute(ITEM_TEXTS).fetchall())
    return sums


def _empty_sum(rows: list[tuple[str, int]]) -> VectorSum:
    return VectorSum(
        pa.array([row[0] for row in rows], pa.string()), np.array([row[1] for row in rows], dtype=np.int64)
    )


def _add_vectors(workspace: Workspace, encoder: str, sums: Mapping[str, VectorSum]) -> None:
    for artifact in artifacts.all_of(workspace, "embeddings"):
        if _encoder(artifact) != encoder:
            continue
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            table = pq.read_table(shard, columns=["text_hash", "embedding"])
            if not len(table):
                continue
            vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for vector_sum in sums.values():
                vector_sum.add(table["text_hash"].combine_chunks(), vectors.reshape(len(table), -1))


def _shift(now: VectorSum | None, before: VectorSum | None) -> float | None:
    """One minus the cosine of the two mean vectors; every user or item counts once."""
    if now is None or before is None or now.total is None or before.total is None:
        return None
    return float(1 - now.total @ before.total / (np.linalg.norm(now.total) * np.linalg.norm(before.total)))
