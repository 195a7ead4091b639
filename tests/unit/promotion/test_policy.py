"""Which model becomes champion, when another replaces it, and what the guards keep out."""

from __future__ import annotations

from collections.abc import Callable
from shutil import rmtree

import pytest
from unit.promotion_world import Shop, failed, make_shop

from reclm.errors import WorkspaceError
from reclm.promotion import champion
from reclm.promotion.policy import best_candidate
from reclm.settings.tree import Settings


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


class TestTheCandidate:
    def test_validation_decides_among_models_with_profiles_and_the_control_never_wins(self, shop: Shop) -> None:
        base, low, high = shop.model(variant="base", value=0.9), shop.model(value=0.4), shop.model(value=0.5)
        control = shop.model(variant="shuffled", value=0.99)
        assert best_candidate(shop.settings, [base, low, high, control]) == high
        assert best_candidate(shop.settings, [base, control]) == base

    def test_a_model_without_users_in_validation_is_none(self, shop: Shop) -> None:
        assert best_candidate(shop.settings, [shop.model(users=0)]) is None

    def test_the_primary_metric_is_the_one_of_the_settings(self, shop: Shop) -> None:
        row = shop.decide(shop.model(value=0.5), metric="recall")
        assert (row["metric"], round(row["candidate_value"], 6)) == ("recall", 0.25)


class TestTheFirstChampion:
    def test_is_the_best_of_today_and_the_pointer_records_it(self, shop: Shop) -> None:
        worse, best = shop.model("als", value=0.4), shop.model(value=0.5, zero_shot=0.2)
        row = shop.decide(worse, best)
        pointer = champion.current(shop.settings)
        assert row["decision"] == "promoted"
        assert shop.published == [best.version]
        about = {key: pointer[key] for key in ("version", "model", "variant", "seed", "selected_by", "previous")}
        assert about == {"version": best.version, "model": "ncf", "variant": "augment", "seed": 1} | {
            "selected_by": "policy",
            "previous": None,
        }
        assert (round(pointer["value"], 6), round(pointer["zero_shot"], 6)) == (0.5, 0.2)
        assert pointer["parents"] == best.manifest["parents"]

    def test_replaces_one_whose_artifact_is_gone(self, shop: Shop) -> None:
        lost = shop.model(value=0.9)
        shop.decide(lost)
        rmtree(lost.path)
        row = shop.decide(other := shop.model("als", value=0.1))
        assert (row["decision"], shop.champion) == ("promoted", other.version)
        assert "is gone" in row["reason"]


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
        row = shop.decide(refresh := shop.model(variant="base", value=0.5), shop.model(value=0.4))
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
        train = shop.settings.train
        shop.settings = shop.settings.model_copy(update={"train": train.model_copy(update={"seeds": (1,)})})
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
        assert {guard["guard"] for guard in row["guards"]} == names
        assert failed(row) == set()

    @pytest.mark.parametrize(
        ("guard", "planted"),
        [
            ("coverage", {"coverage": 0.001}),
            ("popularity_lift", {"popularity_lift": 0.6}),
            ("latency_ms", {"latency_ms": 51.0}),
            ("users", {"users": 19}),
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
        assert (row["decision"], failed(row), shop.champion) == ("kept", {"cold_value"}, first.version)

    def test_cold_items_bind_nothing_where_one_side_was_not_measured(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        shop.decide(first, other := shop.model("als", value=0.6, zero_shot=0.01))
        assert shop.champion == other.version

    def test_too_few_interactions_keep_out_whatever_was_trained(self, shop: Shop) -> None:
        shop.warehouse(interactions=99)
        assert failed(shop.decide(shop.model())) == {"interactions"}

    def test_profiles_that_break_the_grammar_keep_out_those_who_use_them_alone(self, shop: Shop) -> None:
        shop.warehouse(parsed=0.9)
        assert failed(shop.decide(shop.model())) == {"format"}
        assert shop.decide(shop.model(variant="base"))["decision"] == "promoted"

    def test_a_model_without_users_to_measure_is_kept_out_with_advice(self, shop: Shop) -> None:
        row = shop.decide(shop.model(users=0))
        assert (row["decision"], row["candidate_version"]) == ("kept", None)
        assert "unmeasurable" in row["reason"] and "split.valid_share" in row["reason"]

    def test_without_models_the_error_names_the_command(self, shop: Shop) -> None:
        with pytest.raises(WorkspaceError, match="reclm train"):
            shop.decide()
