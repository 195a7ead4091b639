"""Copy the rows of a file into a parquet file, and set apart the lines that cannot be read.

In: a file, and SQL over its relation. Out: a parquet file of rows, and one of the lines that are none, each with the
row it would have been, why, and its own text. Lines of any length and mixed line ends are read; a file of which more
than single lines cannot be read raises InputError.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from reclm.errors import InputError
from reclm.ingest.files import LONGEST_LINES, MOST_UNREADABLE, LogFile, quote_text
from reclm.progress import say

REJECTS = "reclm_rejects"
PARQUET = "(format parquet, compression zstd)"
TEXT = "trim(csv_line, chr(10) || chr(13))"
LONGEST_TEXT = 2000
"""Characters kept of a line that cannot be read."""


def copy_to(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    con.execute(f"copy ({query}) to {quote_text(str(path))} {PARQUET}").fetchall()


def count_rows(con: duckdb.DuckDBPyConnection, path: Path, column: str = "*") -> int:
    query = f"select count({column}) from read_parquet({quote_text(str(path))})"
    return int(con.execute(query).fetchall()[0][0])


def copy_rows(
    con: duckdb.DuckDBPyConnection,
    file: LogFile,
    table: str,
    sql: Callable[[str], str],
    path: Path,
    unreadable: Path,
) -> int:
    """Write `sql` of the file's relation to `path`; return how many lines could not be read.

    Those lines go to `unreadable`, which is not written when there are none; `table` is the landing table they would
    have been rows of. Raises InputError when the file, or more than single lines of it, cannot be read.
    """
    for note in file.notes:
        say(f"{file.name}: {note}")
    for copy in (None, path.with_suffix(".lines")):
        if copy:
            file.with_plain_line_ends(copy)
        try:
            for longest in LONGEST_LINES:
                _drop_rejects(con)
                copy_to(con, sql(file.relation(REJECTS, longest, copy)), path)
                if longest == LONGEST_LINES[-1] or not _has_longer_lines(con):
                    return _keep_unreadable(con, file, table, path, unreadable)
        except duckdb.Error as error:
            if copy or "invalid state" not in str(error):
                raise file.unreadable(error) from None
        finally:
            if copy:
                copy.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def with_unreadable(rows: str, unreadable: Path) -> str:
    """Return SQL of the rows, renumbered with the unreadable lines counted, and of those lines with null values."""
    return (
        f"with good as ({rows}), "
        "bad as (select source_file, source_row, row_number() over (order by source_row) as n_before "
        f"from {quote_text(str(unreadable))}), "
        "shifts as (select source_row - n_before as after_row, max(n_before) as shift from bad group by all), "
        "moved as (select good.* replace (good.source_row + coalesce(shift, 0) as source_row) "
        "from good asof left join shifts on good.source_row > shifts.after_row) "
        "from (from moved union all by name select source_file, source_row from bad) order by source_row"
    )


def _drop_rejects(con: duckdb.DuckDBPyConnection) -> None:
    for table in (REJECTS, f"{REJECTS}_scans"):
        con.execute(f"drop table if exists {table}").fetchall()


def _rejects(con: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """Query the lines of the last file that could not be read; DuckDB has a table of them for a CSV alone."""
    if not con.execute(f"select 1 from duckdb_tables() where table_name = '{REJECTS}'").fetchall():
        return []
    return con.execute(query).fetchall()


def _has_longer_lines(con: duckdb.DuckDBPyConnection) -> bool:
    return bool(_rejects(con, f"select 1 from {REJECTS} where error_type = 'LINE SIZE OVER MAXIMUM' limit 1"))


def _keep_unreadable(con: duckdb.DuckDBPyConnection, file: LogFile, table: str, path: Path, unreadable: Path) -> int:
    lines = _lines_of_json(con, file) if file.kind == "json" else _lines_of_csv(con, file, path)
    if not lines:
        return 0
    unreadable.parent.mkdir(exist_ok=True)
    about = f"'{table}' as \"table\", {quote_text(file.name)} as source_file"
    copy_to(con, f"select {about}, source_row, reason, left(line, {LONGEST_TEXT}) as line from ({lines})", unreadable)
    return count_rows(con, unreadable)


def _lines_of_json(con: duckdb.DuckDBPyConnection, file: LogFile) -> str:
    """Return SQL of the unreadable lines, '' when there are none."""
    if not file.unreadable_lines:
        return ""
    con.execute(f"create temporary table {REJECTS} (source_row bigint, reason varchar, line varchar)").fetchall()
    rows = [(line.row, line.reason, line.text) for line in file.unreadable_lines]
    con.executemany(f"insert into {REJECTS} values (?, ?, ?)", rows)
    return f"from {REJECTS}"


def _lines_of_csv(con: duckdb.DuckDBPyConnection, file: LogFile, path: Path) -> str:
    """Return SQL of the unreadable lines, '' when there are none. Raises InputError when they are too many."""
    worst = _rejects(
        con,
        "select line, any_value(error_message), "
        f"bool_or(contains({TEXT}, chr(10))) as runs_on, any_value({TEXT}), "
        f"(select count(distinct line) from {REJECTS}) "
        f"from {REJECTS} group by line order by runs_on desc, line limit 1",
    )
    if not worst:
        return ""
    line, reason, runs_on, text, n_lines = worst[0]
    if runs_on or n_lines > MOST_UNREADABLE * (count_rows(con, path) + n_lines):
        dialect = file.dialect
        raise InputError(
            f"{file.path}, line {line} cannot be read: {reason} ({n_lines:,} such lines): {text[:80]!r}. "
            f"Its fields were taken to be separated by {dialect.delimiter!r} and "
            f"{f'quoted by {dialect.quote!r}, escaped by {dialect.escape!r}' if dialect.quote else 'not quoted'}: "
            "if they are not, set data.delimiter, data.quote and data.escape; else fix the line, or export the file "
            "again as CSV in UTF-8 with quoted fields"
        )
    return (
        f"select line::bigint - {file.first_line - 1} as source_row, any_value(error_message) as reason, "
        f"any_value({TEXT}) as line from {REJECTS} group by line order by line"
    )
