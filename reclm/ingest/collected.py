"""Land what services have logged: events of people, and the impressions they answer.

In: segments in the folder `events` of the workspace, one JSON object a line. Out: one landed batch per segment. A
segment is closed, landed under the hash of its content, and deleted after `dataset.json` lists it. A run that was
killed in between is completed by the next one: a batch that is listed already is not landed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from reclm.ingest.columns import drawn_split
from reclm.ingest.files import SourceFile, quote_text
from reclm.ingest.landing import Batch, Plan, Table, land
from reclm.settings.tree import Settings
from reclm.storage.locks import alone
from reclm.storage.segments import close_segments

SHOWN = "STRUCT(position VARCHAR, item_id VARCHAR, score VARCHAR, propensity VARCHAR, arm VARCHAR)[]"
LINES: Mapping[Table, Mapping[str, str]] = {
    "interactions": dict.fromkeys(
        ("event_id", "event_type", "user_id", "item_id", "event_ts", "weight", "request_id"), "VARCHAR"
    ),
    "impressions": dict.fromkeys(
        ("request_id", "user_id", "shown_at", "model_version", "model", "variant", "source"), "VARCHAR"
    )
    | {"items": SHOWN},
}
"""{landing table: {field of a line: DuckDB type}}."""
ROWS: Mapping[Table, str] = {
    "interactions": "select * from source",
    "impressions": "select source.* exclude (items), unnest(items, recursive := true) from source",
}


@dataclass(frozen=True)
class Segment(SourceFile):
    """A closed segment as the source of a batch. A line that is no JSON becomes an empty row, for the quarantine."""

    fields: Mapping[str, str]

    @property
    def reading(self) -> dict[str, Any]:
        return {"fields": dict(self.fields)}

    def register(self, con: duckdb.DuckDBPyConnection) -> str:
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in self.fields.items())
        return (
            f"read_json({quote_text(str(self.path))}, columns = {{{columns}}}, format = 'newline_delimited', "
            "ignore_errors = true)"
        )


def land_collected(settings: Settings) -> dict[str, Any]:
    """Land everything that services have logged until now; return the content of `dataset.json`.

    Safe beside running services. Raises WorkspaceError when nothing has been ingested.
    """
    workspace = settings.paths
    dataset = workspace.require_dataset()
    with alone(workspace.locks / "events.lock", "another process lands the events", workspace.lock_timeout):
        batches = [
            _batch(settings, table, path, dataset["split_mode"])
            for table in LINES
            for path in close_segments(workspace.events / table)
        ]
        if not batches:
            return dataset
        about = {key: dataset[key] for key in ("name", "importer", "source")}
        dataset = land(settings, Plan(dataset["split_mode"], batches), **about, delivery=True)
        for batch in batches:
            assert isinstance(batch.source, Segment)
            batch.source.path.unlink()
    return dataset


def _batch(settings: Settings, table: Table, path: Path, split_mode: str) -> Batch:
    segment = Segment(path, LINES[table])
    columns = {name: name for name in LINES[table] if name != "items"}
    if table == "impressions":
        columns |= {name: name for name in ("item_id", "score", "propensity", "arm", "position")}
    elif split_mode == "assigned":
        columns["split"] = drawn_split(settings, "user_id", "item_id")
    return Batch(table, segment, columns, rows=ROWS[table], collected=True)
