"""What the explorer shows beyond the feature store: rows of the published warehouse, read-only, by an id.

Each question opens the published copy anew, so a page shows the build that stands when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reclm.storage.files import read_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

Row = dict[str, Any]
MOST_HISTORY, MOST_NEIGHBOURS, MOST_PEOPLE, MOST_BARS = 40, 10, 12, 8


@dataclass(frozen=True)
class UserRecords:
    """A user's history, newest first, what its categories are, whom they resemble, and every profile written of them."""

    history: list[Row]
    n_history: int
    categories: list[Row]
    neighbours: list[Row]
    profiles: list[Row]


@dataclass(frozen=True)
class ItemRecords:
    """An item's own words, who has it, by how active they are, and every profile written of it."""

    text: str
    created: Any
    audience: list[Row]
    people: list[Row]
    profiles: list[Row]


@dataclass(frozen=True)
class ServiceStatus:
    """How fresh everything is, the latest decisions, and the health checks that warn."""

    build: Row
    promotions: list[Row]
    warnings: list[Row]


def user(settings: Settings, user_id: str) -> UserRecords:
    """What the warehouse holds of a user; empty lists where it holds nothing."""
    with _asking(settings) as ask:
        history = ask(
            "select known.item_id, items.title, known.event_ts from fct_known_interactions as known "
            "inner join dim_items as items using (item_id) where known.snapshot = 'final' and known.user_id = ? "
            f"order by known.recency_rank, known.item_id limit {MOST_HISTORY}",
            user_id,
        )
        categories = ask(
            "with known as (select item_id from fct_known_interactions where snapshot = 'final' and user_id = ?) "
            "select category as name, count(*) as n from known inner join dim_items using (item_id), "
            f"unnest(categories) as named(category) group by all order by n desc, name limit {MOST_BARS}",
            user_id,
        )
        counted = ask(
            "select count(*) as n from fct_known_interactions where snapshot = 'final' and user_id = ?", user_id
        )
        neighbours = ask(
            "select neighbours.neighbour_id, neighbours.score, profiles.profile from fct_user_neighbours as neighbours "
            "left join dim_user_profiles as profiles on profiles.user_id = neighbours.neighbour_id "
            "and profiles.snapshot = 'final' where neighbours.snapshot = 'final' and neighbours.user_id = ? "
            f"order by neighbours.rank limit {MOST_NEIGHBOURS}",
            user_id,
        )
        profiles = ask(_profiles("user"), user_id)
    return UserRecords(history, counted[0]["n"], categories, neighbours, profiles)


def item(settings: Settings, item_id: str) -> ItemRecords:
    """What the warehouse holds of an item; an item it does not know has no text and nobody."""
    with _asking(settings) as ask:
        own = ask("select text, created_ts from dim_items where item_id = ?", item_id)
        known = (
            "select known.user_id, status.activity, status.n_interactions from fct_known_interactions as known "
            "inner join fct_user_status as status on status.user_id = known.user_id and status.snapshot = known.snapshot "
            "where known.snapshot = 'final' and known.item_id = ?"
        )
        audience = ask(
            f"select activity as name, count(*) as n from ({known}) group by all order by min(n_interactions)", item_id
        )
        people = ask(
            f"select known.user_id, profiles.profile from ({known}) as known left join dim_user_profiles as profiles "
            "on profiles.user_id = known.user_id and profiles.snapshot = 'final' "
            f"order by known.n_interactions desc, known.user_id limit {MOST_PEOPLE}",
            item_id,
        )
        profiles = ask(_profiles("item"), item_id)
    about = own[0] if own else {"text": "", "created_ts": None}
    return ItemRecords(about["text"] or "", about["created_ts"], audience, people, profiles)


def standing(settings: Settings) -> ServiceStatus:
    """For the first page."""
    with _asking(settings) as ask:
        there = {row["table_name"] for row in ask("select table_name from information_schema.tables")}
        promotions, warnings = [], []
        if "fct_promotions" in there:
            promotions = ask(
                "select decided_at, decision, candidate_model, candidate_variant, reason from fct_promotions "
                "order by decided_at desc limit 5"
            )
        if "fct_health" in there:
            warnings = ask(
                "select name, subject, status, advice from fct_health where status not in ('ok', 'unknown') "
                "and checked_at = (select max(checked_at) from fct_health) order by all limit 10"
            )
    return ServiceStatus(read_json(settings.paths.current_build), promotions, warnings)


def _profiles(kind: str) -> str:
    return (
        f"select distinct on (profile, engine) as_of, engine, profile, quality from fct_{kind}_profiles "
        f"where {kind}_id = ? order by profile, engine, as_of desc"
    )


@contextmanager
def _asking(settings: Settings) -> Iterator[Any]:
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        yield lambda query, *values: _rows(connection, query, values)


def _rows(connection: DuckDBPyConnection, query: str, values: tuple[Any, ...]) -> list[Row]:
    answer = connection.execute(query, list(values))
    columns = [column[0] for column in answer.description or []]
    return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
