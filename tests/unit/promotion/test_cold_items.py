"""What the run of every few minutes does: everything once the build has changed, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from unit import backbones_world as bw

from reclm import stages
from reclm.dataset import TrainingData
from reclm.promotion import new_items
from reclm.settings.tree import Settings
from reclm.storage.files import write_json

STEPS = ["build features", "profile", "embed", "build profiles", "publish"]


class Stages:
    """Stand-ins that record their calls. The champion lacks `missing` items, and gives none of them a vector."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self.calls, self.missing, self.published = settings, [], 0, True
        self.features = "f1"
        monkeypatch.setattr(stages, "build", lambda _, phase: self.calls.append(f"build {phase}"))
        for name in ("profile", "embed", "publish"):
            monkeypatch.setattr(stages, name, lambda *_, name=name, **__: self.calls.append(name))
        monkeypatch.setattr("reclm.features.publish.is_published", lambda _: self.published)
        monkeypatch.setattr("reclm.promotion.challenger.versions_in_use", lambda _: ["champion"])
        monkeypatch.setattr("reclm.promotion.new_items.candidate_status", self.status)
        monkeypatch.setattr("reclm.promotion.new_items.place_new_items", self.place)

    def status(self, _: Settings, version: str) -> dict[str, Any]:
        return {"version": version, "items": 9, "missing": self.missing, "added": 0}

    def place(self, settings: Settings, version: str) -> dict[str, Any]:
        self.calls.append("place")
        new_items.remember_tried(settings, version, self.features)
        return self.status(settings, version)

    def run(self) -> list[str]:
        self.calls.clear()
        write_json(self.settings.paths.feast / "published.json", {"version": self.features})
        stages.cold_items(self.settings)
        return [*self.calls]


@pytest.fixture
def steps(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(workspace_settings(), monkeypatch)


class TestARun:
    def test_asks_the_build_alone_when_nothing_is_new(self, steps: Stages) -> None:
        assert steps.run() == STEPS[:1]

    def test_publishes_a_changed_build_also_when_no_item_lacks_a_vector(self, steps: Stages) -> None:
        steps.published = False
        assert steps.run() == STEPS

    def test_tries_an_item_without_text_and_profile_once_for_each_state_of_the_features(self, steps: Stages) -> None:
        steps.published, steps.missing = False, 1
        assert steps.run() == [*STEPS, "place"]
        steps.published = True
        assert steps.run() == STEPS[:1]
        steps.features = "f2"
        assert steps.run() == [*STEPS[:1], "place"]


class TestAnItemThatIsTried:
    def test_is_tried_again_with_features_that_were_published_while_it_was(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, data = workspace_settings(), bw.toy_data()
        published = settings.paths.feast / "published.json"

        def load(*_: object) -> TrainingData:
            write_json(published, {"version": "f2"})
            return data

        backbone = SimpleNamespace(vectors_of_new_items=lambda _: np.full((len(data.item_ids), 2), np.nan))
        for name, stand_in in {
            "reclm.promotion.new_items.candidate_status": lambda *_: {"version": "champion", "items": 9, "missing": 1},
            "reclm.promotion.new_items._candidates": lambda *_: data.item_ids[1:],
            "reclm.promotion.challenger.versions_in_use": lambda _: ["champion"],
            "reclm.storage.artifacts.load": lambda *_: SimpleNamespace(path=None),
            "reclm.backbones.loading.load_backbone": lambda _: backbone,
            "reclm.features.frame.load_training_data": load,
            "reclm.features.fused.publish_items": lambda *_: None,
            "reclm.warehouse.reading.snapshot_as_of": lambda *_: None,
        }.items():
            monkeypatch.setattr(name, stand_in)
        write_json(published, {"version": "f1"})
        assert new_items.place_new_items(settings)["missing"] == 1
        assert not new_items.were_tried(settings, "champion")
        new_items.place_new_items(settings)
        assert new_items.were_tried(settings, "champion")
