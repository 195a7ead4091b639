"""What the run of every few minutes does: everything once the build has changed, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reclm import stages
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
        from reclm.promotion.new_items import remember_tried

        self.calls.append("place")
        remember_tried(settings, version)
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
