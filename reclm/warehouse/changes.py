"""Decide how much of the warehouse a build has to touch.

In: what the last build was made from and what there is now. Out: a `Scope`, the tags of the dbt models that run. Most
builds run whole phases. Two frequent changes run less: items came that no interaction names (tag `items`), and profiles
of items alone came (tag `item_profiles`). The tables are the same as those of a whole build; what cannot be proven to
leave the other tables as they are makes a whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.progress import detail
from reclm.storage import artifacts
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import is_addition

if TYPE_CHECKING:
    import duckdb

    from reclm.settings.tree import Settings

PHASES = ("features", "profiles", "evaluation")

CHANGED_ITEMS = """
with landed as (
  select
    item_id,
    list_position($files, filename) as batch,
    {'batch': batch, 'row': -source_row} as landed_at,
    {'title': title, 'text': text, 'categories': categories, 'created_ts': created_ts} as content,
    nullif(trim(concat(zero_shot, full_shot_candidate)), '') as flags,
  from read_parquet($files, union_by_name = true, filename = true)
  where item_id is not null
),

before as (
  select item_id, arg_max({'content': content, 'flags': flags}, landed_at) as newest
  from landed
  where batch <= $n_before
  group by item_id
),

after as (
  select item_id, arg_max({'content': content, 'flags': flags}, landed_at) as newest
  from landed
  group by item_id
)

select after.item_id, coalesce(after.newest.flags, before.newest.flags) is not null as is_flagged
from after
left join before on before.item_id = after.item_id
where after.newest is distinct from before.newest
order by after.item_id
"""
"""Items whose newest landed row is another one than before; of one batch, staging takes the first row of an item."""


@dataclass(frozen=True)
class Scope:
    """What a build runs: the models with `tags`, or all of them from an empty file where there are none.

    `phases` are up to date afterwards. `items` are the ids whose rows the incremental models write.
    """

    phases: tuple[str, ...]
    tags: tuple[str, ...] = ()
    items: tuple[str, ...] = ()

    @property
    def is_delivery(self) -> bool:
        return "items" in self.tags


EVERYTHING = Scope(PHASES)


def scope_of(
    settings: Settings, before: Mapping[str, Any], now: Mapping[str, Any], stale: Sequence[str], *, force: bool
) -> Scope:
    """Return the scope of a build that brings the `stale` phases up to date.

    `before` and `now` are `sources.inputs_of_build` of the last build and of this one. Reads the published warehouse.
    """
    if force or not before:
        return EVERYTHING if "features" in stale or not before else Scope(tuple(stale), tuple(stale))
    tags: list[str] = []
    items: tuple[str, ...] = ()
    if "features" in stale:
        delivered = _delivered_items(settings, before, now)
        if delivered is None:
            return EVERYTHING
        tags, items = ["items"], delivered
    if "profiles" in stale:
        tags.append("item_profiles" if _only_items_have_new_profiles(settings, before, now) else "profiles")
    tags += [name for name in stale if name == "evaluation"]
    return Scope(tuple(stale), tuple(tags), items)


def _delivered_items(settings: Settings, before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the new and changed items when nothing else changes a table; None, and say why, when something may."""
    old, new = before["batches"], now["batches"][len(before["batches"]) :]
    if before["base"] != now["base"] or now["batches"][: len(old)] != old or any(table != "items" for table, *_ in new):
        return None
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        changed = _changed_items(connection, settings.paths, old, new) if new else []
        reason = _why_not_alone(
            connection, changed, _dates_that_tell(connection, settings.paths, new)
        ) or _why_as_of_matters(
            connection, before["as_of"], now["as_of"], any(table == "impressions" for table, *_ in old)
        )
    if reason:
        detail(f"all tables are built again: {reason}")
        return None
    return tuple(item for item, _ in changed)


def _changed_items(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, old: Iterable[Sequence[Any]], new: Iterable[Any]
) -> list[tuple[str, bool]]:
    """Return (item, whether it is marked as zero-shot or candidate, now or before) of new and changed items."""

    def files(batches: Iterable[Sequence[Any]]) -> list[str]:
        names = [batch for table, batch, *_ in batches if table == "items"]
        return [str(workspace.landing / "items" / f"{name}.parquet") for name in names]

    earlier = [str(workspace.landing / "items" / "_empty.parquet"), *files(old)]  # the empty one has every column
    parameters = {"files": [*earlier, *files(new)], "n_before": len(earlier)}
    return [(str(item), bool(flag)) for item, flag in connection.execute(CHANGED_ITEMS, parameters).fetchall()]


def _dates_that_tell(connection: duckdb.DuckDBPyConnection, workspace: Workspace, new: Iterable[Sequence[Any]]) -> str:
    """Return a date with day or month first among the delivered ones: it may tell how those of other files are read."""
    files = [str(workspace.landing / "items" / f"{batch}.parquet") for _, batch, *_ in new]
    query = "select min(created_ts) from read_parquet($1) where regexp_matches(trim(created_ts), $2)"
    found = connection.execute(query, [files, r"^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}"]).fetchall() if files else [(None,)]
    return found[0][0] or ""


def _why_not_alone(connection: duckdb.DuckDBPyConnection, changed: Sequence[tuple[str, bool]], date: str) -> str:
    """Return why new and changed items change tables of other items or users; '' when they do not.

    `date` is a date of theirs that may tell how those of other files are read, '' when there is none.
    """
    ids = [item for item, _ in changed]
    if not ids:
        return ""
    if date:
        return f"the date {date!r} of a delivered item may tell how those of other files are read"
    if flagged := [item for item, is_flagged in changed if is_flagged]:
        return f"the delivered item {flagged[0]!r} says whether it is zero-shot or a candidate"
    if not connection.execute("select count(*) from stg_items").fetchall()[0][0]:
        return "the first item table has come"
    named = connection.execute(
        "select item_id from base_interactions semi join (select unnest($1) as item_id) using (item_id) limit 1", [ids]
    ).fetchall()
    return f"interactions name the delivered item {named[0][0]!r}" if named else ""


def _why_as_of_matters(connection: duckdb.DuckDBPyConnection, before: str, now: str, has_impressions: bool) -> str:
    """Return why the later as-of changes tables; '' when it only stands in the parameters."""
    if before == now:
        return ""
    if _moment(now) < _moment(before):
        return "the as-of is earlier than that of the last build"
    waiting = connection.execute(
        "select count(*) from base_interactions where status = 'pending' "
        "or (reason = 'future_event' and event_ts <= current_timestamp)"
    ).fetchall()[0][0]
    if waiting:
        return f"{waiting:,} landed interactions are known by now"
    return "impressions may be known by now" if has_impressions else ""


def _moment(as_of: str) -> datetime:
    """Return the as-of as a moment; without one everything is known."""
    found = datetime.fromisoformat(as_of) if as_of else datetime.max
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _only_items_have_new_profiles(settings: Settings, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the new artifacts change no table of user profiles.

    That is so when artifacts with item profiles alone came on top of the current ones, and all user profiles have their
    vector already.
    """
    (old_current, old), (current, there) = before["profiles"], now["profiles"]
    new = [one for one in there if one not in old]
    kept = [row for row in old_current if row["kind"] == "profiles"]
    if any(one not in there for one in old) or any(row not in current for row in kept):
        return False
    if {row["encoder"] for row in old_current} != {row["encoder"] for row in current}:
        return False
    added = [artifacts.load(settings.paths, kind, version) for kind, version, _ in new if kind == "profiles"]
    if not all(is_addition(artifact) for artifact in added):
        return False
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        lacking = "select count(*) from fct_user_profiles where not has_embedding and trim(profile) <> ''"
        return not connection.execute(lacking).fetchall()[0][0]
