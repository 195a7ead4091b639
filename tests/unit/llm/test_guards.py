"""The guards of the refinement, each with a planted case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reclm.llm.tuning import guards
from reclm.llm.tuning.guards import HeldOutMetrics
from reclm.settings.llm import RefineSettings

TUNED = HeldOutMetrics(0, 0.0, 0.1, 0.0, 1.0, 0.8, 0.20, 0.70)
SETTINGS = RefineSettings()


def after(**changes: float) -> list[HeldOutMetrics]:
    return [TUNED, replace(TUNED, step=6, **changes)]


class TestEachGuardFiresOnItsPlantedCase:
    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("kl", {"kl": SETTINGS.max_kl + 0.1, "reward": 1.0}),
            ("kl", {"kl": float("nan"), "reward": 1.0}),
            ("format", {"format": 1.0 - SETTINGS.max_format_drop - 0.01, "reward": 1.0}),
            ("distinct", {"distinct": 0.8 - SETTINGS.max_distinct_drop - 0.01, "reward": 1.0}),
            ("reward_hacking_own", {"own_minus_other": 0.2 - SETTINGS.max_own_drop - 0.01, "reward": 1.0}),
            ("reward_hacking_ranking", {"ranking": 0.7 - SETTINGS.max_ranking_drop - 0.01, "reward": 1.0}),
        ],
    )
    def test_alone_and_by_name(self, name: str, changes: dict[str, float]) -> None:
        history = after(**changes)
        fired = [guard for guard, judge in guards.GUARDS.items() if judge(history, SETTINGS) is not None]
        found = guards.verdict(history, SETTINGS)
        assert fired == [name]
        assert found is not None
        assert (found.guard, found.step) == (name, 6)
        assert found.reason


class TestAGuardLetsPass:
    def test_what_stays_within_its_bound(self) -> None:
        history = after(
            kl=SETTINGS.max_kl,
            format=1.0 - SETTINGS.max_format_drop / 2,
            distinct=0.8 - SETTINGS.max_distinct_drop / 2,
            own_minus_other=0.2 - SETTINGS.max_own_drop / 2,
            ranking=0.7 - SETTINGS.max_ranking_drop / 2,
            reward=1.0,
        )
        assert guards.verdict(history, SETTINGS) is None

    def test_a_similarity_that_falls_with_the_reward_because_nothing_is_being_hacked(self) -> None:
        assert guards.verdict(after(own_minus_other=0.1, ranking=0.5, reward=-0.5), SETTINGS) is None

    def test_a_metric_that_could_not_be_measured(self) -> None:
        assert guards.verdict(after(ranking=float("nan"), reward=1.0), SETTINGS) is None

    def test_the_tuned_model_itself(self) -> None:
        assert guards.verdict([TUNED], SETTINGS) is None


class TestTheBestState:
    def test_is_the_highest_reward_that_no_guard_rejects(self) -> None:
        history = [TUNED, *(replace(TUNED, step=step, reward=reward) for step, reward in ((6, 0.3), (12, 0.2)))]
        hacked = replace(TUNED, step=18, reward=9.0, distinct=0.1)
        assert guards.best([*history, hacked], SETTINGS).step == 6

    def test_is_the_tuned_model_when_nothing_was_gained(self) -> None:
        assert guards.best(after(reward=0.0), SETTINGS).step == 0
