"""Read what the explorer shows besides features.

In: the id of a user or an item; none for the state of the service. Out: rows of the published warehouse. Each call
opens the published copy again, so that a page shows the current build.
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
MAX_HISTORY, MAX_NEIGHBOURS, MAX_USERS, MAX_BARS = 40, 10, 12, 8


@dataclass(frozen=True)
class UserRecords:
    """Hold a user's history (newest first), its categories, the user's neighbours, and all their profiles over time."""

    history: list[Row]
    n_history: int
    categories: list[Row]
    neighbours: list[Row]
    profiles: list[Row]


@dataclass(frozen=True)
class ItemRecords:
    """Hold an item's text, its users, their number by activity, and all its profiles over time."""

    text: str
    created: Any
    audience: list[Row]
    users: list[Row]
    profiles: list[Row]


@dataclass(frozen=True)
class ServiceStatus:
    """Hold the current build, the latest promotion decisions, and the health checks that warn."""

    build: Row
    promotions: list[Row]
    warnings: list[Row]


def user_records(settings: Settings, user_id: str) -> UserRecords:
    """Read what the warehouse knows about a user; lists are empty where it knows nothing."""
    with _reader(settings) as query:
        history = query(
            "select known.item_id, items.title, known.event_ts from fct_known_interactions as known "
            "inner join dim_items as items using (item_id) where known.snapshot = 'serve' and known.user_id = ? "
            f"order by known.recency_rank, known.item_id limit {MAX_HISTORY}",
            user_id,
        )
        categories = query(
            "with known as (select item_id from fct_known_interactions where snapshot = 'serve' and user_id = ?) "
            "select category as name, count(*) as n from known inner join dim_items using (item_id), "
            f"unnest(categories) as named(category) group by all order by n desc, name limit {MAX_BARS}",
            user_id,
        )
        counted = query(
            "select count(*) as n from fct_known_interactions where snapshot = 'serve' and user_id = ?", user_id
        )
        neighbours = query(
            "select neighbours.neighbour_id, neighbours.score, profiles.profile from fct_user_neighbours as neighbours "
            "left join dim_user_profiles as profiles on profiles.user_id = neighbours.neighbour_id "
            "and profiles.snapshot = 'serve' where neighbours.snapshot = 'serve' and neighbours.user_id = ? "
            f"order by neighbours.rank limit {MAX_NEIGHBOURS}",
            user_id,
        )
        profiles = query(_profiles("user"), user_id)
    return UserRecords(history, counted[0]["n"], categories, neighbours, profiles)


def item_records(settings: Settings, item_id: str) -> ItemRecords:
    """Read what the warehouse knows about an item; an unknown item has no text and no users."""
    with _reader(settings) as query:
        own = query("select text, created_ts from dim_items where item_id = ?", item_id)
        known = (
            "select known.user_id, status.activity, status.n_interactions from fct_known_interactions as known "
            "inner join fct_user_status as status "
            "on status.user_id = known.user_id and status.snapshot = known.snapshot "
            "where known.snapshot = 'serve' and known.item_id = ?"
        )
        audience = query(
            f"select activity as name, count(*) as n from ({known}) group by all order by min(n_interactions)", item_id
        )
        users = query(
            f"select known.user_id, profiles.profile from ({known}) as known left join dim_user_profiles as profiles "
            "on profiles.user_id = known.user_id and profiles.snapshot = 'serve' "
            f"order by known.n_interactions desc, known.user_id limit {MAX_USERS}",
            item_id,
        )
        profiles = query(_profiles("item"), item_id)
    about = own[0] if own else {"text": "", "created_ts": None}
    return ItemRecords(about["text"] or "", about["created_ts"], audience, users, profiles)


def service_status(settings: Settings) -> ServiceStatus:
    """Read the status that the first page shows."""
    with _reader(settings) as query:
        tables = {row["table_name"] for row in query("select table_name from information_schema.tables")}
        promotions, warnings = [], []
        if "fct_promotions" in tables:
            promotions = query(
                "select decided_at, decision, candidate_model, candidate_variant, reason from fct_promotions "
                "order by decided_at desc limit 5"
            )
        if "fct_health" in tables:
            warnings = query(
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
def _reader(settings: Settings) -> Iterator[Any]:
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        yield lambda sql, *values: _rows(connection, sql, values)


def _rows(connection: DuckDBPyConnection, query: str, values: tuple[Any, ...]) -> list[Row]:
    answer = connection.execute(query, list(values))
    columns = [column[0] for column in answer.description or []]
    return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
