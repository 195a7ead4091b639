"""Check train-serve skew: compare the offline rows of each published view with the online rows.

In: a sample of every published view. Out: the share of rows that differ, one result per view. The stored fingerprint of
an offline row (`row_hash`) is compared with a fingerprint computed from the values that the online store returns; the
fingerprint stored online would not show that a value beside it was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS
from reclm.features import online, store
from reclm.features.row_checks import TIMESTAMP, ViewSchema, add_stamps, latest_rows
from reclm.health.check_result import CheckResult
from reclm.storage.files import read_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

NAME = "train_serve_skew"
REMEDY = (
    "Online differs from what models are trained on: run `reclm publish`, or promote the model of the vectors again."
)


@dataclass(frozen=True)
class Skew:
    """The comparison of all views.

    `counts` is {view: [rows that differ, rows compared]}; `unknown` says why it is empty.
    """

    counts: dict[str, list[int]] = field(default_factory=dict)
    unknown: str = ""

    def results(self) -> list[CheckResult]:
        """Return one result per view that has rows."""
        if not self.counts:
            return [CheckResult(NAME, "all views", None, None, 0.0, REMEDY, self.unknown)]
        return [
            CheckResult(NAME, view, differ / compared, None, 0.0, REMEDY)
            for view, (differ, compared) in self.counts.items()
        ]


def compare(settings: Settings, sample: int) -> Skew:
    """Compare up to `sample` rows of each published view and of the champion's vectors, drawn with the seed.

    Waits for a publish that is running. Raises WorkspaceError when a Redis server does not answer.
    """
    workspace = settings.paths
    if not (workspace.feast / "published.json").exists():
        return Skew(unknown="Nothing is published; run `reclm publish`.")
    with store.writing(workspace):
        if not store.is_applied(settings):
            return Skew(unknown="The current definitions are not applied to the feature store; run `reclm publish`.")
        feast, schemas = store.open_store(settings), store.schemas(settings)
        counts = {}
        for view, file in _offline_files(settings):
            rows = _sample(latest_rows(schemas[view], pq.read_table(file)), sample, settings.seed)
            if rows.num_rows:
                counts[view] = [_differing(feast, schemas[view], rows), rows.num_rows]
    return Skew(counts, "" if counts else "The published views have no rows.")


def _offline_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    workspace = settings.paths
    for view in read_json(workspace.feast / "published.json")["views"]:
        yield view, store.offline_path(workspace) / "current" / f"{view}.parquet"
    if workspace.champion.exists():
        version = read_json(workspace.champion)["version"]
        for side in ENTITY_KINDS:
            file = store.vector_file(workspace, side, version)
            if file.exists():
                yield f"{side}_fused", file


def _sample(table: pa.Table, size: int, seed: int) -> pa.Table:
    if table.num_rows <= size:
        return table
    rows = np.random.default_rng(seed).choice(table.num_rows, size, replace=False)
    return table.take(pa.array(np.sort(rows)))


def _differing(feast: store.Store, schema: ViewSchema, rows: pa.Table) -> int:
    keys = list(zip(*(rows[key].to_pylist() for key in schema.keys), strict=True))
    served = online.rows_of(feast, schema.name, keys, list(schema.features))
    present = [index for index, row in enumerate(served) if row is not None]
    found = [served[index] or {} for index in present]
    hashes = _hashes(schema, [keys[index] for index in present], found)
    expected, as_of = rows["row_hash"].to_pylist(), rows["as_of_us"].to_pylist()
    same = sum(
        expected[index] == row_hash and row["as_of_us"].int64_val <= as_of[index]  # earlier where it has not changed
        for index, row_hash, row in zip(present, hashes, found, strict=True)
    )
    return len(keys) - same


def _hashes(schema: ViewSchema, keys: Sequence[online.Key], served: Sequence[dict[str, Any]]) -> list[str]:
    """The fingerprints of rows with the values that the online store returned."""
    as_of = pa.array([row["as_of_us"].int64_val for row in served], pa.int64()).cast(TIMESTAMP)  # not in the hash
    columns: dict[str, pa.Array] = {
        key: pa.array([parts[position] for parts in keys], pa.string()) for position, key in enumerate(schema.keys)
    }
    columns |= {"as_of": as_of, "created_at": as_of}
    columns |= {
        name: pa.array([_python_value(row[name]) for row in served], kind) for name, kind in schema.features.items()
    }
    return list(add_stamps(schema, pa.table(columns))["row_hash"].to_pylist())


def _python_value(value: Any) -> Any:
    """Convert a protobuf value; None when it is unset."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    content = getattr(value, kind)
    return list(content.val) if kind.endswith("_list_val") else content
