"""Items are delivered after a build: which tables are touched, and that they are those of a whole build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from integration import dbt_world

from reclm.settings.tree import Settings
from reclm.storage.files import read_json
from reclm.warehouse.build import build

pytestmark = pytest.mark.full

USERS_TABLES = {"base_interactions", "int_known_interactions", "fct_user_prompts", "feast_user_activity"}
NEW = {"item_id": "new kettle", "title": "green kettle", "text": "A kettle for tea.", "categories": "home|tea"}
SILENT = {"item_id": "without text"}
DELIVERIES = [
    [NEW, SILENT, {"item_id": " "}],
    [
        *dbt_world.good_items()[5:9],
        NEW | {"title": "blue rope", "text": "For climbing."},
    ],  # one changed, four as before
]


def land(settings: Settings, deliveries: list[Any]) -> None:
    tables = {"items": [dbt_world.good_items(), *deliveries], "interactions": [dbt_world.good_log()]}
    dbt_world.land(settings.paths, "temporal", has_event_ts=True, **tables)
    content = read_json(settings.paths.dataset)
    content["batches"].sort(key=lambda batch: (batch["table"] == "items", -int(batch["batch"][-1])))  # as they came
    dbt_world.write_json(settings.paths.dataset, content)


def models_run(settings: Settings) -> set[str]:
    results = read_json(settings.paths.root / "warehouse" / "dbt" / "target" / "run_results.json")["results"]
    return {r["unique_id"].split(".")[2] for r in results if r["unique_id"].startswith("model.")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The builds after each of two deliveries, and a whole build of the same landing zone."""
    shop = dbt_world.settings(tmp_path_factory.mktemp("delivered") / "workspace")
    land(shop, [])
    builds, touched = [build(shop)], []
    for number in range(1, len(DELIVERIES) + 1):
        land(shop, DELIVERIES[:number])
        builds.append(build(shop, "features"))
        touched.append(models_run(shop))
    whole = dbt_world.settings(tmp_path_factory.mktemp("whole") / "workspace")
    shutil.copytree(shop.paths.landing, whole.paths.landing)
    return {"shop": shop, "builds": builds, "touched": touched, "whole": whole, "of_whole": build(whole)}


class TestADeliveryOfItems:
    def test_leaves_the_tables_of_users_alone(self, world: dict[str, Any]) -> None:
        for touched in world["touched"]:
            assert "dim_items" in touched and "fct_item_prompts" in touched
            assert not touched & USERS_TABLES

    def test_after_two_deliveries_every_table_is_that_of_a_whole_build(self, world: dict[str, Any]) -> None:
        found, expected = (dbt_world.tables(world[name].paths.warehouse) for name in ("shop", "whole"))
        assert set(found) == set(expected)
        assert [name for name in expected if found[name] != expected[name]] == ["stg_delivered_items"]
        assert ("new kettle",) in {row[:1] for row in found["dim_items"]}
        assert any("new kettle" in row for row in found["int_item_text_neighbours"])

    def test_has_the_fingerprint_of_a_whole_build(self, world: dict[str, Any]) -> None:
        fingerprints = [one["features_fingerprint"] for one in world["builds"]]
        assert len(set(fingerprints)) == 3 and fingerprints[-1] == world["of_whole"]["features_fingerprint"]

    def test_keeps_the_files_of_users_and_writes_those_of_items(self, world: dict[str, Any]) -> None:
        first, *_, last = (one["marts"] for one in world["builds"])
        assert first["feast_user_activity"] == last["feast_user_activity"]
        assert first["feast_item_activity"] != last["feast_item_activity"]
        shop: Path = world["shop"].paths.root
        assert all((shop / file).exists() for file in last.values())
