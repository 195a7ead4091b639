"""Run SQL on the published warehouse and print the rows; and serve the documentation of the tables as a page.

The published copy is opened read-only for each statement, so a statement sees a build that has ended in the meantime.
Other files, extensions and the network cannot be reached: a query from somebody else reads the tables and nothing more.
"""

from __future__ import annotations

import functools
import http.server
import json
import math
import shutil
import sys
from contextlib import closing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclm.errors import InputError, ReclmError, SettingsError

if TYPE_CHECKING:
    import duckdb

    from reclm.settings.tree import Settings

Output = Literal["table", "csv", "json"]
FETCH_SIZE = 1000
MIN_COLUMN_WIDTH = 12
NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
ESCAPE = ord("\\")
WRITE_FILES = {"COPY", "COPY_DATABASE", "EXPORT"}
"""Types of statements that may write files where files may be read."""
REFUSED = {
    "read-only mode": "the published warehouse is for reading: dbt alone writes tables, and every build replaces them",
    "disabled by configuration": "a query reads the tables of the warehouse, and no file",
    "disabled through configuration": "a query uses what is in the warehouse, and no extension",
    "configuration has been locked": "the options of the database are fixed for queries",
}
"""{words of DuckDB's message: why the statement is refused}."""


def show(settings: Settings, query: str, output: Output) -> None:
    """Run one statement and print its rows. Raises InputError, with DuckDB's message, when it cannot be run."""
    statements = _statements(query)
    if len(statements) != 1:
        given = f"{len(statements)} statements were given" if statements else f"there is no statement in {query!r}"
        raise InputError(f"{given}; give one, or open the shell, which takes several: `reclm sql`")
    _run(settings, statements[0], output)


def _statements(text: str) -> list[str]:
    """Return the statements of a text, without comments around them. Raises InputError where it is no SQL."""
    import duckdb

    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(text)
        except duckdb.Error as error:
            raise InputError(str(error)) from None
    if any(_writes_files(statement) for statement in statements):
        raise InputError("a query writes no file: it prints its rows, for example with `-f csv > FILE`")
    return [statement.query for statement in statements]


def _writes_files(statement: duckdb.Statement) -> bool:
    """Return whether a statement, or the one that it explains or prepares, may write a file."""
    import duckdb

    if statement.type.name in WRITE_FILES:
        return True
    if statement.type.name == "SELECT":
        return False
    text = statement.query.encode()
    keywords = [start for start, kind in duckdb.tokenize(statement.query) if kind == duckdb.token_type.keyword]
    return any(text[start:].lower().startswith((b"copy", b"export")) for start in keywords)


def _run(settings: Settings, statement: str, output: Output) -> None:
    import duckdb

    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        external = (settings.paths.external, settings.paths.external.relative_to(settings.paths.root))
        connection.execute("set allowed_directories = ?", [[f"{folder}/" for folder in external]])  # Feast's marts
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        try:
            result = connection.execute(statement)
            columns = _distinct([column[0] for column in result.description or []])
            WRITERS[output](columns, result)
        except duckdb.Error as error:
            raise InputError(_in_words(error)) from None


def _in_words(error: duckdb.Error) -> str:
    """Say why a statement was refused, where it wanted something that is not allowed here; else in DuckDB's words."""
    for mark, reason in REFUSED.items():
        if mark in str(error):
            return f"{reason} ({str(error).splitlines()[0]})"
    return f'{error}; the tables: reclm sql "show tables"'


def _distinct(columns: list[str]) -> list[str]:
    """Return the names with a number behind those that occurred before, as in DuckDB's own data frames."""
    seen: dict[str, int] = {}
    names = []
    for column in columns:
        names.append(f"{column}_{seen[column]}" if column in seen else column)
        seen[column] = seen.get(column, 0) + 1
    return names


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
                for one in _statements(statement):
                    _run(settings, one, output)
            except ReclmError as error:
                if not interactive:
                    raise
                print(f"error: {error}", file=sys.stderr)
            statement = ""
    for one in _statements(statement):
        _run(settings, one, output)


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
    """Write CSV (RFC 4180): NULL is nothing, an empty text is quoted, a list or struct is JSON."""
    print(",".join(map(_quoted, columns)))
    while rows := result.fetchmany(FETCH_SIZE):
        for row in rows:
            cells = ["" if value is None else _quoted(_plain(value)) for value in row]
            print(",".join(cells) or '""')  # readers skip an empty line


def _quoted(text: str) -> str:
    needed = not text or any(character in text for character in ',"\r\n') or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if needed else text


def _plain(value: Any) -> str:
    """Write a value that is not NULL as text: a text as it is, everything else as in JSON, without quotes."""
    text = value if isinstance(value, str) else _as_json(value)
    return json.loads(text) if text.startswith('"') and not isinstance(value, str) else text


def _json(columns: list[str], result: duckdb.DuckDBPyConnection) -> None:
    while rows := result.fetchmany(FETCH_SIZE):
        for row in rows:
            print(_as_json(dict(zip(columns, row, strict=True))))


def _as_json(value: Any) -> str:
    """Write a value as JSON without losing anything.

    A decimal keeps its digits. What JSON has no form for is a text: a time in ISO 8601, bytes as DuckDB writes them,
    an interval in days and a time of day, NaN and infinities under these names.
    """
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return json.dumps(value) if math.isfinite(value) else json.dumps(NOT_FINITE.get(value, "NaN"))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_json, value))}]"
    if isinstance(value, dict):
        cells = (f"{_as_json('' if key is None else _plain(key))}: {_as_json(cell)}" for key, cell in value.items())
        return f"{{{', '.join(cells)}}}"
    if isinstance(value, bytes):
        value = "".join(chr(byte) if 32 <= byte < 127 and byte != ESCAPE else f"\\x{byte:02X}" for byte in value)
    elif isinstance(value, date | datetime | time):
        value = value.isoformat()
    elif isinstance(value, timedelta):
        value = _interval(value)
    return json.dumps(str(value), ensure_ascii=False)


WRITERS: dict[str, Any] = {"table": _table, "csv": _csv, "json": _json}


def _interval(value: timedelta) -> str:
    """Write an interval as days and a time of day (`1 day 02:00:00`), each with its sign."""
    seconds, microseconds = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    sign = "-" if value < timedelta(0) else ""
    clock = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    clock += f".{microseconds:06d}".rstrip("0") if microseconds else ""
    whole = f"{sign}{days} day{'' if days == 1 else 's'}"
    if not days:
        return clock
    return f"{whole} {clock}" if seconds or microseconds else whole


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(element) for element in value)
    if isinstance(value, timedelta):
        return _interval(value)
    text = f"{value:.6g}" if isinstance(value, float) else _as_json(value) if isinstance(value, dict) else str(value)
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
