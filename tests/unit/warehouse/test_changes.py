"""How much of the warehouse a build touches: a delivery of items alone, profiles of items alone, or everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.settings.tree import Settings
from reclm.storage.schemas import LANDING
from reclm.warehouse.changes import EVERYTHING, Scope, scope_of

BEFORE = [["interactions", "log", 9], ["items", "old", 9]]
OLD = [{"item_id": "a", "title": "Tea"}, {"item_id": "b", "title": "Rope"}, {"item_id": "c", "title": "Cup"}]


class Shop:
    """A landing zone with an item table, and a warehouse in which somebody has item `a`."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(workspace=folder)
        self.paths = self.settings.paths
        self.batches = [*BEFORE]
        self.land("_empty", [])
        self.land("old", OLD)
        self.paths.warehouse.parent.mkdir(parents=True)
        self.sql(
            "create table base_interactions as select * from (values "
            "('a', 'accepted', null, timestamptz '2024-01-01'), "
            "('waits', 'quarantined', 'unknown_item', timestamptz '2024-01-02')) as t(item_id, status, reason, "
            "event_ts)"
        )
        self.sql("create table stg_items as select 'a' as item_id")

    def sql(self, statement: str) -> None:
        with duckdb.connect(str(self.paths.warehouse)) as connection:
            connection.execute(statement)

    def land(self, batch: str, rows: list[dict[str, Any]]) -> None:
        path = self.paths.landing / "items" / f"{batch}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = [{**row, "source_file": "f", "source_row": number} for number, row in enumerate(rows, start=1)]
        pq.write_table(pa.Table.from_pylist(numbered, schema=LANDING["items"]), path)

    def deliver(self, batch: str, *rows: dict[str, Any]) -> Scope:
        self.land(batch, list(rows))
        self.batches.append(["items", batch, 9])
        return self.scope()

    def scope(self, **now: Any) -> Scope:
        before = {"base": "b", "as_of": "2024-02-01T00:00:00+00:00", "batches": BEFORE}
        return scope_of(self.settings, before, before | {"batches": self.batches} | now, ["features"], force=False)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


class TestADelivery:
    def test_of_a_new_item_touches_what_depends_on_items_alone(self, shop: Shop) -> None:
        assert shop.deliver("new", {"item_id": "d", "title": "Pan"}) == Scope(("features",), ("items",), ("d",))

    def test_names_items_whose_text_is_another_one_and_not_those_that_came_again(self, shop: Shop) -> None:
        assert shop.deliver("again", *OLD[:2], {"item_id": "c", "title": "Blue cup"}).items == ("c",)

    def test_counts_the_first_row_of_an_item_in_a_batch_as_staging_does(self, shop: Shop) -> None:
        scope = shop.deliver("twice", OLD[0], {"item_id": "a", "title": "Coffee"}, {"item_id": "d"}, {"item_id": None})
        assert scope.items == ("d",)

    def test_compares_with_the_newest_batch(self, shop: Shop) -> None:
        shop.deliver("changed", {"item_id": "b", "title": "Line"})
        assert shop.deliver("back", OLD[1]).items == ()

    @pytest.mark.parametrize(
        "row",
        [
            {"item_id": "a", "title": "Coffee"},  # somebody has it: its text is in prompts, and in all weights of words
            {"item_id": "waits", "title": "New"},  # its interactions are known by now
            {"item_id": "d", "zero_shot": "true"},  # the first mark turns the others off that are drawn
            {"item_id": "d", "full_shot_candidate": "false"},
            {"item_id": "d", "created_ts": "03/14/2024"},  # a day above 12 tells how dates of other files are read
        ],
    )
    def test_that_other_tables_depend_on_touches_everything(self, row: dict[str, Any], shop: Shop) -> None:
        assert shop.deliver("new", row) == EVERYTHING

    def test_of_the_first_item_table_touches_everything(self, shop: Shop) -> None:
        shop.sql("delete from stg_items")
        assert shop.deliver("new", {"item_id": "d"}) == EVERYTHING

    @pytest.mark.parametrize(
        "now",
        [
            {"base": "other code or settings"},
            {"batches": [*BEFORE, ["interactions", "more", 9]]},
            {"batches": [BEFORE[0], ["items", "old", 8]]},
        ],
    )
    def test_beside_any_other_change_touches_everything(self, now: dict[str, Any], shop: Shop) -> None:
        assert shop.scope(**now) == EVERYTHING


class TestALaterAsOf:
    LATER = "2024-02-02T00:00:00+00:00"

    def test_that_makes_nothing_known_touches_what_depends_on_items_alone(self, shop: Shop) -> None:
        assert shop.scope(as_of=self.LATER) == Scope(("features",), ("items",), ())

    def test_touches_everything_when_interactions_wait_for_it(self, shop: Shop) -> None:
        shop.sql("update base_interactions set status = 'pending' where item_id = 'a'")
        assert shop.scope(as_of=self.LATER) == EVERYTHING

    def test_an_earlier_one_touches_everything(self, shop: Shop) -> None:
        assert shop.scope(as_of="2024-01-02T00:00:00+00:00") == EVERYTHING


class TestTheFirstBuildAndAForcedOne:
    def test_touch_everything(self, shop: Shop) -> None:
        now = {"base": "b", "as_of": "", "batches": BEFORE}
        assert scope_of(shop.settings, {}, now, ["features"], force=False) == EVERYTHING
        assert scope_of(shop.settings, now, now, ["features", "profiles"], force=True) == EVERYTHING
