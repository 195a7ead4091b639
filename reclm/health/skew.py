"""Do training and serving see the same: a sample of every published view comes in, offline against online, rows that differ.

The fingerprint of an offline row (`row_hash`) is held against the fingerprint of the values that a reader is served,
worked out anew: the one that stands in the online store beside them would not tell of a value that was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reclm.features import online, store
from reclm.features.checks import TIMESTAMP, ViewSchema, newest, stamped
from reclm.health.measured import Measured
from reclm.storage.files import read_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

NAME = "train_serve_skew"
REMEDY = (
    "Online differs from what models are trained on: run `reclm publish`, or promote the model of the vectors again."
)


@dataclass(frozen=True)
class Skew:
    """{view: [rows that differ, rows compared]}, or why nothing could be compared."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    unknown: str = ""

    def measured(self) -> list[Measured]:
        """One row a view that has rows."""
        if not self.counts:
            return [Measured(NAME, "all views", None, None, 0.0, REMEDY, self.unknown)]
        return [
            Measured(NAME, view, differ / compared, None, 0.0, REMEDY)
            for view, (differ, compared) in self.counts.items()
        ]


def compare(settings: Settings, sample: int) -> Skew:
    """Up to `sample` rows of each published view and of the champion's vectors, drawn by the seed.

    Waits for a publish that is under way. Raises WorkspaceError when a Redis server does not answer.
    """
    workspace = settings.paths
    if not (workspace.feast / "published.json").exists():
        return Skew(unknown="Nothing is published; run `reclm publish`.")
    with store.writing(workspace):
        if not store.is_applied(settings):
            return Skew(unknown="The feature store has yet to take the current definitions; run `reclm publish`.")
        feast, schemas = store.open_store(settings), store.schemas(settings)
        counts = {}
        for view, file in _files(settings):
            rows = _sampled(newest(schemas[view], pq.read_table(file)), sample, settings.seed)
            if rows.num_rows:
                counts[view] = [_differing(feast, schemas[view], rows), rows.num_rows]
    return Skew(counts, "" if counts else "What is published has no rows.")


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    workspace = settings.paths
    for view in read_json(workspace.feast / "published.json")["views"]:
        yield view, store.offline_path(workspace) / "current" / f"{view}.parquet"
    if workspace.champion.exists():
        version = read_json(workspace.champion)["version"]
        for side in store.SIDES:
            file = store.vector_file(workspace, side, version)
            if file.exists():
                yield f"{side}_fused", file


def _sampled(table: pa.Table, size: int, seed: int) -> pa.Table:
    if table.num_rows <= size:
        return table
    rows = np.random.default_rng(seed).choice(table.num_rows, size, replace=False)
    return table.take(pa.array(np.sort(rows)))


def _differing(feast: store.Store, schema: ViewSchema, rows: pa.Table) -> int:
    keys = list(zip(*(rows[key].to_pylist() for key in schema.keys), strict=True))
    served = online.rows_of(feast, schema.name, keys, list(schema.features))
    there = [place for place, row in enumerate(served) if row is not None]
    hashes = _hashes(schema, [keys[place] for place in there], [served[place] or {} for place in there])
    expected = rows["row_hash"].to_pylist()
    return len(keys) - sum(expected[place] == found for place, found in zip(there, hashes, strict=True))


def _hashes(schema: ViewSchema, keys: Sequence[online.Key], served: Sequence[dict[str, Any]]) -> list[str]:
    """The fingerprints of rows as they are served."""
    as_of = pa.array([row["as_of_us"].int64_val for row in served], pa.int64()).cast(TIMESTAMP)
    columns: dict[str, pa.Array] = {
        key: pa.array([parts[place] for parts in keys], pa.string()) for place, key in enumerate(schema.keys)
    }
    columns |= {"as_of": as_of, "created_at": as_of}
    columns |= {name: pa.array([_plain(row[name]) for row in served], kind) for name, kind in schema.features.items()}
    return list(stamped(schema, pa.table(columns))["row_hash"].to_pylist())


def _plain(value: Any) -> Any:
    """What a protobuf value holds; None when it holds nothing."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    held = getattr(value, kind)
    return list(held.val) if kind.endswith("_list_val") else held
