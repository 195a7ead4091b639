"""Judge what the columns of a file hold by their values: text, numbers, links, dates, codes …

In: a file. Out: sample values of its columns, and what they look like. By default only columns of text become an item's
text: a number, a flag or a link says nothing to a reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import duckdb

from reclm.ingest.files import LogFile, open_reader, quote_name
from reclm.ingest.texts import LINK, WORD, is_flag, plain_text
from reclm.ingest.values import is_list

Look = Literal["text", "numbers", "flags", "links", "dates", "codes", "empty"]

FIRST_ROWS = 2_000
FEW = 20
"""A column with fewer values than this in the first rows is looked through to its end."""
BLANK = ("", "[]", "{}")
MOST = 0.9
"""Share of a column's values that must look alike."""

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?(?:[T ].*)?|\d{4}/\d\d?/\d\d?.*|\d\d?[./-]\d\d?[./-]\d{2,4}(?:[T ,].*)?"
    rf"|(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?(?:\d\d? )?(?:{_MONTHS})[a-z]*\.? \d[\d ,:apmgtcu+-]*",
    re.I,
)
_CODE = re.compile(r"(?=[!-~]*\d)[!-~]+|[0-9a-f]{16,}|[0-9A-F]{16,}|[A-Za-z]{1,2}")


def samples(file: LogFile, columns: Sequence[str], *, thorough: bool = False) -> dict[str, list[str]]:
    """Return {column: values of the first rows that are not blank}, as text, lists as JSON.

    When `thorough`, columns with few values there are looked through to the end of the file. A file that cannot be read
    has no values here; the error is raised when its rows are.
    """
    if not columns:
        return {}
    cells = ", ".join(f"{cell(file, column)} as {quote_name(column)}" for column in columns)
    source = file.relation("sample_rejects")
    with open_reader() as con:
        try:
            rows = con.execute(f"select {cells} from {source} limit {FIRST_ROWS}").fetchall()
            found = {
                column: [row[position] for row in rows if (row[position] or "").strip() not in BLANK]
                for position, column in enumerate(columns)
            }
            rare = [column for column, values in found.items() if len(values) < FEW] if len(rows) == FIRST_ROWS else []
            for number, column in enumerate(rare if thorough else []):
                value = f"nullif(trim({cell(file, column)}), '')"
                query = f"select {value} from {file.relation(f'rare_rejects_{number}')} where {value} is not null"
                found[column] = [value for (value,) in con.execute(f"{query} limit {FIRST_ROWS}").fetchall()]
        except duckdb.Error:
            return {column: [] for column in columns}
    return found


def cell(file: LogFile, column: str) -> str:
    """Return SQL of a cell as text; a list is JSON."""
    name = quote_name(column)
    return f"to_json({name})::varchar" if is_list(file.types[column]) else name


def look_of(values: Sequence[str]) -> Look:
    """Return what the values of a column look like; a column without values is `empty`."""
    if not values:
        return "empty"
    given = [value.strip() for value in values]
    words = [plain_text(value).strip() for value in given]
    if all(is_flag(value) for value in given):
        return "flags"
    pairs = zip(given, words, strict=True)
    if _most(bool(LINK.fullmatch(value)) or (not text and "//" in value) for value, text in pairs):
        return "links"
    if _most(bool(_DATE.fullmatch(value)) for value in given):
        return "dates"
    if _most(WORD.search(text) is None for text in words):
        return "codes" if _most(any(map(str.isalpha, value)) for value in words) else "numbers"
    many = len(set(words)) > len(words) / 2
    if _most(bool(_CODE.fullmatch(text)) for text in words) and (many or max(map(len, words)) <= 2):
        return "codes"
    return "text"


def _most(marks: Iterable[bool]) -> bool:
    found = list(marks)
    return sum(found) >= MOST * len(found)
