"""Tell how the files of one folder belong together by the ids in them.

In: opened files. Out: the id columns whose values meet, what a table of keys and values or a log in two tables needs.
Values decide where names leave a choice: of several id columns (`asin`, `parent_asin`) the one is taken whose ids are
in the item table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from reclm.ingest.cells import id_text
from reclm.ingest.files import LogFile, quote_name, quote_text
from reclm.ingest.looks import samples
from reclm.ingest.mapping import SYNONYMS, candidates, looks_like, plain_name

LOG_ROWS = 200_000
"""Rows of the log, from its start, whose ids are looked up in the item table."""
BETTER = 0.05
"""Share of ids by which another pair of columns must join better than the usual one."""
ITEM_ID_ALSO = ("id",)
KEYS = ("property", "attribute", "key", "field", "variable", "feature", "predicate")
VALUES = ("value", "val", "object")
ORDER_WORDS = ("order", "invoice", "transaction", "basket", "cart", "receipt", "session", "visit")


@dataclass(frozen=True)
class Join:
    """The id columns of a log and an item table, the share of the log's ids that the table has, and what to say."""

    log: str
    items: str
    share: float
    note: str = ""


def find_join(log: LogFile, items: LogFile, log_columns: Sequence[str], item_columns: Sequence[str]) -> Join | None:
    """Return the pair of columns whose ids meet, the first of each where no other pair is better; None if unreadable.

    `log_columns` and `item_columns` are the columns that could be the item's id, the most usual one first.
    """
    shares = _shares(log, items, log_columns, item_columns)
    if not shares:
        return None
    usual = (log_columns[0], item_columns[0])
    best = max(shares, key=lambda pair: shares[pair])
    taken = best if shares[best] > shares[usual] + BETTER else usual
    note = ""
    if len(shares) > 1 and taken != usual:
        note = (
            f"the item is {taken[0]!r}: {shares[taken]:.0%} of its ids are in {items.name} ({taken[1]!r}), "
            f"against {shares[usual]:.0%} of {usual[0]!r} ({usual[1]!r})"
        )
    elif shares[taken] < 1 - BETTER:
        part = f"{shares[taken]:.0%} of the ids in {taken[0]!r} are" if shares[taken] else f"no id in {taken[0]!r} is"
        note = f"{part} in {items.name} ({taken[1]!r})"
    if shares[taken] == 0:
        note += _other_column(log, items, taken[1], log_columns)
    return Join(*taken, shares[taken], note)


def _other_column(log: LogFile, items: LogFile, item: str, tried: Sequence[str]) -> str:
    """Say which column of another name joins, where one does."""
    rest = [column for column in log.columns if column not in tried]
    values = samples(log, rest)
    ids = [column for column in rest if looks_like("item", column, values[column])]
    shares = _shares(log, items, ids, [item]) if ids else {}
    best = max(shares, key=lambda pair: shares[pair], default=None)
    if best is None or shares[best] < 0.5:
        return ""
    return f", but {shares[best]:.0%} of those in {best[0]!r}: --set data.item_column={best[0]} takes these"


def _shares(
    log: LogFile, items: LogFile, log_columns: Sequence[str], item_columns: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Return {(column of the log, column of the items): share of the log's distinct ids that the items have}."""
    in_log = {column: _id(log, column) for column in log_columns}
    in_items = {column: _id(items, column) for column in item_columns}
    logged, listed = (
        ", ".join(f"{sql} as {quote_name(column)}" for column, sql in ids.items()) for ids in (in_log, in_items)
    )
    tests = ", ".join(
        f"(select count(*) filter (id in (select {quote_name(theirs)} from listed)) / "
        f"nullif(count(*), 0) from (select distinct {quote_name(column)} as id from logged "
        f"where {quote_name(column)} is not null))"
        for column in in_log
        for theirs in in_items
    )
    with duckdb.connect() as con:
        try:
            con.execute(f"create table listed as select {listed} from {items.relation('listed_rejects')}").fetchall()
            rows = f"select {logged} from {log.relation('logged_rejects')} limit {LOG_ROWS}"
            con.execute(f"create table logged as {rows}").fetchall()
            found = con.execute(f"select {tests}").fetchall()[0]
        except duckdb.Error:
            return {}  # a file that cannot be read is reported when its rows are
    pairs = [(ours, theirs) for ours in in_log for theirs in in_items]
    return {pair: share or 0.0 for pair, share in zip(pairs, found, strict=True)}


def _id(file: LogFile, column: str) -> str:
    return id_text(file, column, samples(file, [column])[column])[0]


def holds_keys_and_values(file: LogFile) -> bool:
    """Return whether a file says one property of an item a row: it has columns of an id, a key and a value."""
    names = {plain_name(column) for column in file.columns}
    return bool(names & set(KEYS)) and bool(names & set(VALUES)) and bool(candidates(file, "item", ITEM_ID_ALSO))


def how_to_pivot(file: LogFile) -> str:
    """Return what to do with a table of keys and values."""
    by_plain = {plain_name(column): column for column in file.columns}
    key, value = (next(by_plain[name] for name in names if name in by_plain) for names in (KEYS, VALUES))
    item = candidates(file, "item", ITEM_ID_ALSO)[0]
    return (
        f"it holds one {key!r} and {value!r} a row, so it is no item table; make one with DuckDB: copy (pivot "
        f"{quote_text(str(file.path))} on {quote_name(key)} in ('…', '…') using first({quote_name(value)}) group by "
        f"{quote_name(item)}) to 'items.csv'"
    )


def log_in_two_tables(log: LogFile, others: Sequence[LogFile]) -> str:
    """Return how to join a log that lacks the user or the item with the file that has it, '' when none does.

    Orders often stand in two tables: one of orders with their user and time, and one of the items in them.
    """
    lacking = "user" if candidates(log, "item") else "item"
    if candidates(log, lacking):
        return ""
    for other in others:
        if not candidates(other, lacking):
            continue
        people, things = (other, log) if lacking == "user" else (log, other)
        keys = [
            (ours, theirs)
            for ours in people.columns
            for theirs in things.columns
            if plain_name(ours) == plain_name(theirs) and _is_key(ours)
        ]
        if candidates(people, "user") and candidates(things, "item") and keys:
            return _joined(people, things, *keys[0])
    return ""


def _is_key(column: str) -> bool:
    name = plain_name(column)
    is_role = any(name == plain_name(word) for role in ("user", "item") for word in SYNONYMS[role].split()[:24])
    return (name.endswith(("id", "no", "number", "key")) or name.startswith(ORDER_WORDS)) and not is_role


def _joined(people: LogFile, things: LogFile, ours: str, theirs: str) -> str:
    user, item = candidates(people, "user")[0], candidates(things, "item")[0]
    table, time = next(
        ((name, found[0]) for name, file in (("p", people), ("t", things)) if (found := candidates(file, "timestamp"))),
        ("", ""),
    )
    when = f", {table}.{quote_name(time)}" if time else ""
    return (
        f"{people.path} has the user ({user!r}) and {things.path} the item ({item!r}): the log is in two tables that "
        f"belong together by {ours!r}. Join them with DuckDB and ingest the result: copy (select p.{quote_name(user)}, "
        f"t.{quote_name(item)}{when} from {quote_text(str(people.path))} p join {quote_text(str(things.path))} t on "
        f"p.{quote_name(ours)} = t.{quote_name(theirs)}) to 'interactions.csv'"
    )
