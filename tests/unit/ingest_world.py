"""A small log and what was landed of it, for the tests of ingestion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from reclm.settings.tree import Settings

Make = Callable[..., Settings]
LOG = "user_id,item_id,event_ts\nann,tea,2025-01-01\nbob,tea,2025-01-02\n"
ODD_IDS = (
    " two  blanks ",
    "O'Brien",
    'say "hi"',
    "naïve ☕🏕️",
    "'; drop table users; --",
    "a,b",
    "007",
    "NULL",
    "a\\b",
    "x|y",
)


def landed(settings: Settings, table: str, columns: str = "*", where: str = "true") -> list[tuple[Any, ...]]:
    pattern = settings.workspace / "landing" / table / "*.parquet"
    query = f"select {columns} from read_parquet('{pattern}') where {where} order by source_file, source_row"
    return duckdb.connect().execute(query).fetchall()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


def landed_shares(settings: Settings) -> list[tuple[str, int]]:
    pattern = settings.workspace / "landing/interactions/*.parquet"
    return duckdb.connect().execute(f"select split, count(*) from '{pattern}' group by split").fetchall()
