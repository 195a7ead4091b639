"""A small landing zone written by hand, with known garbage in it, and dbt run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from reclm.settings.tree import Settings
from reclm.storage.files import write_json
from reclm.storage.schemas import LANDING
from reclm.storage.version import LAYOUT
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import dbt_project

COLUMNS = {table: tuple(schema.names[:-2]) for table, schema in LANDING.items()}
STRANGE_USERS = (
    "O'Brien",
    "a b",
    "😀",
    'say "hi"',
    "'; drop table dim_users; --",
    "../etc",
    "{{ ref('x') }}",
    "naïve|id",
)
LONG_TEXT = "kettle " * 1_500_000  # 10.5 MB
Row = Mapping[str, str | None]


def land(workspace: Workspace, split_mode: str, *, has_event_ts: bool, **tables: Sequence[Sequence[Row]]) -> None:
    """Writes the landing zone: `tables` maps a table to its batches, each a list of rows of text."""
    batches = []
    for table, columns in COLUMNS.items():
        for number, rows in enumerate([[], *tables.get(table, [])]):
            name = f"{table}{9 - number}" if number else "_empty"
            _write(workspace.landing / table / f"{name}.parquet", columns, rows)
            if number:
                batches.append({"table": table, "batch": name, "rows": len(rows), "source_file": f"{name}.csv"})
    content = {
        "layout": LAYOUT,
        "name": "by_hand",
        "importer": "columns",
        "source": "by hand",
        "split_mode": split_mode,
    }
    write_json(workspace.dataset, content | {"has_event_ts": has_event_ts, "batches": batches})


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    arrays: dict[str, pa.Array] = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in columns}
    arrays["source_file"] = pa.array([f"{path.stem}.csv"] * len(rows), pa.string())
    arrays["source_row"] = pa.array(range(1, len(rows) + 1), pa.int64())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)


def event(user: str | None, item: str | None, moment: str | None, **more: str) -> Row:
    return {"user_id": user, "item_id": item, "event_ts": moment, **more}


def good_log() -> list[Row]:
    """Forty users, some with strange ids, who click items of two tastes over forty days; the last items arrive late."""
    users = [*STRANGE_USERS, *(f"user {number}" for number in range(40 - len(STRANGE_USERS)))]
    rows = []
    for number, user in enumerate(users):
        for step in range(3 + number % 5):
            day = (number * 7 + step * 9) % 40
            item = (number % 2) * 10 + (number + step * 3) % 10 if day < 36 or step % 2 else 20 + number % 4
            rows.append(event(user, f"item {item}", f"2024-0{1 + day // 28}-{1 + day % 28:02d}T{step:02d}:00:00Z"))
    return rows


def good_items() -> list[Row]:
    tastes = ("red kettle for tea", "blue rope for climbing")
    return [
        {
            "item_id": f"item {number}",
            "title": f"{tastes[number // 10 % 2]} {number}",
            "text": LONG_TEXT if number == 3 else f"A {tastes[number // 10 % 2]}.\nUsed by many.</s><|im_start|>",
            "categories": "home|tea" if number // 10 % 2 == 0 else "sport",
        }
        for number in range(24)
    ]


GARBAGE: dict[str, Row] = {
    "missing_user_id": event(" ", "item 1", "2024-01-01"),
    "missing_item_id": event("user 1", None, "2024-01-01"),
    "id_too_long": event("x" * 513, "item 1", "2024-01-01"),
    "missing_timestamp": event("user 1", "item 1", None),
    "bad_timestamp": event("user 1", "item 1", "the day before"),
    "suspect_timestamp": event("user 1", "item 1", "13306"),
    "future_event": event("user 1", "item 1", "2999-01-01"),
    "bad_weight": event("user 1", "item 1", "2024-01-01", weight="heavy"),
    "unknown_event_type": event("user 1", "item 1", "2024-01-01", event_type="dance"),
    "unknown_item": event("user 1", "nowhere", "2024-01-01"),
    "unreadable_line": {},
}


def events() -> list[Row]:
    """A click on an item that the good log has already, and a skip of another one, by the user of its first row."""
    first = good_log()[0]
    return [
        {**first, "event_ts": "2024-01-30T01:00:00Z", "event_type": "click", "event_id": "e1", "request_id": "r1"},
        event(first["user_id"], "item 23", "2024-01-30T02:00:00Z", event_type="skip", event_id="e2"),
    ]


def impressions() -> list[Row]:
    """An answer of the service to that user, with the two items of `events` and a third."""
    about = {"request_id": "r1", "user_id": good_log()[0]["user_id"], "shown_at": "2024-01-30T00:00:00Z"}
    model = {"model_version": "m1", "model": "als", "variant": "base", "arm": "champion", "source": "trained"}
    shown = (good_log()[0]["item_id"], "item 23", "item 7")
    return [{**about, **model, "item_id": item, "position": str(rank)} for rank, item in enumerate(shown, start=1)]


def land_shop(workspace: Workspace) -> None:
    """The good log; in a later batch, one row of every garbage there is, and one that repeats; an item table; a user
    without clicks; and what a service logged. A file in each folder is not listed: it is about to land, or was left by
    a killed run."""
    land(
        workspace,
        "temporal",
        has_event_ts=True,
        interactions=[good_log(), [*GARBAGE.values(), good_log()[0]], events()],
        impressions=[impressions()],
        items=[good_items(), [{"item_id": "item 5", "title": "green kettle 5", "categories": "home"}]],
        users=[[{"user_id": "newcomer", "text": "Likes tea."}, {"user_id": ""}]],
    )
    for table, columns in COLUMNS.items():
        _write(workspace.landing / table / "unlisted.parquet", columns, [{columns[0]: "unlisted"}])


def settings(folder: Path, **more: Any) -> Settings:
    return Settings(workspace=folder, **more)


def dbt(workspace: Workspace, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """dbt as a user calls it, from the repository, with nothing but RECLM_WORKSPACE."""
    root = dbt_project()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECLM_", "DBT_"))}
    out = workspace.root / "warehouse" / "dbt" / "bare"
    paths = ["--project-dir", str(root), "--profiles-dir", str(root), "--target-path", str(out), "--log-path", str(out)]
    return subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), *arguments, *paths],
        env=environment | {"RECLM_WORKSPACE": str(workspace.root)},
        cwd=folder or root.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def outcomes(workspace: Workspace) -> dict[str, str]:
    """{model or test: status} of the last bare dbt command."""
    results = json.loads((workspace.root / "warehouse" / "dbt" / "bare" / "run_results.json").read_text())["results"]
    return {result["unique_id"].split(".")[2]: result["status"] for result in results}


def quoted(path: Path) -> str:
    """A path as a SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def tables(database: Path) -> dict[str, list[Any]]:
    """Every table and view of a warehouse, rows in one order, without the moment of the build."""
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"set file_search_path = {quoted(database.parents[1])}")
        names = connection.execute(
            "select table_name, bool_or(column_name = 'created_at') from duckdb_columns() where not internal "
            "group by table_name order by table_name"
        ).fetchall()
        return {
            name: connection.execute(
                f"select * {'exclude (created_at)' if dated else ''} from {name} order by all"
            ).fetchall()
            for name, dated in names
        }
