"""Which model becomes champion, when another replaces it, and what the guards keep out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from shutil import rmtree

import pytest
from unit.promotion_world import Shop, failed, make_shop

from reclm.errors import WorkspaceError
from reclm.promotion import champion, decisions
from reclm.settings.tree import Settings


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


class TestTheFirstChampion:
    def test_is_the_best_of_today_and_the_pointer_records_it(self, shop: Shop) -> None:
        worse, best = shop.model("als", value=0.4), shop.model(value=0.5, zero_shot=0.2)
        row = shop.decide(worse, best)
        pointer = champion.current(shop.settings)
        assert row["decision"] == "promoted"
        assert shop.published == [best.version]
        about = {key: pointer[key] for key in ("measured", "model", "variant", "seed", "selected_by", "previous")}
        assert about == {"measured": best.version, "model": "ncf", "variant": "augment", "seed": 1} | {
            "selected_by": "policy",
            "previous": None,
        }
        assert (round(pointer["value"], 6), round(pointer["zero_shot"], 6)) == (0.5, 0.2)
        assert pointer["parents"] == best.manifest["parents"] | {"backbone": best.version}

    def test_replaces_one_whose_artifact_is_gone(self, shop: Shop) -> None:
        lost = shop.model(value=0.9)
        shop.decide(lost)
        rmtree(lost.path)
        row = shop.decide(other := shop.model("als", value=0.1))
        assert (row["decision"], shop.champion) == ("promoted", other.version)
        assert "is gone" in row["reason"]

    def test_may_be_one_without_profiles(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.4), best := shop.model(variant="base", value=0.5))
        assert shop.champion == best.version

    def test_is_chosen_on_one_half_of_the_users_and_measured_on_the_other(self, shop: Shop) -> None:
        lucky, other = shop.model(value=0.3, first=0.6), shop.model("als", value=0.5)
        row = shop.decide(lucky, other)
        assert (shop.champion, row["candidate_value"]) == (lucky.version, pytest.approx(0.3))
        assert [(one["model"], one["value"], one["compared"]) for one in row["candidates"]] == [
            ("ncf", pytest.approx(0.6), pytest.approx(0.3)),
            ("als", pytest.approx(0.5), pytest.approx(0.5)),
        ]

    def test_is_measured_by_the_metric_of_the_settings(self, shop: Shop) -> None:
        row = shop.decide(shop.model(value=0.5), metric="recall")
        assert (row["metric"], round(row["candidate_value"], 6)) == ("recall", 0.25)

    def test_is_the_next_best_where_a_guard_keeps_out_the_best(self, shop: Shop) -> None:
        best, second = shop.model(value=0.6, coverage=0.001), shop.model("als", value=0.5)
        row = shop.decide(best, second, third := shop.model("bpr", value=0.4))
        assert shop.champion == second.version
        assert "ncf/augment is kept out: share of candidates shown" in row["reason"]
        outcomes = {one["version"]: one["outcome"].split(":")[0] for one in row["candidates"]}
        assert outcomes == {best.version: "kept out", second.version: "chosen", third.version: "not reached"}

    def test_is_none_where_guards_keep_out_every_candidate(self, shop: Shop) -> None:
        row = shop.decide(shop.model(coverage=0.001), shop.model("als", popularity_lift=0.9))
        assert row["decision"] == "kept"
        assert [one["outcome"].split(":")[0] for one in row["candidates"]] == ["kept out", "kept out"]
        assert "min_coverage" in row["reason"] and "max_popularity_lift" in row["reason"]


class TestWhereNothingCanBeMeasured:
    def test_the_first_champion_serves_unmeasured_and_the_decision_says_so(self, shop: Shop) -> None:
        networks = [shop.model("ncf", users=0), shop.model("ncf", "base", users=0)]
        row = shop.decide(*networks, als := shop.model("als", "base", users=0))
        assert (row["decision"], row["candidate_value"], shop.champion) == ("promoted", None, als.version)
        assert "unmeasurable" in row["reason"] and "split.valid_share" in row["reason"]

    def test_it_is_refreshed_while_that_lasts_and_replaced_when_models_can_be_measured(self, shop: Shop) -> None:
        shop.decide(shop.model("als", "base", users=0))
        shop.new_day("tuesday")
        shop.decide(shop.model("ncf", users=0), refresh := shop.model("als", "base", users=0))
        assert shop.champion == refresh.version
        shop.new_day("wednesday")
        shop.decide(better := shop.model("ncf", value=0.5), shop.model("als", "base", value=0.3))
        assert shop.champion == better.version

    def test_a_champion_that_was_measured_stays(self, shop: Shop) -> None:
        shop.decide(first := shop.model())
        shop.new_day("tuesday")
        row = shop.decide(shop.model(users=0))
        assert (row["decision"], shop.champion) == ("kept", first.version)

    def test_values_of_people_without_a_history_measure_nothing(
        self, shop: Shop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shop.warehouse(history=False)
        for day in ("monday", "tuesday"):
            shop.new_day(day)
            row = shop.decide(shop.model("ncf", value=0.9), als := shop.model("als", "base", value=0.1))
            assert (row["decision"], row["candidate_value"], shop.champion) == ("promoted", None, als.version)
        assert "promotion: unmeasurable: nobody has both a history and validation truth" in capsys.readouterr().err

    def test_the_control_never_serves(self, shop: Shop) -> None:
        row = shop.decide(shop.model(variant="shuffled", users=0))
        assert (row["decision"], row["candidate_version"]) == ("kept", None)


class TestOnTheSameData:
    def test_a_better_newcomer_replaces_the_champion(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        row = shop.decide(first, newcomer := shop.model("als", value=0.5))
        assert (row["decision"], shop.champion) == ("promoted", newcomer.version)
        assert row["diff"] == pytest.approx(0.1)
        assert row["champion_version"] == first.version

    def test_a_newcomer_that_is_better_on_the_mean_but_not_for_certain_stays_out(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        row = shop.decide(first, newcomer := shop.model("als", value=0.41, spread=0.9))
        assert row["diff"] > 0 > row["diff_lo"]
        assert (row["decision"], row["candidate_version"], shop.champion) == ("kept", newcomer.version, first.version)

    def test_a_newcomer_must_be_better_by_more_than_the_required_gain(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4), min_gain=0.2)
        row = shop.decide(first, shop.model("als", value=0.5), min_gain=0.2)
        assert (row["decision"], shop.champion) == ("kept", first.version)

    def test_the_champions_own_kind_in_other_settings_does_not_replace_it(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        row = shop.decide(shop.model(value=0.9))
        assert (row["decision"], shop.champion) == ("kept", first.version)
        assert "champion already" in row["reason"]


class TestOnNewerData:
    def test_the_champions_kind_is_refreshed(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(refresh := shop.model(value=0.47))
        assert (row["decision"], shop.champion) == ("promoted", refresh.version)
        assert row["diff"] is None and row["champion_value"] == pytest.approx(0.5)

    def test_a_worse_newcomer_stays_out_and_the_refresh_comes_in(self, shop: Shop) -> None:
        shop.decide(shop.model(variant="base", value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(refresh := shop.model(variant="base", value=0.5), shop.model(value=0.46, first=0.6))
        assert (row["decision"], shop.champion) == ("promoted", refresh.version)
        assert "ncf/augment does not beat ncf/base" in row["reason"]

    def test_a_better_newcomer_comes_in_past_the_refresh(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        shop.decide(shop.model(value=0.5), newcomer := shop.model("als", value=0.6))
        assert shop.champion == newcomer.version

    def test_the_refresh_is_promoted_when_a_better_newcomer_fails_a_guard(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(refresh := shop.model(value=0.5), shop.model("als", value=0.6, coverage=0.001))
        assert (row["decision"], shop.champion) == ("promoted", refresh.version)
        assert "als/augment is kept out" in row["reason"] and first.version == row["champion_version"]

    def test_a_day_without_the_champions_kind_keeps_it_unless_the_settings_no_longer_train_it(self, shop: Shop) -> None:
        first = shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(other := shop.model("als", value=0.9))
        assert (row["decision"], shop.champion) == ("kept", first["candidate_version"])
        assert "was not trained today" in row["reason"]
        fewer = shop.settings.train.model_copy(update={"models": ("als",)})
        shop.settings = shop.settings.model_copy(update={"train": fewer})
        shop.new_day("wednesday")
        row = shop.decide(other := shop.model("als", value=0.9))
        assert (row["decision"], shop.champion) == ("promoted", other.version)

    def test_another_kind_comes_in_where_a_guard_keeps_out_the_refresh(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        shop.warehouse(parsed=0.9)
        row = shop.decide(shop.model(value=0.5), without := shop.model(variant="base", value=0.48))
        assert shop.champion == without.version
        assert "ncf/augment is kept out: share of profiles that parse" in row["reason"]

    def test_the_refresh_is_preferred_to_a_newcomer_that_does_not_beat_it(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(refresh := shop.model(value=0.5), shop.model("als", value=0.45, first=0.6))
        assert shop.champion == refresh.version
        assert [one["outcome"].split(":")[0] for one in row["candidates"]] == [
            "als/augment does not beat ncf/augment",
            "chosen",
        ]

    def test_profiles_that_are_gone_give_way_to_models_without(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday", profiles=False)
        shop.decide(without := shop.model(variant="base", value=0.5))
        assert shop.champion == without.version

    def test_a_refresh_that_has_fallen_is_kept_out(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(shop.model(value=0.4))
        assert (row["decision"], shop.champion, failed(row)) == ("kept", first.version, {"value"})
        assert "promotion.max_drop" in row["reason"] and "0.45" in row["reason"]

    def test_a_fall_that_may_be_chance_is_let_through(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        shop.decide(refresh := shop.model(value=0.44, spread=0.4))
        assert shop.champion == refresh.version

    def test_a_kind_that_is_trained_no_longer_gives_way_to_the_best_unless_that_has_fallen(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        train = shop.settings.train.model_copy(update={"models": ("als",)})
        shop.settings = shop.settings.model_copy(update={"train": train})
        shop.new_day("tuesday")
        assert shop.decide(shop.model("als", value=0.3))["decision"] == "kept"
        assert shop.champion == first.version
        shop.decide(other := shop.model("als", value=0.5))
        assert shop.champion == other.version

    def test_the_value_of_another_metric_is_read_from_the_champion_itself(self, shop: Shop) -> None:
        shop.decide(shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(shop.model(value=0.49), metric="recall")
        assert next(g["bound"] for g in row["guards"] if g["guard"] == "value") == pytest.approx(0.9 * 0.25)


class TestGuards:
    def test_a_sound_model_passes_every_one(self, shop: Shop) -> None:
        shop.decide(shop.model(zero_shot=0.2))
        shop.new_day("tuesday")
        row = shop.decide(shop.model(zero_shot=0.2))
        names = {"users", "interactions", "value", "cold_value", "coverage", "popularity_lift", "latency_ms", "format"}
        assert {guard["guard"] for guard in row["guards"] if guard["binding"]} == names
        assert failed(row) == set()

    @pytest.mark.parametrize(
        ("guard", "planted"),
        [
            ("coverage", {"coverage": 0.001}),
            ("popularity_lift", {"popularity_lift": 0.6}),
            ("latency_ms", {"latency_ms": 51.0}),
        ],
    )
    def test_each_keeps_out_a_model_whose_lists_break_it(self, shop: Shop, guard: str, planted: dict[str, int]) -> None:
        row = shop.decide(shop.model(**planted))
        assert (row["decision"], failed(row)) == ("kept", {guard})
        assert "promotion.m" in row["reason"]
        assert not shop.settings.paths.champion.exists() and shop.published == []

    def test_cold_items_may_not_fall_while_warm_ones_rise(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5, zero_shot=0.2))
        row = shop.decide(first, shop.model("als", value=0.6, zero_shot=0.15))
        assert (row["decision"], shop.champion) == ("kept", first.version)
        assert "als/augment is kept out: ndcg@20 over cold items" in row["reason"]

    def test_cold_items_bind_nothing_where_one_side_was_not_measured(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        shop.decide(first, other := shop.model("als", value=0.6, zero_shot=0.01))
        assert shop.champion == other.version

    def test_a_short_log_is_served_until_a_champion_was_measured_on_more(self, shop: Shop) -> None:
        shop.warehouse(interactions=99)
        for day in ("monday", "tuesday"):
            shop.new_day(day)
            row = shop.decide(few := shop.model(users=19))
            assert (row["decision"], shop.champion) == ("promoted", few.version)
            broken = {guard["guard"] for guard in row["guards"] if not guard["passed"]}
            assert (broken, failed(row)) == ({"users", "interactions"}, set())
        shop.new_day("wednesday")
        shop.warehouse()
        shop.decide(enough := shop.model())
        shop.new_day("thursday")
        shop.warehouse(interactions=99)
        row = shop.decide(shop.model(users=19))
        assert (failed(row), shop.champion) == ({"users", "interactions"}, enough.version)

    def test_profiles_that_break_the_grammar_keep_out_those_who_use_them_alone(self, shop: Shop) -> None:
        shop.warehouse(parsed=0.9)
        assert failed(shop.decide(shop.model())) == {"format"}
        assert shop.decide(shop.model(variant="base"))["decision"] == "promoted"

    def test_without_models_the_error_names_the_command(self, shop: Shop) -> None:
        with pytest.raises(WorkspaceError, match="reclm train"):
            shop.decide()


class TestTheBestOfLate:
    def days(self, shop: Shop, *values: float) -> list[str]:
        """The decision of each day; of newest data every day."""
        decisions = []
        for day, value in enumerate(values):
            shop.new_day(f"day {day}")
            decisions.append(shop.decide(shop.model(value=value, spread=0.001))["decision"])
        return decisions

    def test_small_drops_day_after_day_are_stopped(self, shop: Shop) -> None:
        assert self.days(shop, 0.5, 0.47, 0.44, 0.41) == ["promoted", "promoted", "kept", "kept"]

    def test_cold_items_may_not_lose_a_little_every_day_either(self, shop: Shop) -> None:
        for day, (cold, decision) in enumerate([(0.5, "promoted"), (0.42, "promoted"), (0.36, "kept")]):
            shop.new_day(f"day {day}")
            assert shop.decide(shop.model(zero_shot=cold))["decision"] == decision

    def test_a_value_of_long_ago_no_longer_counts(self, shop: Shop) -> None:
        self.days(shop, 0.5, 0.47)
        shop.as_of += timedelta(days=31)
        assert self.days(shop, 0.43) == ["promoted"]

    def test_a_person_may_accept_a_fall(self, shop: Shop) -> None:
        self.days(shop, 0.5, 0.47)
        shop.new_day("a worse day")
        decisions.promote_by_hand(shop.settings, shop.model(value=0.3, spread=0.001).version)
        assert self.days(shop, 0.29) == ["promoted"]


class TestPopularityAndEase:
    def test_a_champion_that_kept_pace_with_them_is_not_refreshed_by_one_that_does_not(self, shop: Shop) -> None:
        shop.baselines(popularity=0.1, ease=0.4)
        shop.decide(first := shop.model(value=0.4, spread=0.001))
        shop.new_day("tuesday")
        shop.baselines(popularity=0.1, ease=0.5)
        row = shop.decide(shop.model(value=0.42, spread=0.001))
        assert (failed(row), shop.champion) == ({"ease"}, first.version)
        assert "beside EASE, 0.4202 is below 0.45 (promotion.max_below_baseline)" in row["reason"]

    def test_they_keep_nobody_out_where_no_champion_ever_kept_pace(self, shop: Shop) -> None:
        for day in ("monday", "tuesday"):
            shop.new_day(day)
            shop.baselines(popularity=0.6, ease=0.9)
            assert shop.decide(shop.model(value=0.4))["decision"] == "promoted"
