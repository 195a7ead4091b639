"""The entry point for Python: `reclm.load_champion(workspace)` returns the model that a workspace recommends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from integration import serving_world as world
from unit import backbones_world as bw

import reclm
from reclm.dataset import SERVED
from reclm.errors import WorkspaceError
from reclm.features.fused import publish_items
from reclm.settings.tree import Settings
from reclm.storage.files import read_json


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return world.open_shop(tmp_path_factory.mktemp("shop"))


class TestLoadingTheChampion:
    def test_it_recommends_the_withheld_item_of_the_users_own_circle(self, shop: Settings) -> None:
        model = reclm.load_champion(shop.paths.root)
        item_ids, scores = model.recommend(["user 3"], k=2)
        assert item_ids.shape == scores.shape == (1, 2)
        assert f"item '{bw.WITHHELD[3]}'" in item_ids[0]

    def test_the_path_may_be_text(self, shop: Settings) -> None:
        assert repr(reclm.load_champion(str(shop.paths.root))).startswith("BiasMF(augment")

    def test_without_a_path_the_environment_names_the_workspace(
        self, shop: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RECLM_WORKSPACE", str(shop.paths.root))
        assert "user 3" in reclm.load_champion().fitted.user_ids

    def test_it_knows_the_items_added_since_training(self, shop: Settings) -> None:
        before = reclm.load_champion(shop.paths.root)
        like = before.fitted.item_position["item '0'"]
        vector = before.fitted.vectors[SERVED].items[[like]]
        version = read_json(shop.paths.champion)["version"]
        publish_items(shop, version, ["brand new"], np.ascontiguousarray(vector), world.AS_OF)
        similar, _ = reclm.load_champion(shop.paths.root).similar_items("brand new", k=1)
        assert similar.tolist() == [["item '0'"]]

    def test_a_workspace_without_a_champion_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match="no champion yet"):
            reclm.load_champion(tmp_path)


class TestImporting:
    def test_importing_the_package_imports_nothing_heavy(self) -> None:
        code = "import sys, reclm; print({'torch', 'numpy', 'duckdb', 'feast', 'pydantic'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
