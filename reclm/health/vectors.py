"""The vectors of texts: the current profiles and item texts come in, checks of their lengths and of their drift go out.

A text's vector may stand in any artifact of the encoder (`reclm.generation.embeddings`), so all shards of the encoder are gone
through once, one at a time.
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

from reclm.health.measured import Measured
from reclm.health.profiles import KINDS
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

NO_VECTORS = "There are no embeddings yet; run `reclm profile`."
OF_PROFILES = (
    "select sha256(profile), count(*) from read_parquet(?) where snapshot = 'final' and parse_status = 'ok' "
    "and trim(coalesce(profile, '')) != '' group by profile"
)
OF_ITEMS = (
    "select sha256(full_text), count(*) from dim_items where trim(coalesce(full_text, '')) != '' group by full_text"
)


@dataclass(frozen=True)
class Sets:
    """The current embeddings, those before them (other profiles, the same encoder), and why there are none before."""

    current: Artifact | None
    before: Artifact | None
    alone: str = NO_VECTORS


@dataclass
class Pile:
    """Texts of one subject and how many entities carry each; what their vectors add up to."""

    hashes: pa.Array
    counts: NDArray[np.int64]
    total: NDArray[np.float64] | None = None
    worst: float | None = None

    def add(self, hashes: pa.ChunkedArray, vectors: NDArray[np.float32]) -> None:
        """Takes what is of this subject; the first vector of a text counts."""
        places = pc.index_in(hashes, value_set=self.hashes)
        rows = np.flatnonzero(pc.is_valid(places).to_numpy(zero_copy_only=False))
        places = places.drop_null().to_numpy()
        rows, places = rows[self.counts[places] > 0], places[self.counts[places] > 0]
        if not len(rows):
            return
        chosen = vectors[rows].astype(np.float64)
        errors = np.abs(np.linalg.norm(chosen, axis=1) - 1)
        self.worst = max(self.worst or 0.0, float(np.nan_to_num(errors, nan=np.inf).max()))
        weighed = self.counts[places] @ chosen
        self.total = weighed if self.total is None else self.total + weighed
        self.counts[places] = 0


def chosen(workspace: Workspace) -> Sets:
    """Which embeddings are looked at."""
    from reclm.warehouse.sources import current_versions

    found = artifacts.all_of(workspace, "embeddings")
    if not found:
        return Sets(None, None)
    versions = current_versions(workspace, "embeddings")
    current = next((one for one in reversed(found) if one.version in versions), found[-1])
    earlier = [one for one in found[: found.index(current)] if _profiles_of(workspace, one)]
    others = [one for one in earlier if one.manifest["parents"] != current.manifest["parents"]]
    alike = [one for one in others if _encoder(one) == _encoder(current)]
    if alike:
        return Sets(current, alike[-1], "")
    if others:
        return Sets(current, None, "The earlier embeddings are another encoder's; two spaces cannot be compared.")
    return Sets(current, None, "There are no earlier embeddings to hold these against.")


def _encoder(embeddings: Artifact) -> str:
    return str(embeddings.manifest["parameters"]["model"])


def _profiles_of(workspace: Workspace, embeddings: Artifact) -> Artifact | None:
    return artifacts.find(workspace, "profiles", embeddings.manifest["parents"]["profiles"])


def measure(connection: DuckDBPyConnection, settings: Settings, sets: Sets) -> list[Measured]:
    """Rows of `embedding_norm` (user and item profiles, item texts) and `embedding_shift` (user and item profiles)."""
    piles = _piles(connection, settings, sets)
    if sets.current:
        _fill(settings.paths, _encoder(sets.current), piles)
    health = settings.health
    norms = [
        Measured(
            "embedding_norm",
            subject,
            piles[subject].worst if subject in piles else None,
            None,
            health.max_norm_error,
            "A vector is not of length one, so cosines are wrong: delete the embeddings artifacts and run `reclm profile`.",
            f"No {subject} has a vector." if sets.current else NO_VECTORS,
        )
        for subject in (*(f"{kind} profile" for kind in KINDS), "item text")
    ]
    shifts = [
        Measured(
            "embedding_shift",
            f"{kind} profile",
            _shift(piles.get(f"{kind} profile"), piles.get(f"{kind} profile before")),
            None,
            health.max_embedding_shift,
            "Profiles say something else than before: look at some of them, then train the recommenders again.",
            sets.alone or f"No {kind} profile has a vector in both sets.",
        )
        for kind in KINDS
    ]
    return norms + shifts


def _piles(connection: DuckDBPyConnection, settings: Settings, sets: Sets) -> Mapping[str, Pile]:
    from reclm.health.profiles import current

    piles: dict[str, Pile] = {}
    written = {"": current(settings.paths), " before": sets.before and _profiles_of(settings.paths, sets.before)}
    for suffix, profiles in written.items():
        if profiles is None:
            continue
        for kind in KINDS:
            file = str(profiles.path / f"{kind}_profiles.parquet")
            piles[f"{kind} profile{suffix}"] = _pile(connection.execute(OF_PROFILES, [file]).fetchall())
    piles["item text"] = _pile(connection.execute(OF_ITEMS).fetchall())
    return piles


def _pile(rows: list[tuple[str, int]]) -> Pile:
    return Pile(pa.array([row[0] for row in rows], pa.string()), np.array([row[1] for row in rows], dtype=np.int64))


def _fill(workspace: Workspace, encoder: str, piles: Mapping[str, Pile]) -> None:
    for artifact in artifacts.all_of(workspace, "embeddings"):
        if _encoder(artifact) != encoder:
            continue
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            table = pq.read_table(shard, columns=["text_hash", "embedding"])
            if not len(table):
                continue
            vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for pile in piles.values():
                pile.add(table["text_hash"].combine_chunks(), vectors.reshape(len(table), -1))


def _shift(now: Pile | None, before: Pile | None) -> float | None:
    """One minus the cosine of the two means; every entity counts once."""
    if now is None or before is None or now.total is None or before.total is None:
        return None
    return float(1 - now.total @ before.total / (np.linalg.norm(now.total) * np.linalg.norm(before.total)))
