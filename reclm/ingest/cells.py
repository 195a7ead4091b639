"""Write the SQL that turns the cells of a column into values of the landing contract.

In: a file and one of its columns. Out: SQL over the file's rows. Ids, times and weights stay as they are written, but
for the `.0` of whole numbers; titles, texts and categories become what a person would read (`texts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import duckdb

from reclm.ingest.files import LogFile, quote_name, quote_text
from reclm.ingest.looks import cell
from reclm.ingest.texts import NAMES, PLAIN_TEXT, register
from reclm.ingest.values import is_list

SEPARATORS = ("|", ";", " > ", ",")
MOST_EVENT_TYPES = 50
WHOLE_FLOAT = r"-?\d+\.0+|(?i:nan)"

EVENT_SYNONYMS: Mapping[str, str] = {
    "impression": "impressions imp impress shown",
    "click": "clicks clicked clk clickout clickitem",
    "view": "views viewed pv pageview detailview productview itemview viewitem viewcontent",
    "like": "liked fav favorite favourite bookmark wishlist addtowishlist save saved upvote thumbsup",
    "cart": "addtocart basket addtobasket cartadd addedtocart",
    "purchase": "purchased buy bought transaction order ordered sale checkout conversion",
    "skip": "skipped dislike disliked downvote thumbsdown hide hidden",
    "return": "returned refund refunded",
}
"""{known type of event: other words for it, without `_`, `-` and blanks}."""


DECIMAL_COMMA = r"[+-]?(?:0?,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+)"
"""A number whose comma cannot stand before thousands."""


def as_text(file: LogFile, column: str) -> str:
    """Return SQL of a column as text; a list is joined by blanks."""
    if not column:
        return "null::varchar"
    name = quote_name(column)
    return f"array_to_string({name}, ' ')" if is_list(file.types[column]) else name


def number_text(file: LogFile, column: str, values: Sequence[str] = ()) -> str:
    """Return SQL of a number as text, its decimal comma (`4,5`) written as a point and its thousands joined.

    `values` are samples of the column: where one has a comma that cannot stand before thousands, and none has a point
    too, every comma is a decimal one.
    """
    value = as_text(file, column)
    has_points = any("." in one for one in values)
    if not has_points and any(re.fullmatch(DECIMAL_COMMA, one.strip()) for one in values):
        return f"replace({value}, ',', '.')"
    return (
        f"case when regexp_full_match({value}, '\\s*[+-]?[1-9][0-9]{{0,2}}(,[0-9]{{3}})+([.][0-9]+)?\\s*') "
        f"then replace({value}, ',', '') "
        f"when regexp_full_match({value}, '\\s*[+-]?[0-9]*,[0-9]+\\s*') then replace({value}, ',', '.') "
        f"else {value} end"
    )


def id_text(file: LogFile, column: str, values: Sequence[str]) -> tuple[str, bool]:
    """Return SQL of an id, and whether a `.0` is taken off: where every id of the column is written as `123.0`.

    `values` are samples of the column; the rest of it is read only when all of them look like that. `nan` is no id
    there.
    """
    sql = as_text(file, column)
    if is_list(file.types[column]) or not values or not all(re.fullmatch(WHOLE_FLOAT, v.strip()) for v in values):
        return sql, False
    text = f"nullif(lower(trim({sql})), 'nan')"
    with duckdb.connect() as con:
        try:
            every = f"bool_and(regexp_full_match({text}, '{WHOLE_FLOAT}')) filter ({text} <> '')"
            whole = con.execute(f"select {every} from {file.relation('float_rejects')}").fetchall()[0][0]
        except duckdb.Error:
            return sql, False  # a file that cannot be read is reported when its rows are
    return (f"regexp_replace({text}, '\\.0+$', '')", True) if whole else (sql, False)


def title_text(file: LogFile, column: str, *, as_written: bool = False) -> str:
    """Return SQL of a title: readable, or as it is written when nothing would be left."""
    if not column or as_written:
        return as_text(file, column)
    return f"coalesce(nullif({_readable(file, column)}, ''), {cell(file, column)})"


def joined_text(file: LogFile, columns: Sequence[str], *, as_written: bool = False) -> str:
    """Return SQL of several columns as readable text, joined by blanks, missing ones left out; null without any."""
    if not columns:
        return "null::varchar"
    write = as_text if as_written else _readable
    texts = ", ".join(f"nullif({write(file, column)}, '')" for column in columns)
    return f"nullif(concat_ws(' ', {texts}), '')"


def _readable(file: LogFile, column: str) -> str:
    text = cell(file, column)
    marked = " or ".join(f"contains({text}, '{mark}')" for mark in "<&")
    return f"case when {marked} or {_is_literal(text)} then {PLAIN_TEXT}({text}) else {text} end"


def _is_literal(text: str) -> str:
    return f"left(ltrim({text}), 1) in ('[', '{{')"


def categories(file: LogFile, column: str, *, words: bool = False) -> str:
    """Return SQL of a categories column as '|'-separated text, whatever separates them in the file.

    Lists and JSON or Python literals are understood; else the separator is the first of SEPARATORS that the column uses
    anywhere. With `words`, a column without any of them whose values are built from fewer distinct words than there are
    distinct values is a list of words.
    """
    if not column:
        return "null::varchar"
    value = cell(file, column)
    names = f"{NAMES}({value})"
    if is_list(file.types[column]):
        return names
    plain = f"case when contains({value}, '<') or contains({value}, '&') then {PLAIN_TEXT}({value}) else {value} end"
    separator = _separator(file, value, plain, words)
    parts = f"string_split({plain}, {quote_text(separator)})" if separator else f"[{plain}]"
    cleaned = (
        f"list_filter(list_transform({parts}, lambda part: trim(replace(part, '|', '/'))), lambda part: part <> '')"
    )
    return f"case when {_is_literal(value)} then {names} else nullif(array_to_string({cleaned}, '|'), '') end"


def _separator(file: LogFile, value: str, plain: str, words: bool) -> str:
    source = file.relation("category_rejects")
    tests = ", ".join(f"coalesce(bool_or(contains({plain}, {quote_text(mark)})), false)" for mark in SEPARATORS)
    with duckdb.connect() as con:
        register(con)
        try:
            used = con.execute(
                f"select {tests} from {source} where nullif(trim({value}), '') is not null and not {_is_literal(value)}"
            ).fetchall()[0]
            for mark, present in zip(SEPARATORS, used, strict=True):
                if present:
                    return mark
            if not words:
                return ""
            n_values, n_words = con.execute(
                f"select count(distinct {value}), (select count(distinct word) from "
                f"(select unnest(string_split({value}, ' ')) as word from {source})) from {source}"
            ).fetchall()[0]
        except duckdb.Error:
            return ""  # a file that cannot be read is reported when its rows are
    return " " if n_words < n_values else ""


def event_types(file: LogFile, column: str) -> dict[str, int]:
    """Return {type of event as written: rows} of a column, the most frequent first; at most MOST_EVENT_TYPES + 1."""
    value = f"trim({as_text(file, column)})"
    query = f"select {value}, count(*) from {file.relation('event_rejects')} where {value} <> '' group by 1"
    with duckdb.connect() as con:
        try:
            return dict(con.execute(f"{query} order by 2 desc, 1 limit {MOST_EVENT_TYPES + 1}").fetchall())
        except duckdb.Error:
            return {}  # a file that cannot be read is reported when its rows are


def known_events(written: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return {type as written: known type} of those types that are known or have a synonym that is."""
    known_types = set(known)
    meaning = {word: name for name, words in EVENT_SYNONYMS.items() for word in words.split() if name in known_types}
    found = {}
    for word in written:
        name = word.lower() if word.lower() in known_types else meaning.get(re.sub(r"[^a-z0-9]", "", word.lower()), "")
        if name:
            found[word] = name
    return found


def event_text(file: LogFile, column: str, meaning: Mapping[str, str]) -> str:
    """Return SQL of a type of event, with the known type in place of a synonym."""
    value = as_text(file, column)
    renamed = {word: name for word, name in meaning.items() if word.lower() != name}
    if not renamed:
        return value
    cases = " ".join(f"when {quote_text(word)} then {quote_text(name)}" for word, name in renamed.items())
    return f"case trim({value}) {cases} else {value} end"
