"""The estimate before a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reclm.cli import estimate
from reclm.cli.estimate import Landed
from reclm.settings.tree import Settings

SHOP = Landed(interactions=44_976, users=1500, items=1000)


@pytest.fixture
def landed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "count_landed", lambda settings: SHOP)


@pytest.mark.usefixtures("landed")
class TestAnEstimate:
    def test_of_keywords_holds_no_language_model(self, workspace_settings: Callable[..., Settings]) -> None:
        by_keywords = estimate.estimate(workspace_settings(profiles={"engine": "extractive"}))
        written = estimate.estimate(workspace_settings(profiles={"engine": "transformers"}))
        assert by_keywords["language model"] == 0 < written["language model"]
        assert by_keywords["build"] == written["build"]

    def test_grows_with_the_models(self, workspace_settings: Callable[..., Settings]) -> None:
        one, two = (
            estimate.estimate(workspace_settings(train={"models": models, "jobs": 1}))["training"]
            for models in (("als",), ("als", "ncf"))
        )
        assert two > one > 0

    def test_of_closed_forms_grows_faster_with_the_items(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = workspace_settings(train={"models": ("ease",), "jobs": 1})
        small = estimate.estimate(settings)["training"]
        monkeypatch.setattr(estimate, "count_landed", lambda settings: replace(SHOP, items=4000))
        assert estimate.estimate(settings)["training"] > 16 * small

    def test_leaves_out_what_cannot_be_fitted(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(estimate, "count_landed", lambda settings: replace(SHOP, items=60_000, has_texts=False))
        found = estimate.estimate(workspace_settings(train={"models": ("ease", "kernel"), "jobs": 1}))
        assert found["training"] == found["language model"] == 0
        assert found["evaluation"] < 60

    def test_without_texts_counts_one_variant(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = workspace_settings(train={"models": ("als",), "jobs": 1})
        whole = estimate.estimate(settings)["training"]
        monkeypatch.setattr(estimate, "count_landed", lambda settings: replace(SHOP, has_texts=False))
        assert whole == pytest.approx(3 * estimate.estimate(settings)["training"])

    def test_is_scaled_by_the_speed_of_the_machine(self, workspace_settings: Callable[..., Settings]) -> None:
        settings = workspace_settings()
        slow, fast = estimate.estimate(settings, 3.0), estimate.estimate(settings, 1.0)
        assert slow == pytest.approx({part: 3 * seconds for part, seconds in fast.items()})


class TestMeasuredParts:
    def test_are_those_of_the_newest_whole_run(self) -> None:
        def record(stage: str, seconds: float, status: str = "done") -> dict[str, object]:
            return {"stage": stage, "status": status, "seconds": seconds}

        old, new = [record("ingest", 1), record("train", 9)], [record("ingest", 1), record("profile", 2)]
        found = estimate.measured([*old, *new, record("embed", 3), record("build", 5, "reused")])
        assert found == dict.fromkeys(estimate.STAGES, 0.0) | {"profiles": 5.0}
