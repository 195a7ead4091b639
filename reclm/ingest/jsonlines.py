"""Read JSON: objects one a line, in an array, or spread over lines.

In: a file of UTF-8 text. Out: how its objects are arranged, lines that are none, and SQL that gives every value as the
text of the file: whole numbers without `.0`, NaN as null, nested values as JSON. A column may mix types.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reclm.errors import InputError
from reclm.ingest.encoding import opened

Arrangement = Literal["newline_delimited", "array", "unstructured"]
LONGEST_ROW = 64 << 20
MOST_SHOWN = 2000
PYTHON_DICT = "a Python dict, not JSON"


@dataclass(frozen=True)
class Unreadable:
    """A line that holds no row: its number and the row's (both from 1), why, and its text, cut to MOST_SHOWN."""

    line: int
    row: int
    reason: str
    text: str


def arrangement(lines: list[str]) -> Arrangement:
    """Tell from the first lines of a file how its objects stand in it."""
    first, *more = [line.strip() for line in lines if line.strip()][:2] or [""]
    if first.startswith("["):
        return "newline_delimited" if more and first.endswith("]") else "array"
    if first.startswith("{"):
        try:
            json.loads(first)
        except json.JSONDecodeError as error:
            if error.pos >= len(first):
                return "unstructured"
    return "newline_delimited"


def require_json(path: Path, lines: list[str]) -> None:
    """Raise InputError when the first line is a Python dict, which JSON readers refuse."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if _fault(line) == PYTHON_DICT:
                raise python_dict(path, number)
            return


def python_dict(path: Path, line: int) -> InputError:
    """Return the error for lines that are Python dicts."""
    script = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"
    return InputError(
        f"{path}, line {line} is a Python dict, not JSON; convert the file: "
        f"python -c '{script}' < {path.name} > {path.name.split('.')[0]}-converted.jsonl"
    )


def not_json(path: Path, bad: Sequence[Unreadable]) -> InputError:
    """Return the error for a file of which too many lines hold no object."""
    if bad[0].reason == PYTHON_DICT:
        return python_dict(path, bad[0].line)
    return InputError(
        f"{path}, line {bad[0].line} cannot be read: {bad[0].reason}: {bad[0].text[:80]!r} ({len(bad):,} such lines); "
        "write one JSON object per line"
    )


def by_column(path: Path, fields: Sequence[str]) -> InputError:
    """Return the error for a table that is one object of columns."""
    return InputError(
        f"{path} holds one object of columns ({', '.join(fields[:10])}), not one object per row; write it with "
        "df.to_json(path, orient='records', lines=True)"
    )


def unreadable_lines(path: Path) -> tuple[int, list[Unreadable]]:
    """Return how many rows a file has, and every line that holds no JSON object; rows leave blank lines out."""
    row = 0
    bad: list[Unreadable] = []
    with opened(path) as file:
        for number, data in enumerate(file, start=1):
            line = data.decode("utf-8-sig" if number == 1 else "utf-8", "backslashreplace").strip()
            if line:
                row += 1
                if fault := _fault(line, data):
                    bad.append(Unreadable(number, row, fault, line[:MOST_SHOWN]))
    return row, bad


def _fault(line: str, data: bytes = b"") -> str:
    try:
        value = json.loads(line)
        if not isinstance(value, dict):
            return "a JSON value, but no object"
        data.decode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        return "text that is not Unicode"
    except (ValueError, RecursionError) as error:
        try:
            if isinstance(ast.literal_eval(line.strip()), dict):
                return PYTHON_DICT
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
        return f"no JSON: {error}"
    return ""


def without_lines(path: Path, copy: Path, left_out: set[int]) -> Path:
    """Write a copy of a file without the lines of these numbers; return it."""
    with opened(path) as source, copy.open("wb") as target:
        target.writelines(line for number, line in enumerate(source, start=1) if number not in left_out)
    return copy
