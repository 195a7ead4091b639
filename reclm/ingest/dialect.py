"""Tell how a text file separates, quotes and escapes its fields, and whether its first line names the columns.

In: the first lines of a file. Out: a dialect. Every candidate reads the lines with Python's csv module; the best is the
one by which most lines have as many fields as the first.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

DELIMITERS = (",", "\t", ";", "|", "::", "^", "\x01")
QUOTING_DELIMITERS = (",", ";")
"""Separators of CSV, whose fields may be quoted. Other files quote only when their lines prove it."""
MOST_LINES = 500
MOST_OF = 0.9
STAND_IN = "\x1f"
NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
MOMENT = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./-]\d\d?[./-](\d{4}|\d\d)([T ,].*)?")
NAME = re.compile(r"(^|[^a-z])(id|user|item|customer|product|movie|time|timestamp|date|rating|title|name)s?$", re.I)


@dataclass(frozen=True)
class Dialect:
    """`quote` and `escape` are '' when there is none; fields that hold a quote double it when `escape` is the quote."""

    delimiter: str
    quote: str
    escape: str

    def rows(self, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield how many lines each row takes, and its fields; none of them for a row that breaks the dialect."""
        stand_in = len(self.delimiter) > 1
        given = (line.replace(self.delimiter, STAND_IN) if stand_in else line for line in lines)
        reader = csv.reader(
            (line + "\n" for line in given),
            delimiter=STAND_IN if stand_in else self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            doublequote=self.escape == self.quote,
            escapechar=self.escape if self.escape != self.quote else None,
            strict=True,
        )
        before = 0
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fields = []
            n_lines, before = reader.line_num - before, reader.line_num
            if fields or n_lines > 0:
                yield n_lines, [field.replace(STAND_IN, self.delimiter) if stand_in else field for field in fields]


def sample(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not blank, as many as are needed to tell a dialect."""
    return list(islice((line for line in lines if line.strip()), MOST_LINES))


def find_dialect(
    lines: Sequence[str],
    escapes: Sequence[str] = (),
    *,
    delimiter: str = "",
    quote: str | None = None,
    escape: str | None = None,
    tabs: bool = False,
) -> Dialect:
    """Tell the dialect of a file's lines; what is given is taken as given.

    `escapes` are further lines, with a backslash before a quote. `tabs` says that the name promises tabs.
    """
    first = sample(lines)
    delimiter = delimiter or _delimiter(first, tabs)
    if quote is None:
        candidates = [Dialect(delimiter, '"', '"'), Dialect(delimiter, '"', "\\")]
        if delimiter not in QUOTING_DELIMITERS:
            none = Dialect(delimiter, "", "")
            candidates = [*candidates, none] if _surely_quoted(first, delimiter) else [none, *candidates]
    else:
        candidates = [Dialect(delimiter, quote, quote), Dialect(delimiter, quote, "\\")][: 2 if quote else 1]
    if escape is not None:
        quotes = dict.fromkeys(candidate.quote for candidate in candidates if candidate.quote or not escape)
        candidates = [Dialect(delimiter, mark, escape) for mark in quotes]
    return max(candidates, key=lambda dialect: _regular(first, dialect) + _regular(escapes, dialect, first[:1]))


def _delimiter(lines: Sequence[str], tabs: bool) -> str:
    """Return the separator by which most lines have as many fields as the first, then the one with most fields."""
    if tabs and lines and "\t" in lines[0]:
        return "\t"
    scored = [_fit(lines, mark) for mark in DELIMITERS]
    if not any(width > 1 for _, width, _, _ in scored):
        scored = [fit for fit in [_fit(lines, " ")] if fit[0]]
    return max((fit for fit in scored if fit[1] > 1), default=(True, 1, 0, ","))[-1]


def _fit(lines: Sequence[str], mark: str) -> tuple[bool, int, int, str]:
    """Return whether most lines have as many fields as the first, how many, how many lines do, and the separator."""
    fits = []
    for dialect in (Dialect(mark, '"', '"'), Dialect(mark, "", "")):
        width = len(next(iter(dialect.rows(lines[:1])), (0, []))[1])
        n_regular = _regular(lines, dialect)
        fits.append((n_regular >= MOST_OF * len(lines), width, n_regular, mark))
    return max(fits)


def _regular(lines: Sequence[str], dialect: Dialect, header: Sequence[str] = ()) -> int:
    """Return how many lines belong to rows with as many fields as the first row, or as `header`."""
    rows = list(dialect.rows(lines))
    width = len(next(iter(dialect.rows(header or lines[:1])), (0, []))[1])
    return sum(n_lines for n_lines, fields in rows if len(fields) == width > 0)


def _surely_quoted(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether a doubled quote inside quotes, or a column of nothing but quoted values, proves quoting."""
    opened, total = Counter[int](), 0
    for line in lines[1:]:
        fields = line.split(delimiter)
        total += 1
        for position, field in enumerate(fields):
            quoted = len(field) > 1 and field[0] == field[-1] == '"'
            if quoted and '""' in field[1:-1]:
                return True
            opened[position] += quoted
    return total > 1 and any(count == total for count in opened.values())


def looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row holds numbers or times where the rows below do, and nothing like a name."""
    first, below = rows[0], rows[1:21]
    if any(NAME.search(field.strip()) for field in first):
        return False
    return any(
        _is_value(field) and all(_is_value(row[k]) for row in below if k < len(row) and row[k].strip())
        for k, field in enumerate(first)
    )


def looks_like_a_moment(value: str) -> bool:
    """Return whether a value is a date, or a count of seconds or milliseconds of our days."""
    return bool(MOMENT.fullmatch(value.strip()) or re.fullmatch(r"1\d{9}(\d{3})?(\.\d+)?", value.strip()))


def _is_value(text: str) -> bool:
    return bool(NUMBER.fullmatch(text.strip()) or MOMENT.fullmatch(text.strip()))
