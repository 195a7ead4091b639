"""SQL for people: a statement comes in, rows of the published warehouse go out; and the tables' documentation as a page.

The published copy is opened read-only and, for a session, afresh with each statement, so a build that ends meanwhile is
seen by the next one. Files, extensions and the network are out of reach: a query that was mailed round cannot read more
than the tables.
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
AT_ONCE = 1000
NARROWEST = 12


def show(settings: Settings, query: str, output: Output) -> None:
    """Runs one statement and prints its rows. Raises InputError with DuckDB's own words when it cannot."""
    import duckdb

    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        try:
            answer = connection.execute(query)
            columns = [column[0] for column in answer.description or []]
            WRITERS[output](columns, answer)
        except duckdb.Error as error:
            raise InputError(f'{error}; the tables: reclm sql "show tables"') from None


def prompt(settings: Settings, output: Output) -> None:
    """Reads statements, each ending with `;`, until end of input or `exit`."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (history and editing for input())
    people = sys.stdin.isatty()
    if people:
        print("Statements end with ;  `show tables;` lists the tables, `describe TABLE;` its columns, `exit` ends.")
    statement = ""
    while True:
        try:
            line = input(("reclm> " if not statement else "   ... ") if people else "")
        except EOFError:
            break
        if not statement and line.strip().rstrip(";").lower() in ("exit", "quit"):
            return
        statement = f"{statement}\n{line}".strip()
        if statement.endswith(";"):
            try:
                show(settings, statement, output)
            except InputError as error:
                if not people:
                    raise
                print(f"error: {error}", file=sys.stderr)
            statement = ""
    if statement:
        show(settings, statement, output)


def _table(columns: list[str], answer: duckdb.DuckDBPyConnection) -> None:
    rows = [[_text(value) for value in row] for row in answer.fetchall()]
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    room = max(shutil.get_terminal_size().columns - 2 * (len(columns) - 1), NARROWEST * len(columns))
    while sum(widths) > room and max(widths) > NARROWEST:
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


def _csv(columns: list[str], answer: duckdb.DuckDBPyConnection) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    while rows := answer.fetchmany(AT_ONCE):
        writer.writerows(rows)


def _json(columns: list[str], answer: duckdb.DuckDBPyConnection) -> None:
    while rows := answer.fetchmany(AT_ONCE):
        for row in rows:
            cells = [None if isinstance(value, float) and not math.isfinite(value) else value for value in row]
            print(json.dumps(dict(zip(columns, cells, strict=True)), default=str, ensure_ascii=False))


WRITERS: dict[str, Any] = {"table": _table, "csv": _csv, "json": _json}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(character if character.isprintable() else " " for character in text)  # a terminal obeys escapes


def serve_page(page: Path, port: int) -> None:
    """Serves one file on loopback until Ctrl-C. Raises SettingsError when the port is taken."""

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
