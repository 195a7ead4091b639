"""Read everything that the report shows.

In: the published warehouse, read-only, and the records of the workspace. Out: plain rows. A table that does not exist
yet is read as empty; the page then says "not available".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from reclm.errors import WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage import artifacts, runs
from reclm.storage.artifacts import Artifact
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.reading import connect
from reclm.warehouse.sources import current_profiles

ZERO_SHOT_ITEMS = "zero-shot items"
COUNTED = {
    "interactions": "int_interactions",
    "users": "dim_users",
    "items": "dim_items",
    ZERO_SHOT_ITEMS: "dim_items where is_zero_shot",
    "items held out while models are selected": "dim_items where is_pseudo_cold",
    "interactions known at the test cut-off": "fct_known_interactions where snapshot = 'final'",
    "full-shot test interactions": "fct_truth where snapshot = 'final' and setting = 'full_shot'",
    "zero-shot test interactions": "fct_truth where snapshot = 'final' and setting = 'zero_shot'",
}
QUARANTINES = ("interactions", "items", "users")
SHOWN_RUNS = 60

Row = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Everything that the page shows, as plain rows.

    `champion` is the pointer to the model that serves, None before a promotion; `promotions` are the decisions,
    oldest first.
    """

    dataset: Mapping[str, Any]
    counts: Sequence[Row]
    quarantine: Sequence[Row]
    results: Sequence[Row]
    bands: Sequence[Row]
    comparisons: Sequence[Row]
    curves: Sequence[Row]
    quality: Sequence[Row]
    promotions: Sequence[Row]
    champion: Mapping[str, Any] | None
    profile_engine: str
    runs: Sequence[Row]
    artifacts: Sequence[Row]
    packages: Mapping[str, str]
    evaluation: Artifact | None


def read(settings: Settings) -> Sources:
    """Read all of it. Raises WorkspaceError when nothing has been ingested or built."""
    dataset = settings.paths.require_dataset()
    with connect(settings) as connection:
        tables = _tables(connection)
        counts = [{"what": what, "rows": _count(connection, tables, source)} for what, source in COUNTED.items()]
        quarantine = _quarantine(connection, tables)
        marts = {
            name: _all(connection, tables, name)
            for name in ("fct_evaluation", "fct_evaluation_bands", "fct_comparisons", "fct_training_curves")
        }
        quality = _all(connection, tables, "fct_profile_quality")
        promotions = _all(connection, tables, "fct_promotions")
    newest = artifacts.all_of(settings.paths, "evaluation")
    stored = [artifact for kind in artifacts.KINDS for artifact in artifacts.all_of(settings.paths, kind)]
    return Sources(
        dataset=dataset,
        counts=[row for row in counts if row["rows"] is not None],
        quarantine=quarantine,
        results=marts["fct_evaluation"],
        bands=marts["fct_evaluation_bands"],
        comparisons=marts["fct_comparisons"],
        curves=marts["fct_training_curves"],
        quality=[row for row in quality if row.get("is_current", True)],
        promotions=sorted(promotions, key=lambda row: row["decided_at"]),
        champion=read_json(settings.paths.champion) if settings.paths.champion.exists() else None,
        profile_engine=_profile_engine(settings.paths),
        runs=_runs(settings.paths),
        artifacts=[_about(artifact) for artifact in stored],
        packages=stored[-1].manifest["packages"] if stored else {},
        evaluation=newest[-1] if newest else None,
    )


def _tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    rows = connection.execute("select table_name from information_schema.tables where table_schema = 'main'").fetchall()
    return {row[0] for row in rows}


def _count(connection: duckdb.DuckDBPyConnection, tables: set[str], source: str) -> int | None:
    if source.split()[0] not in tables:
        return None
    return int(connection.execute(f"select count(*) from {source}").fetchall()[0][0])


def _all(connection: duckdb.DuckDBPyConnection, tables: set[str], table: str) -> list[Row]:
    if table not in tables:
        return []
    cursor = connection.execute(f"select * from {table}")
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _quarantine(connection: duckdb.DuckDBPyConnection, tables: set[str]) -> list[Row]:
    rows: list[Row] = []
    for table in QUARANTINES:
        if f"quarantine_{table}" in tables:
            found = connection.execute(
                f"select reason, any_value(remedy), count(*), min(source_file), min(source_row) "
                f"from quarantine_{table} group by reason order by count(*) desc, reason"
            ).fetchall()
            names = ("reason", "remedy", "rows", "file", "row")
            rows += [{"table": table} | dict(zip(names, row, strict=True)) for row in found]
    return rows


def _profile_engine(workspace: Workspace) -> str:
    if not artifacts.all_of(workspace, "profiles"):
        return ""
    return str(current_profiles(workspace)[0].manifest["parameters"]["engine"])


def _runs(workspace: Workspace) -> list[Row]:
    """The newest stage runs, oldest first."""
    try:
        return runs.history(workspace)[-SHOWN_RUNS:]
    except WorkspaceError:  # the report may be written in a workspace whose records were cleared
        return []


def _about(artifact: Artifact) -> Row:
    manifest = artifact.manifest
    scalars = {
        key: value
        for key, value in manifest["parameters"].items()
        if isinstance(value, str | int | float) and value != ""
    }
    return {
        "kind": artifact.kind,
        "version": artifact.version,
        "created_at": manifest["created_at"][:19].replace("T", " "),
        "seconds": manifest["seconds"],
        "parameters": ", ".join(f"{key}={value}" for key, value in scalars.items()),
        "parents": len(manifest["parents"]),
    }
