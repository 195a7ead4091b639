"""Which model becomes champion, when it gives way, and that a decision is carried out once and whole."""

from __future__ import annotations

from collections.abc import Callable
from shutil import rmtree

import pyarrow.parquet as pq
import pytest
from unit.promotion_world import Shop, failed, make_shop

from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.maintenance.forget import drop_rows
from reclm.promotion import champion
from reclm.promotion import decisions as promotion
from reclm.promotion.policy import best_candidate
from reclm.settings.tree import Settings
from reclm.training.validation import FILE


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


class TestTheCandidate:
    def test_validation_decides_among_models_with_profiles_and_the_control_never_wins(self, shop: Shop) -> None:
        base, low, high = shop.model(variant="base", value=0.9), shop.model(value=0.4), shop.model(value=0.5)
        control = shop.model(variant="shuffled", value=0.99)
        assert best_candidate(shop.settings, [base, low, high, control]) == high
        assert best_candidate(shop.settings, [base, control]) == base

    def test_a_model_that_nobody_was_asked_about_is_none(self, shop: Shop) -> None:
        assert best_candidate(shop.settings, [shop.model(users=0)]) is None

    def test_the_primary_metric_is_the_one_of_the_settings(self, shop: Shop) -> None:
        row = shop.decide(shop.model(value=0.5), metric="recall")
        assert (row["metric"], round(row["candidate_value"], 6)) == ("recall", 0.25)


class TestTheFirstChampion:
    def test_is_the_best_of_today_and_the_pointer_tells_all_of_it(self, shop: Shop) -> None:
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

    def test_takes_the_place_of_one_whose_artifact_is_gone(self, shop: Shop) -> None:
        lost = shop.model(value=0.9)
        shop.decide(lost)
        rmtree(lost.path)
        row = shop.decide(other := shop.model("als", value=0.1))
        assert (row["decision"], shop.champion) == ("promoted", other.version)
        assert "is gone" in row["reason"]


class TestOnTheSameData:
    def test_a_better_newcomer_takes_the_champions_place(self, shop: Shop) -> None:
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

    def test_a_newcomer_must_be_better_by_more_than_the_gain_that_is_asked_for(self, shop: Shop) -> None:
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

    def test_a_better_newcomer_that_breaks_a_guard_leaves_the_way_to_the_refresh(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        shop.new_day("tuesday")
        row = shop.decide(refresh := shop.model(value=0.5), shop.model("als", value=0.6, coverage=0.001))
        assert (row["decision"], shop.champion) == ("promoted", refresh.version)
        assert "als/augment is kept out" in row["reason"] and first.version == row["champion_version"]

    def test_a_day_without_the_champions_kind_is_no_contest_unless_the_settings_have_given_it_up(
        self, shop: Shop
    ) -> None:
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

    def test_nobody_to_measure_on_keeps_out_and_says_what_would_help(self, shop: Shop) -> None:
        row = shop.decide(shop.model(users=0))
        assert (row["decision"], row["candidate_version"]) == ("kept", None)
        assert "unmeasurable" in row["reason"] and "split.valid_share" in row["reason"]

    def test_without_models_the_error_names_the_command(self, shop: Shop) -> None:
        with pytest.raises(WorkspaceError, match="reclm train"):
            shop.decide()


class TestDecidingTwice:
    def test_writes_one_decision_and_switches_once(self, shop: Shop) -> None:
        models = [shop.model(value=0.5), shop.model("als", value=0.4)]
        first = shop.decide(*models)
        pointer = shop.settings.paths.champion.read_bytes()
        assert shop.decide(*models) == first
        assert shop.settings.paths.champion.read_bytes() == pointer
        assert len(shop.history) == len(shop.published) == 1

    def test_finds_what_was_kept_too(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        assert shop.decide(first, other := shop.model("als")) == shop.decide(first, other)
        assert [decision for decision, _ in shop.history] == ["promoted", "kept"]

    def test_other_settings_are_another_decision(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        shop.decide(first, other := shop.model("als", value=0.5), min_gain=0.3)
        shop.decide(first, other, min_gain=0.05)
        assert shop.champion == other.version


class TestKilledBetweenDecisionAndPointer:
    @pytest.fixture
    def killed(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
        """The champion of monday stands; the next switch dies before it."""
        shop.decide(shop.model(value=0.5))
        switch = champion.switch

        def die_once(*arguments: object) -> None:
            monkeypatch.setattr(champion, "switch", switch)
            raise KeyboardInterrupt

        monkeypatch.setattr(champion, "switch", die_once)
        shop.new_day("tuesday")
        return shop

    def test_deciding_again_completes_the_switch_and_decides_nothing_new(self, killed: Shop) -> None:
        refresh = killed.model(value=0.5)
        with pytest.raises(KeyboardInterrupt):
            killed.decide(refresh)
        assert killed.champion != refresh.version
        killed.decide(refresh)
        assert killed.champion == refresh.version
        assert len(killed.history) == 2

    def test_a_rollback_is_completed_not_carried_further_back(
        self, killed: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monday, die = killed.champion, champion.switch
        monkeypatch.undo()
        monkeypatch.setattr(champion, "publish", lambda settings, chosen: None)
        killed.decide(killed.model(value=0.5))
        killed.new_day("wednesday")
        killed.decide(killed.model(value=0.5))
        tuesday = killed.history[1][1]
        monkeypatch.setattr(champion, "switch", die)
        with pytest.raises(KeyboardInterrupt):
            promotion.roll_back(killed.settings)
        promotion.roll_back(killed.settings)
        assert killed.champion == tuesday != monday


class TestByHand:
    def test_a_person_may_choose_what_the_policy_would_not_and_it_is_recorded(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5), worse := shop.model("als", value=0.1))
        row = promotion.promote_by_hand(shop.settings, worse.version, reason="a test in the shop").metrics
        assert (row["decision"], row["decided_by"], row["reason"]) == ("promoted", "hand", "a test in the shop")
        assert (shop.champion, row["champion_version"]) == (worse.version, first.version)
        assert shop.published[-1] == worse.version

    def test_the_choice_holds_until_models_of_other_data_come(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5), worse := shop.model("als", value=0.45))
        promotion.promote_by_hand(shop.settings, worse.version)
        shop.decide(first, worse)
        assert shop.champion == worse.version
        shop.new_day("tuesday")
        shop.decide(better := shop.model(value=0.5), shop.model("als", value=0.45))
        assert shop.champion == better.version

    def test_choosing_the_champion_changes_nothing(self, shop: Shop) -> None:
        shop.decide(first := shop.model())
        promotion.promote_by_hand(shop.settings, first.version)
        assert len(shop.history) == 1

    def test_an_unknown_version_is_an_error_that_lists_the_models(self, shop: Shop) -> None:
        known = shop.model()
        with pytest.raises(ArtifactError, match=f"nonsense.*{known.version}"):
            promotion.promote_by_hand(shop.settings, "nonsense")

    def test_the_shuffled_control_is_refused(self, shop: Shop) -> None:
        with pytest.raises(ModelError, match="control"):
            promotion.promote_by_hand(shop.settings, shop.model(variant="shuffled").version)
        assert not shop.settings.paths.champion.exists()


class TestRollback:
    @pytest.fixture
    def days(self, shop: Shop) -> tuple[Shop, list[str]]:
        """Three champions of three days."""
        versions = []
        for day in ("monday", "tuesday", "wednesday"):
            shop.new_day(day)
            shop.decide(shop.model(value=0.5))
            versions.append(shop.champion)
        return shop, versions

    def test_publishes_the_champion_before_and_points_at_it(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        row = promotion.roll_back(shop.settings, reason="nothing but bestsellers").metrics
        assert (shop.champion, shop.published[-1]) == (versions[1], versions[1])
        assert (row["decision"], row["decided_by"]) == ("rolled_back", "hand")
        assert row["reason"] == "nothing but bestsellers"
        assert champion.current(shop.settings)["previous"] == versions[2]

    def test_once_more_goes_further_back_and_then_there_is_none(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        promotion.roll_back(shop.settings)
        promotion.roll_back(shop.settings)
        assert shop.champion == versions[0]
        with pytest.raises(WorkspaceError, match="no champion before"):
            promotion.roll_back(shop.settings)

    def test_after_a_rollback_a_new_champion_leads_back_to_where_it_stood(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        promotion.roll_back(shop.settings)
        promotion.promote_by_hand(shop.settings, versions[2])
        promotion.roll_back(shop.settings)
        assert shop.champion == versions[1]

    def test_the_same_run_again_does_not_undo_it(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        promotion.roll_back(shop.settings)
        shop.decide(shop.model(value=0.5))
        assert shop.champion == versions[1]
        shop.decide(shop.model(value=0.5), shop.model("als", value=0.9))
        assert shop.champion == versions[1]

    def test_the_next_day_may_bring_a_new_one(self, days: tuple[Shop, list[str]]) -> None:
        shop, _ = days
        promotion.roll_back(shop.settings)
        shop.new_day("thursday")
        shop.decide(thursday := shop.model(value=0.5))
        assert shop.champion == thursday.version

    def test_one_whose_artifact_is_gone_is_named(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        rmtree(shop.settings.paths.artifacts / "backbone" / versions[1])
        with pytest.raises(ArtifactError, match=versions[1]):
            promotion.roll_back(shop.settings)
        assert shop.champion == versions[2]


class TestApproval:
    def test_a_person_may_refuse_what_the_policy_would_promote(self, shop: Shop) -> None:
        row = shop.decide(model := shop.model(), approved=False)
        assert (row["decision"], row["decided_by"]) == ("kept", "approval")
        assert not shop.settings.paths.champion.exists()
        shop.decide(model)
        assert not shop.settings.paths.champion.exists()

    def test_a_yes_promotes_in_that_persons_name_and_only_once(self, shop: Shop) -> None:
        model = shop.model()
        row = shop.decide(model, approved=True)
        assert (row["decision"], row["decided_by"], shop.champion) == ("promoted", "approval", model.version)
        assert shop.decide(model, approved=True) == row

    def test_a_yes_does_not_overrule_a_guard(self, shop: Shop) -> None:
        row = shop.decide(shop.model(coverage=0.0), approved=True)
        assert (row["decision"], row["decided_by"]) == ("kept", "policy")


class TestForgottenPeople:
    def test_a_comparison_goes_by_the_users_that_are_left(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        drop_rows(first.path / FILE, "user 7")
        assert pq.read_table(first.path / FILE).num_rows == 59
        row = shop.decide(first, other := shop.model("als", value=0.5))
        assert shop.champion == other.version
        assert "over 59 users" in row["reason"] and row["diff"] == pytest.approx(0.1)

    def test_a_champion_of_whose_users_too_few_are_left_cannot_be_compared_with(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        for user in range(41):
            drop_rows(first.path / FILE, f"user {user}")
        row = shop.decide(first, shop.model("als", value=0.5))
        assert (row["decision"], shop.champion) == ("kept", first.version)
        assert "19 common users" in row["reason"]
