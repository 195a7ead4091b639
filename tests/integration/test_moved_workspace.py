"""A workspace that was moved to another folder goes on working, and no file of it names the folder it was made in."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from integration import dbt_world
from integration import feast_world as fw
from integration import serving_world as world
from unit import backbones_world as bw

from reclm.features.frame import load_training_data
from reclm.features.online import read_user
from reclm.features.publish import publish
from reclm.features.store import open_store
from reclm.serving.offline import recommend_to_users
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.storage.files import read_json
from reclm.warehouse.build import build
from reclm.warehouse.reading import connect


def moved(settings: Settings, folder: Path) -> Settings:
    """The same settings for the workspace at its new place; nothing is left at the old one."""
    shutil.move(settings.paths.root, folder)
    return settings.model_copy(update={"workspace": folder})


def files_that_name(root: Path, folder: Path) -> list[str]:
    """Files under `root` that hold the path of `folder`; dbt's own cache of what it parsed aside."""
    return [
        file.relative_to(root).as_posix()
        for file in sorted(root.rglob("*"))
        if file.is_file() and str(folder).encode() in file.read_bytes() and "dbt" not in file.relative_to(root).parts
    ]


class TestAShop:
    @pytest.fixture(scope="class")
    def before(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("made") / "here"

    @pytest.fixture(scope="class")
    def shop(self, before: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        return moved(world.open_shop(before), tmp_path_factory.mktemp("moved") / "there's")

    def test_no_file_names_the_folder_it_was_made_in(self, shop: Settings, before: Path) -> None:
        assert files_that_name(shop.paths.root, before) == []

    def test_its_features_are_read_online(self, shop: Settings) -> None:
        version = read_json(shop.paths.champion)["version"]
        found = read_user(open_store(shop), "user 3", version)
        assert found is not None
        assert found.profile is not None

    def test_its_champion_recommends(self, shop: Settings) -> None:
        (answer,) = recommend_to_users(shop, ["user 3"], top_k=2)
        assert f"item '{bw.WITHHELD[3]}'" in [one["item_id"] for one in answer["items"]]

    def test_the_service_answers_from_its_store(self, shop: Settings) -> None:
        with world.opened_client(shop) as client:
            assert world.recommend(client, user_id=world.NEWCOMER, k=5)["source"] == "profile"

    def test_publishing_finds_that_nothing_changed(self, shop: Settings) -> None:
        version = read_json(shop.paths.feast / "published.json")["version"]
        publish(shop)
        assert read_json(shop.paths.feast / "published.json")["version"] == version


class TestFeaturesOfAMovedWorkspace:
    def test_training_reads_them_point_in_time(self, tmp_path: Path) -> None:
        made = load(workspace=tmp_path / "here", environment={})
        fw.write_warehouse(made, fw.USERS, fw.ITEMS, [("select", "u1", "i1")])
        fw.write_marts(made, fw.marts())
        publish(made)
        expected = load_training_data(made, "select")
        data = load_training_data(moved(made, tmp_path / "there"), "select")
        assert data.item_profile is not None and expected.item_profile is not None
        assert np.array_equal(data.item_profile, expected.item_profile, equal_nan=True)


class TestAWarehouse:
    def test_it_is_reused_read_and_built_further(self, tmp_path: Path) -> None:
        made = dbt_world.settings(tmp_path / "here")
        dbt_world.land(made.paths, "temporal", has_event_ts=True, interactions=[dbt_world.good_log()])
        first = build(made)
        before = dbt_world.tables(made.paths.warehouse)
        there = moved(made, tmp_path / "there")
        assert files_that_name(there.paths.root, tmp_path / "here") == []
        assert dbt_world.tables(there.paths.warehouse) == before
        with connect(there) as connection:
            assert connection.execute("select count(*) from feast_user_activity").fetchall()[0][0] > 0
        assert build(there)["build_id"] == first["build_id"]
        assert build(there, "evaluation", force=True)["features_fingerprint"] == first["features_fingerprint"]
        assert dbt_world.tables(there.paths.warehouse) == before
