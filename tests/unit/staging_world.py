"""The tables of staging as dbt leaves them, with the columns that counting reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

COLUMNS = {
    "user_id": "varchar",
    "item_id": "varchar",
    "status": "varchar",
    "reason": "varchar",
    "faulty_value": "varchar",
    "source_file": "varchar",
    "source_row": "bigint",
    "event_ts": "timestamptz",
    "time_form": "varchar",
    "text": "varchar",
}


def stage(connection: duckdb.DuckDBPyConnection, **tables: Sequence[dict[str, Any]]) -> None:
    """Makes the tables of staging; `tables` maps a landing table to its rows, numbered in the order given."""
    connection.execute("create or replace table stg_parameters as select 'temporal' as split_mode")
    connection.execute(
        "create or replace table quarantine_reasons (table_name varchar, reason varchar, remedy varchar)"
    )
    for table in ("interactions", "items", "users"):
        kinds = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        connection.execute(f"create or replace table base_{table} ({kinds})")
        for number, row in enumerate(tables.get(table, ()), start=1):
            cells = {"status": "accepted", "source_file": "log.csv", "source_row": number} | row
            marks = ", ".join("?" * len(cells))
            connection.execute(f"insert into base_{table} ({', '.join(cells)}) values ({marks})", [*cells.values()])
        connection.execute(
            f"insert into quarantine_reasons select distinct '{table}', reason, 'Mend ' || reason || '.' "
            f"from base_{table} where reason is not null"
        )


def faulty(reason: str, value: str | None, **cells: Any) -> dict[str, Any]:
    """A row that is set apart."""
    return {"status": "quarantined", "reason": reason, "faulty_value": value, **cells}
