"""Run SQL on the published warehouse and print the rows; and serve the documentation of the tables as a page.

The published copy is opened read-only for each statement, so a statement sees a build that has ended in the meantime.
Files, extensions and the network cannot be reached: a query from somebody else reads the tables and nothing more.
"""

from __future__ import annotations

import csv
import functools
import http.server
import json
import math
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclm.errors import InputError, SettingsError

if TYPE_CHECKING:
    import duckdb

    from reclm.settings.tree import Settings

Output = Literal["table", "csv", "json"]
FETCH_SIZE = 1000
MIN_COLUMN_WIDTH = 12


def show(settings: Settings, query: str, output: Output) -> None:
    """Run one statement and print its rows. Raises InputError with DuckDB's message when it fails."""
    import duckdb

    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        try:
            result = connection.execute(query)
            columns = [column[0] for column in result.description or []]
            WRITERS[output](columns, result)
        except duckdb.Error as error:
            raise InputError(f'{error}; the tables: reclm sql "show tables"') from None


def shell(settings: Settings, output: Output) -> None:
    """Read and run statements, each ending with `;`, until the end of the input or `exit`."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (history and editing for input())
    interactive = sys.stdin.isatty()
    if interactive:
        print("Statements end with ;  `show tables;` lists the tables, `describe TABLE;` its columns, `exit` ends.")
    statement = ""
    while True:
        try:
            line = input(("reclm> " if not statement else "   ... ") if interactive else "")
        except EOFError:
            break
        if not statement and line.strip().rstrip(";").lower() in ("exit", "quit"):
            return
        statement = f"{statement}\n{line}".strip()
        if statement.endswith(";"):
            try:
                show(settings, statement, output)
            except InputError as error:
                if not interactive:
                    raise
                print(f"error: {error}", file=sys.stderr)
            statement = ""
    if statement:
        show(settings, statement, output)


def _table(columns: list[str], result: duckdb.DuckDBPyConnection) -> None:
    rows = [[_text(value) for value in row] for row in result.fetchall()]
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    available = max(shutil.get_terminal_size().columns - 2 * (len(columns) - 1), MIN_COLUMN_WIDTH * len(columns))
    while sum(widths) > available and max(widths) > MIN_COLUMN_WIDTH:
        widths[widths.index(max(widths))] -= 1

    def line(cells: list[str]) -> str:
        cut = [
            cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)
        ]
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(cut, widths, strict=True)).rstrip()

    print(line(columns))
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row))
    print(f"({len(rows):,} row{'' if len(rows) == 1 else 's'})")


def _csv(columns: list[str], result: duckdb.DuckDBPyConnection) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    while rows := result.fetchmany(FETCH_SIZE):
        writer.writerows(rows)


def _json(columns: list[str], result: duckdb.DuckDBPyConnection) -> None:
    while rows := result.fetchmany(FETCH_SIZE):
        for row in rows:
            cells = [None if isinstance(value, float) and not math.isfinite(value) else value for value in row]
            print(json.dumps(dict(zip(columns, cells, strict=True)), default=str, ensure_ascii=False))


WRITERS: dict[str, Any] = {"table": _table, "csv": _csv, "json": _json}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(element) for element in value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(
        character if character.isprintable() else " " for character in text
    )  # escape sequences would control the terminal


def serve_page(page: Path, port: int) -> None:
    """Serve one file on the local host until Ctrl-C. Raises SettingsError when the port is taken."""

    class OnePage(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.path = f"/{page.name}"
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(OnePage, directory=str(page.parent))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        raise SettingsError(f"port {port} is taken; choose another with --port") from None
    with server:
        print(f"page      http://127.0.0.1:{server.server_address[1]}/\nstop      Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
