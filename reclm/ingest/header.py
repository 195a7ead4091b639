"""Name the columns of a file of text from its first lines.

In: the first rows of a file, and names where they are given. Out: the names, and whether the first line is a header
that holds no data. A line of data where a header should be is refused, with the way to read the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.dialect import NAME, looks_like_a_moment, looks_like_data

MOST_OF = 0.9
MOST_SHOWN = 80


def column_names(
    path: Path, rows: list[list[str]], given: Sequence[str], has_header: bool | None
) -> tuple[list[str], bool]:
    """Return the names of the columns, each once, and whether the first line is to be skipped.

    `rows` are the fields of the first lines. `has_header` None: the file tells; names that are given mean a file
    without a header. Raises InputError when the names do not fit the rows.
    """
    if not rows:
        raise InputError(f"{path} has no header line; its first line must name the columns")
    if re.match(r"<[!?a-zA-Z]", rows[0][0].strip()):
        raise InputError(f"{path} is a web page or XML, not a table ({_shown(rows[0])}); export it as CSV")
    if re.fullmatch(r"\d+:", rows[0][0].strip()) and len(rows[0]) == 1:
        raise _ids_on_lines_of_their_own(path, rows)
    if given:
        return _fitting(path, rows, list(given), has_header), bool(has_header)
    if has_header is False:
        return [f"column_{position}" for position in range(1, _width(rows) + 1)], False
    if has_header is None and looks_like_data(rows):
        raise InputError(
            f"{path}, line 1 looks like data, not like the names of columns: {_shown(rows[0])}. For a log without a "
            f"header line {_naming(rows)}; for an item or user table write the names as its first line"
        )
    return _unique(_padded(path, rows)), True


def _width(rows: list[list[str]]) -> int:
    return Counter(len(row) for row in rows).most_common(1)[0][0]


def _fitting(path: Path, rows: list[list[str]], given: list[str], has_header: bool | None) -> list[str]:
    width = _width(rows)
    if has_header is None and not looks_like_data(rows) and any(NAME.search(field.strip()) for field in rows[0]):
        raise InputError(
            f"{path}, line 1 looks like the names of columns: {_shown(rows[0])}. Set data.header to true to skip it, "
            "or to false to read it as data"
        )
    if width != len(given):
        raise InputError(
            f"{path} has {width} fields a line, not the {len(given)} of {', '.join(given)}: {_shown(rows[-1])}. "
            "Name each of them, in the order of the file, in data.columns"
        )
    return _unique(given)


def _padded(path: Path, rows: list[list[str]]) -> list[str]:
    """Return the header's fields, with one more where every line ends with a separator. Raises InputError if none fit.

    Whether they fit is told by most lines: single ones are set apart later.
    """
    header, below = rows[0], rows[1:]
    width = _width(below) if below else len(header)
    if width == len(header) or sum(len(row) == width for row in below) < MOST_OF * len(below):
        return header
    if width == len(header) + 1 and all(not row[-1].strip() for row in below if len(row) == width):
        return [*header, ""]
    remedy = f"For a log {_naming(below, header=True)}; for an item or user table name each column in line 1"
    if not looks_like_data(below):
        remedy = "If the names of the columns come later, remove the lines above them"
    raise InputError(
        f"{path}, line 1 has {len(header)} fields ({_shown(header)}) and the lines below it have {width} "
        f"({_shown(below[0])}). {remedy}"
    )


def _naming(rows: list[list[str]], *, header: bool = False) -> str:
    """Return how settings name the columns of these rows."""
    names = ["user_id", "item_id"]
    names += [
        "timestamp" if all(looks_like_a_moment(row[k]) for row in rows[:20] if k < len(row)) else f"column_{k + 1}"
        for k in range(2, _width(rows))
    ]
    return (
        f"set data.header={str(header).lower()} and name its {_width(rows)} columns in data.columns, in their order: "
        f"--set data.header={str(header).lower()} --set data.columns={','.join(names[: _width(rows)])}"
    )


def _shown(fields: Sequence[str]) -> str:
    text = ", ".join(field.strip() for field in fields)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def _unique(given: Sequence[str]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for position, field in enumerate(given, start=1):
        name = field.strip() or f"column_{position}"
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        names.append(name)
    return names


def _ids_on_lines_of_their_own(path: Path, rows: list[list[str]]) -> InputError:
    script = 'awk \'/:\\r?$/ {sub(/:.*/, ""); item = $0; next} {print item "," $0}\' ' + path.name
    names = ",".join(["item_id", "user_id", "rating", "date"][: _width(rows) + 1])
    return InputError(
        f"{path}, line 1 is {rows[0][0]!r}: item ids stand on lines of their own above the lines of their users, as in "
        f"the Netflix Prize. Write the item on every line, for example: (echo {names}; {script}) > interactions.csv"
    )
