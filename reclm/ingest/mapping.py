"""Map the columns of any log file to the landing contract.

In: the columns of a file. Out: SQL for the columns of the contract. A column is the one a setting names, else the first
synonym the file has (case, `_`, `-` and blanks do not matter). A missing one raises InputError that lists the columns
found, the nearest name and the settings key that would say it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

import duckdb

from reclm.errors import InputError
from reclm.ingest.files import LogFile, quote_name, quote_text
from reclm.ingest.values import is_list

SYNONYMS: Mapping[str, str] = {
    "user": "user_id user uid customer_id customer member_id visitor_id account_id client_id reviewer_id person_id",
    "item": "item_id item iid movie_id movie product_id product sku asin parent_asin article_id news_id book_id "
    "track_id song_id business_id place_id game_id anime_id content_id",
    "timestamp": "event_ts timestamp ts time when event_time datetime date event_timestamp created_at unix_review_time "
    "event_date dt ds day",
    "weight": "weight rating score stars overall strength value",
    "event": "event_type",
    "title": "title name item_name item_title product_title product_name movie_title headline",
    "categories": "categories category genres genre tags main_category",
    "created": "created_ts created_at created release_date published_at published date_added",
}
SETTINGS_KEYS: Mapping[str, str] = {role: f"data.{role}_column" for role in SYNONYMS}
SEPARATORS = ("|", ";", ",")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_column(file: LogFile, role: str, named: str = "", *, required: bool = False, also: Sequence[str] = ()) -> str:
    """Return the column of `file` for `role` (a key of SYNONYMS), or '' when an optional one is absent.

    `named` is what the settings say; `also` are synonyms for this file alone. Raises InputError when a required column,
    or one the settings name, is not there.
    """
    if named:
        found = next((c for c in file.columns if c == named), "") or next(
            (c for c in file.columns if c.lower() == named.lower()), ""
        )
        if not found:
            raise _missing(file, role, named)
        return found
    by_plain = {_plain(column): column for column in reversed(file.columns)}
    for synonym in (*SYNONYMS[role].split(), *also):
        if _plain(synonym) in by_plain:
            return by_plain[_plain(synonym)]
    if required:
        raise _missing(file, role, "")
    return ""


def _missing(file: LogFile, role: str, named: str) -> InputError:
    wanted = named or SYNONYMS[role].split()[0]
    near = difflib.get_close_matches(wanted.lower(), [c.lower() for c in file.columns], n=1, cutoff=0.5)
    nearest = next((c for c in file.columns if near and c.lower() == near[0]), "")
    hint = f"; the nearest is {nearest!r}" if nearest else ""
    problem = (
        f"no column {named!r}"
        if named
        else f"no column for the {role} (looked for {', '.join(SYNONYMS[role].split())})"
    )
    found = ", ".join(repr(column) for column in file.columns)
    return InputError(
        f"{file.path} has {problem}: its columns are {found}{hint}. Set {SETTINGS_KEYS[role]} to the right one, "
        f"for example --set {SETTINGS_KEYS[role]}={nearest or file.columns[0]}"
    )


def as_text(file: LogFile, column: str) -> str:
    """Return SQL of a column as text; a list is joined by blanks."""
    if not column:
        return "null::varchar"
    name = quote_name(column)
    return f"array_to_string({name}, ' ')" if is_list(file.types[column]) else name


def joined_text(columns: Sequence[str]) -> str:
    """Return SQL of several columns joined by blanks, missing ones left out; null when all are missing."""
    if not columns:
        return "null::varchar"
    return f"nullif(concat_ws(' ', {', '.join(f'{quote_name(column)}::varchar' for column in columns)}), '')"


def categories(file: LogFile, column: str, *, words: bool = False) -> str:
    """Return SQL of a categories column as '|'-separated text, whatever separates them in the file.

    Lists and JSON or Python lists in text are understood; else the separator is the first of `|`, `;`, `,` that the
    column uses anywhere. With `words`, a column without any of them whose values are built from fewer distinct words
    than there are distinct values is a list of words.
    """
    if not column:
        return "null::varchar"
    name = quote_name(column)
    parts = f"{name}::varchar[]"
    if not file.types[column].endswith("[]"):
        separator = _separator(file, name, words)
        parts = f"string_split({name}::varchar, {quote_text(separator)})" if separator else f"[{name}::varchar]"
        if separator == "[":
            parts = f"string_split(regexp_replace({name}::varchar, '[\\[\\]\"'']', '', 'g'), ',')"
    cleaned = (
        f"list_filter(list_transform({parts}, lambda part: trim(replace(part, '|', '/'))), lambda part: part <> '')"
    )
    return f"nullif(array_to_string({cleaned}, '|'), '')"


def _separator(file: LogFile, name: str, words: bool) -> str:
    source = file.relation("category_rejects")
    tests = ", ".join(f"coalesce(bool_or(contains({name}::varchar, {quote_text(mark)})), false)" for mark in SEPARATORS)
    with duckdb.connect() as con:
        try:
            listed, *used = con.execute(
                f"select coalesce(bool_and(starts_with(ltrim({name}::varchar), '[')), false), {tests} "
                f"from {source} where nullif(trim({name}::varchar), '') is not null"
            ).fetchall()[0]
            if listed:
                return "["
            for mark, present in zip(SEPARATORS, used, strict=False):
                if present:
                    return mark
            if not words:
                return ""
            n_values, n_words = con.execute(
                f"select count(distinct {name}), (select count(distinct word) from "
                f"(select unnest(string_split({name}::varchar, ' ')) as word from {source})) from {source}"
            ).fetchall()[0]
        except duckdb.Error:
            return ""  # a file that cannot be read is reported when its rows are
    return " " if n_words < n_values else ""
