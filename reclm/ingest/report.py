"""Say what was landed: roles of columns, what is not used, and what the values of a log show at first sight.

In: what the importer found out about the files of a table (`About`), and their landed rows. Out: notes in
`dataset.json`, and lines for the person who ingests. A note says what a person may want to change, not what is as it
should be; every number in it is counted, none is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from reclm.ingest.files import quote_text
from reclm.ingest.mapping import plain_name
from reclm.progress import detail, say

MANY = 0.2
"""Share of the rows from which one id is said to hold many."""
ENOUGH_ROWS = 100
NO_IDS = "na n/a nan null none nil unknown undefined anonymous guest missing empty deleted -1 #n/a \\n"
"""What exports write, in lower case, where an id is missing."""
NO_ID_SHARE = 0.005
MOST_SHOWN = 12
RATING_NAMES = "rating stars overall score bookrating userrating ratings reviewrating reviewscore reviewoverall "
RATING_NAMES += "reviewstars starrating ratingscore"
COUNT_NAMES = "plays playcount listencount listens count counts quantity qty frequency playtimeforever watchratio"
HIGHEST_RATING, MOST_RATINGS = 10, 21
ROLE_WORDS = {"timestamp": "time", "event": "type of event", "created": "time of appearance"}


@dataclass(frozen=True)
class About:
    """What an importer found out about a file: {role: column or ''}, columns that are not used, things to say."""

    roles: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """The part of an entry of `dataset.json`; nothing for a known format, whose columns are always the same."""
        if not self.roles:
            return {}
        roles = {role: column for role, column in self.roles.items() if column}
        return {"roles": roles, "unused": list(self.unused), "notes": list(self.notes)}


NOTHING = About()


def add_facts(
    con: duckdb.DuckDBPyConnection, entries: Sequence[dict[str, Any]], folder: Path, *, has_min_weight: bool
) -> None:
    """Add to the first of several files with the same roles what their landed rows show; `folder` holds the rows."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["table"] == "interactions" and entry.get("roles") and entry["rows"]:
            groups.setdefault(str(entry["roles"]), []).append(entry)
    for parts in groups.values():
        paths = ", ".join(quote_text(str(folder / "interactions" / f"{part['batch']}.parquet")) for part in parts)
        facts = _LogFacts(con, f"read_parquet([{paths}])", parts[0]["roles"])
        parts[0]["facts"] = facts.summary()
        parts[0]["notes"] = list(dict.fromkeys(note for part in parts for note in part["notes"]))
        parts[0]["notes"] += facts.notes(has_min_weight=has_min_weight)
        for part in parts[1:]:
            part["notes"] = []


class _LogFacts:
    """Counts over the landed rows of a log."""

    def __init__(self, con: duckdb.DuckDBPyConnection, rows: str, roles: Mapping[str, str]) -> None:
        self.con, self.rows, self.roles = con, rows, roles
        self.n_rows = self._one("count(*)")[0]
        self.users, self.items = self._ids("user_id"), self._ids("item_id")

    def summary(self) -> dict[str, Any]:
        """Return the numbers of users and items, and the first and last time, as far as it can be told here."""
        found = {"users": self.users[0], "items": self.items[0]}
        return found | ({"times": self._times()} if self.roles.get("timestamp") else {})

    def notes(self, *, has_min_weight: bool) -> list[str]:
        """Return what a person may want to know about the ids, repeats and weights."""
        notes = self._crowded("user", *self.users) + self._crowded("item", *self.items)
        n_pairs = self._one("count(distinct hash(user_id, item_id))")[0]
        if n_pairs < self.n_rows:
            share = (self.n_rows - n_pairs) / self.n_rows
            notes.append(
                f"{self.n_rows - n_pairs:,} rows ({share:.0%}) repeat a user and an item: models learn a pair once, "
                "and what a user knows is not recommended again"
            )
        return notes + (self._weights(has_min_weight=has_min_weight) if self.roles.get("weight") else [])

    def _one(self, columns: str, condition: str = "true") -> tuple[Any, ...]:
        return self.con.execute(f"select {columns} from {self.rows} where {condition}").fetchall()[0]

    def _ids(self, column: str) -> tuple[int, str, int]:
        """Return how many ids there are, the most frequent one, and its rows."""
        counted = f"select {column} as id, count(*) as n from {self.rows} where {column} is not null group by 1"
        query = f"select count(*), coalesce(arg_max(id, n), ''), coalesce(max(n), 0) from ({counted})"
        n_ids, most, n_rows = self.con.execute(query).fetchall()[0]
        return n_ids, most, n_rows

    def _crowded(self, role: str, n_ids: int, most: str, n_most: int) -> list[str]:
        notes = []
        listed = ", ".join(map(quote_text, NO_IDS.split()))
        missing = f"lower(trim({role}_id)) in ({listed})"
        n_missing, example = self._one(f"count(*), min({role}_id)", missing)
        if n_missing > NO_ID_SHARE * self.n_rows:
            notes.append(
                f"{n_missing:,} rows ({n_missing / self.n_rows:.0%}) have {example!r} as {role}: if it means that the "
                f"id is missing, remove these rows, since they count as one {role}"
            )
        elif n_most > MANY * self.n_rows and self.n_rows >= ENOUGH_ROWS and n_ids > 1 / MANY:
            remedy = "if it is a crawler or a shared account, remove its rows" if role == "user" else ""
            notes.append(
                f"{role} {most!r} has {n_most:,} rows ({n_most / self.n_rows:.0%})" + (f": {remedy}" if remedy else "")
            )
        return notes

    def _times(self) -> list[str]:
        """Return the first and the last time, or an example where most of them are of a form only staging reads."""
        text = "trim(event_ts)"
        cases = " ".join(
            f"when regexp_full_match({text}, '-?\\d{{{digits}}}(\\.\\d+)?') then to_timestamp({text}::double / {unit})"
            for digits, unit in ((10, "1"), (13, "1e3"), (16, "1e6"), (19, "1e9"))
        )
        day = f"when regexp_full_match({text}, '(19|20)\\d{{6}}') then try_strptime({text}, '%Y%m%d')::timestamptz"
        moment = f"case {cases} {day} else try_cast({text} as timestamptz) end"
        n_given, n_read, first, last, example = self._one(
            f"count(event_ts), count({moment}), strftime(min({moment}), '%Y-%m-%d'), "
            f"strftime(max({moment}), '%Y-%m-%d'), "
            "coalesce(min(event_ts) filter (length(event_ts) > 5), min(event_ts))",  # rather than an odd -1
            "event_ts is not null",
        )
        if n_read and n_read >= 0.9 * n_given:
            return [first, last]
        return [example] if example else []

    def _weights(self, *, has_min_weight: bool) -> list[str]:
        """Return what a rating, a count or a value below 0 means for the models."""
        weight, column = "try_cast(weight as double)", self.roles["weight"]
        low, high, n_values, n_below, n_zero = self._one(
            f"min({weight}) filter ({weight} >= 0), max({weight}), approx_count_distinct({weight}), "
            f"count(*) filter ({weight} < 0), count(*) filter ({weight} = 0)",
            f"isfinite({weight})",
        )
        notes = []
        if n_below:
            notes.append(
                f"{n_below:,} rows have a {column} below 0: they are dislikes or returns, no likes; the newest row of "
                "a user and an item decides"
            )
        if high is None or low is None or low == high or has_min_weight:
            return notes
        is_count = plain_name(column) in COUNT_NAMES.split()
        is_rating = plain_name(column) in RATING_NAMES.split() or (high <= HIGHEST_RATING and n_values <= MOST_RATINGS)
        if is_rating and not is_count and high > 1:
            zeros = f"; 0, which often means no rating, has {n_zero:,} rows" if n_zero else ""
            notes.append(
                f"{column} goes from {low:g} to {high:g} and every row counts as a like{zeros}; "
                f"--set data.min_weight={_least_liked(high):g} makes lower ones dislikes"
            )
        elif not self.roles.get("event"):
            notes.append(f"{column} ({low:g} to {high:g}) is read by no model: a pair counts once, however large it is")
        return notes


def _least_liked(high: float) -> float:
    """Return the rating from which people usually mean a like: 4 of 5, 7 of 10."""
    return round(high * 0.75) if high > 5 or high % 1 else max(1.0, high - 1)


def described(dataset: Mapping[str, Any]) -> list[str]:
    """Return what `dataset.json` says of the latest file of each table, in lines for people."""
    latest = {
        entry["table"]: entry
        for entry in dataset["batches"]
        if entry.get("roles") and ("facts" in entry or entry["table"] != "interactions")
    }
    lines = [line for entry in latest.values() for line in _lines([entry])]
    return lines + ([_left_out(dataset["not_used"])] if dataset.get("not_used") else [])


def report(entries: Sequence[dict[str, Any]], not_used: Mapping[str, str], *, name: str, n_unchanged: int) -> None:
    """Print a line a table, with its notes below it; a known format is a detail unless rows need attention."""
    if not entries:
        detail(f"{name}: nothing new beside {n_unchanged} batches that landed before")
        return
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        key = f"{entry['table']} {entry.get('roles') or entry['source_file']}"
        groups.setdefault(key, []).append(entry)
    for parts in groups.values():
        lines = _lines(parts)
        tell = say if parts[0].get("roles") or len(lines) > 1 else detail
        tell("\n".join(lines))
    if not_used:
        say(_left_out(not_used))


def _left_out(not_used: Mapping[str, str]) -> str:
    return f"not used: {_few([f'{file} ({why})' if why else file for file, why in not_used.items()])}"


def _lines(parts: Sequence[dict[str, Any]]) -> list[str]:
    first = parts[0]
    rows, unreadable, low = (
        sum(part.get(key, 0) for part in parts) for key in ("rows", "unreadable", "below_min_weight")
    )
    files = first["source_file"] if len(parts) == 1 else f"{first['source_file']} and {len(parts) - 1} more"
    line = f"{files}: {rows:,} {first['table']}"
    facts = first.get("facts", {})
    if facts:
        line += f" of {facts['users']:,} users and {facts['items']:,} items"
        times = facts.get("times", [])
        line += f", {times[0]} to {times[1]}" if len(times) == 2 else f", times like {times[0]!r}" if times else ""
    if roles := first.get("roles"):
        line += f"; {', '.join(f'{ROLE_WORDS.get(role, role)} is {column}' for role, column in roles.items())}"
    if first.get("unused"):
        line += f"; not used: {_few(first['unused'])}"
    lines = [line, *first.get("notes", [])]
    lines += [f"{unreadable:,} unreadable lines, landed empty for the quarantine"] if unreadable else []
    lines += [f"{low:,} rows below data.min_weight: not likes"] if low else []
    return [lines[0], *(f"  {note}" for note in lines[1:])]


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
