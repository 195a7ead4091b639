"""Whether profiles are worth keeping: the sentence follows from the intervals and may well be a no."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reclm.evaluation.report.answers import Answer, answers, next_steps
from reclm.evaluation.report.findings import findings
from reclm.evaluation.report.sources import Sources
from reclm.settings.tree import Settings

BETTER, WORSE, UNCLEAR = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.02)
QUESTION = "Are profiles worth keeping on this data?"


def result(setting: str, model: str, variant: str, value: float) -> dict[str, Any]:
    fields = {"setting": setting, "model": model, "variant": variant, "seed": 42, "metric": "ndcg", "k": 20}
    return fields | {"dataset": "shop", "value": value, "lo": value - 0.01, "hi": value + 0.01, "n_users": 50}


def comparison(setting: str, other: str, bounds: tuple[float, float]) -> dict[str, Any]:
    fields = {"setting": setting, "model": "ncf", "variant": "augment", "seed": 42, "metric": "ndcg", "k": 20}
    fields |= {"other_model": "ncf", "other_variant": other, "diff": sum(bounds) / 2}
    return fields | dict(zip(("lo_users", "hi_users", "lo_items", "hi_items"), bounds * 2, strict=True))


def sources(comparisons: list[dict[str, Any]], champion: dict[str, Any] | None = None, engine: str = "") -> Sources:
    results = [
        result(setting, model, variant, value)
        for setting in ("full_shot", "zero_shot")
        for model, variant, value in (("ncf", "base", 0.2), ("ncf", "augment", 0.3), ("ease", "baseline", 0.5))
    ]
    return Sources(
        dataset={"name": "shop"}, counts=[], quarantine=[], results=results, bands=[], comparisons=comparisons,
        curves=[], quality=[], promotions=[], champion=champion, profile_engine=engine, runs=[], artifacts=[],
        packages={}, evaluation=None,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path)


def answer_to(question: str, found: Sources, settings: Settings) -> Answer:
    return next(answer for answer in answers(found, findings(found, settings)) if answer.question == question)


class TestWhetherProfilesAreWorthKeeping:
    @pytest.mark.parametrize(
        ("warm", "cold", "expected"),
        [
            ((BETTER, BETTER), (BETTER, BETTER), "Yes."),
            ((UNCLEAR, BETTER), (BETTER, BETTER), "Yes, for new items."),
            ((WORSE, BETTER), (BETTER, BETTER), "For new items yes, for known items no."),
            ((UNCLEAR, UNCLEAR), (UNCLEAR, BETTER), "No, this data does not show that they help."),
            ((BETTER, UNCLEAR), (UNCLEAR, UNCLEAR), "No, this data does not show that they help."),
            ((WORSE, UNCLEAR), (UNCLEAR, UNCLEAR), "No: they make it worse."),
        ],
    )
    def test_follows_from_base_and_shuffled_together(
        self, warm: tuple[Any, Any], cold: tuple[Any, Any], expected: str, settings: Settings
    ) -> None:
        compared = [
            comparison(setting, other, bounds)
            for setting, pair in (("full_shot", warm), ("zero_shot", cold))
            for other, bounds in zip(("base", "shuffled"), pair, strict=True)
        ]
        assert answer_to(QUESTION, sources(compared), settings).answer == expected

    def test_says_when_shuffled_profiles_do_as_well(self, settings: Settings) -> None:
        compared = [comparison("full_shot", "base", BETTER), comparison("full_shot", "shuffled", UNCLEAR)]
        sentences = " ".join(answer_to(QUESTION, sources(compared), settings).sentences)
        assert "not shown to come from what the profiles say" in sentences
        assert "+0.0200 (95 % interval +0.0100 to +0.0300 over users" in sentences

    def test_is_not_asked_of_models_without_profiles(self, settings: Settings) -> None:
        found = sources([])
        assert QUESTION not in [answer.question for answer in answers(found, findings(found, settings))]


class TestTheModel:
    def test_is_the_best_trained_one_while_none_serves(self, settings: Settings) -> None:
        answer = answer_to("Which model serves, and why?", sources([]), settings)
        assert answer.answer == "No model serves yet."
        assert "ncf with profiles" in answer.sentences[0]

    def test_without_profiles_is_compared_by_the_intervals_of_both(self, settings: Settings) -> None:
        champion = {"version": "v", "model": "ncf", "variant": "base", "seed": 42, "selected_by": "hand"}
        found = sources([], champion | {"promoted_at": "2025-01-02T03:04:05"})
        answer = answer_to("How good are its recommendations of known items?", found, settings)
        assert answer.answer == "Worse than EASE."
        assert [bar.label for bar in answer.bars] == ["ncf without profiles", "ncf with profiles", "EASE"]


class TestNextSteps:
    @pytest.mark.parametrize(("engine", "command"), [("extractive", "profiles.engine"), ("transformers", "ablate")])
    def test_propose_other_profiles_where_these_do_not_help(
        self, engine: str, command: str, settings: Settings
    ) -> None:
        compared = [comparison("full_shot", "base", UNCLEAR), comparison("full_shot", "shuffled", UNCLEAR)]
        found = sources(compared, engine=engine)
        steps = next_steps(found, findings(found, settings))
        assert any(command in step.command for step in steps)
        assert 2 <= len(steps) <= 4
