"""Count what staging made of the landed rows, and say it.

In: a database in which dbt has built the tables of staging. Out: rows by landing table and outcome; the user and the
item with most interactions; lines for the person who builds; and one sentence where no interaction can be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reclm.progress import say
from reclm.warehouse.near_ids import near_match

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

TABLES = ("interactions", "items", "users")
MOST_FAULTS = 8
"""How many reasons are said, the most frequent first."""


@dataclass(frozen=True)
class Fault:
    """A reason for which rows are set apart, with the first such row."""

    reason: str
    rows: int
    value: str | None
    source_file: str
    source_row: int
    remedy: str

    @property
    def example(self) -> str:
        """The faulty value, shortened; empty where the row has none."""
        if not self.value or not self.value.strip():
            return ""
        return repr(self.value if len(self.value) <= 60 else f"{self.value[:60]}…")


@dataclass(frozen=True)
class Landed:
    """The rows of a landing table by outcome. `others` counts the rows of each status without a fault."""

    table: str
    others: dict[str, int]
    faults: list[Fault] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return self.others.get("accepted", 0)

    @property
    def set_apart(self) -> int:
        return sum(fault.rows for fault in self.faults)

    @property
    def rows(self) -> int:
        return sum(self.others.values()) + self.set_apart

    @property
    def distinct_rows(self) -> int:
        """All rows but repeats, of which it is not said whether they have a fault."""
        return self.rows - self.others.get("repeat", 0)


@dataclass(frozen=True)
class Heaviest:
    """The user or the item with most accepted interactions, `rows` of `total`."""

    kind: str
    id: str
    rows: int
    total: int


def landed_rows(connection: DuckDBPyConnection) -> list[Landed]:
    """Return the counts of every landing table that has rows, faults in order of frequency."""
    found = []
    for table in TABLES:
        counts = connection.execute(
            f"select base.status, base.reason, count(*), arg_min("
            "{'value': faulty_value, 'file': source_file, 'row': source_row}, "
            "{'file': source_file, 'row': source_row}) filter (base.reason is not null), any_value(reasons.remedy) "
            f"from base_{table} as base left join quarantine_reasons as reasons "
            f"on reasons.table_name = '{table}' and reasons.reason = base.reason "
            "group by base.status, base.reason order by count(*) desc, base.reason"
        ).fetchall()
        others = {status: rows for status, reason, rows, *_ in counts if reason is None}
        faults = [
            Fault(reason, rows, first["value"], first["file"], first["row"], remedy or "")
            for _, reason, rows, first, remedy in counts
            if reason is not None
        ]
        if counts:
            found.append(Landed(table, others, faults))
    return found


def heaviest(connection: DuckDBPyConnection) -> list[Heaviest]:
    """Return the user and the item with most accepted interactions; none where there are no interactions."""
    return [
        Heaviest(kind, *row)
        for kind in ("user", "item")
        for row in connection.execute(
            f"select {kind}_id, count(*) as n, sum(count(*)) over ()::bigint from base_interactions "
            f"where status = 'accepted' group by {kind}_id order by n desc, {kind}_id limit 1"
        ).fetchall()
    ]


def say_counts(settings: Settings, connection: DuckDBPyConnection) -> None:
    """Print what was accepted, what was set apart and why, what repeats, and what looks wrong."""
    tables = landed_rows(connection)
    say("accepted  " + ", ".join(map(_accepted, tables)))
    for landed in tables:
        for line in _outcomes(settings, landed):
            say(line)
    for line in _warnings(settings, connection, tables):
        say(f"warning: {line}")


def _accepted(landed: Landed) -> str:
    if landed.accepted == landed.rows:
        return f"{landed.rows:,} {landed.table}"
    apart = f" ({landed.set_apart / landed.distinct_rows:.1%} set apart)" if landed.set_apart else ""
    return f"{landed.accepted:,} of {landed.rows:,} {landed.table}{apart}"


def _outcomes(settings: Settings, landed: Landed) -> Iterator[str]:
    words = {
        "repeat": "repeat a row that landed before: counted once, no fault",
        "pending": f"at or after data.as_of={settings.data.as_of}: not known yet",
        "not_a_like": "dislikes, or events of weight 0: no interactions",
        "superseded": f"{landed.table} that a later file replaced",
    }
    for status, meaning in words.items():
        if rows := landed.others.get(status):
            yield f"{rows:,} {meaning}"
    for fault in landed.faults[:MOST_FAULTS]:
        place = f"{fault.source_file}, row {fault.source_row:,}"
        example = f"e.g. {fault.example} ({place})" if fault.example else f"the first in {place}"
        yield f"{fault.rows:,} {landed.table} set apart as {fault.reason}, {example}. {fault.remedy}"
    if more := landed.faults[MOST_FAULTS:]:
        yield f"{sum(fault.rows for fault in more):,} {landed.table} set apart for {len(more)} other reasons"


def _warnings(settings: Settings, connection: DuckDBPyConnection, tables: list[Landed]) -> Iterator[str]:
    health = settings.health
    for landed in tables:
        if landed.set_apart > health.max_set_apart * landed.distinct_rows:
            share = landed.set_apart / landed.distinct_rows
            yield (
                f"{share:.1%} of the {landed.table} are set apart, more than health.max_set_apart="
                f'{health.max_set_apart:g}; the rows: reclm sql "select * from quarantine_{landed.table}"'
            )
            if any(fault.reason == "unknown_item" for fault in landed.faults) and (hint := near_match(connection)):
                yield f"items of the log and of the item table do not meet, e.g. {hint}"
    for most in heaviest(connection):
        if most.rows > health.max_concentration * most.total:
            yield (
                f"{most.kind} {most.id!r} holds {most.rows / most.total:.0%} of the interactions ({most.rows:,} of "
                f"{most.total:,}): a crawler or a stand-in for a missing id? Drop its rows if so"
            )
    ((dates, files, file, first),) = connection.execute(
        "select count(*), count(distinct source_file), min(source_file), min(event_ts) from base_interactions "
        "where time_form = 'month_first_assumed'"
    ).fetchall()
    if dates:
        others = f" and {files - 1:,} other files" if files > 1 else ""
        yield (
            f"{dates:,} dates of {file}{others} can be read day first or month first, and nothing tells which: month "
            f"first was assumed, the earliest is {first:%-d %B %Y}. If that is wrong: data.timestamp_format=%d/%m/%Y, "
            "with the clock's form after it"
        )


def why_unusable(settings: Settings, connection: DuckDBPyConnection) -> str:
    """Return why the interactions cannot be used, in one sentence; empty where they can."""
    landed = next((found for found in landed_rows(connection) if found.table == "interactions"), None)
    if landed is None:
        return "no interaction has landed; bring a log with `reclm ingest`"
    if landed.accepted:
        return _one_moment(connection)
    said = f"0 of {landed.rows:,} interactions can be used: "
    if pending := landed.others.get("pending"):
        ((first, last),) = connection.execute(
            "select min(event_ts), max(event_ts) from base_interactions where status = 'pending'"
        ).fetchall()
        return (
            f"{said}{pending:,} lie at or after data.as_of={settings.data.as_of}. They are from {first:%Y-%m-%d} to "
            f"{last:%Y-%m-%d}; choose an as-of after the first, or leave data.as_of empty to know all of them"
        )
    parts = [
        f"{fault.rows:,} {fault.reason}" + (f" (e.g. {fault.example})" if fault.example else "")
        for fault in landed.faults
    ]
    if disliked := landed.others.get("not_a_like"):
        parts.append(f"{disliked:,} dislikes or events of weight 0 (data.min_weight, data.event_weights)")
    if landed.faults and landed.faults[0].reason == "unknown_item" and (hint := near_match(connection)):
        return f"{said}{landed.faults[0].rows:,} unknown_item, e.g. {hint}" + "".join(f"; {part}" for part in parts[1:])
    remedy = f". {landed.faults[0].remedy}" if landed.faults else ""
    return said + "; ".join(parts) + remedy


def _one_moment(connection: DuckDBPyConnection) -> str:
    """Why a log that is split by time cannot be cut: all its times are one; empty where there are more."""
    ((rows, first, last),) = connection.execute(
        "select count(*), min(event_ts), max(event_ts) from base_interactions where status = 'accepted' "
        "and (select split_mode from stg_parameters) = 'temporal'"
    ).fetchall()
    if first != last or not rows:
        return ""
    return (
        f"{rows:,} interactions lie at one moment, {first:%Y-%m-%d %H:%M:%S} UTC, which cannot be cut by time into "
        "train and test. If it is the time of an export, remove that column, and rows are drawn into train and test by "
        "chance; if another column has the times, name it in data.timestamp_column; else bring a longer log"
    )
