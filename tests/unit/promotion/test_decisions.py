"""A decision is carried out once and completely; a person may promote, roll back and approve."""

from __future__ import annotations

from collections.abc import Callable
from shutil import rmtree

import pyarrow.parquet as pq
import pytest
from unit.promotion_world import N_USERS, Shop, make_shop, refit

from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.promotion import champion, decisions
from reclm.promotion.candidates import is_in_first_half
from reclm.settings.tree import Settings
from reclm.storage.erasures import drop_rows
from reclm.training.validation import VALIDATION_FILE


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


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
        """Monday's champion is current; the next switch is interrupted."""
        shop.decide(shop.model(value=0.5))
        switch = champion.switch

        def interrupt_once(*arguments: object) -> None:
            monkeypatch.setattr(champion, "switch", switch)
            raise KeyboardInterrupt

        monkeypatch.setattr(champion, "switch", interrupt_once)
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
        monday, interrupt = killed.champion, champion.switch
        monkeypatch.undo()
        monkeypatch.setattr(champion, "publish", lambda settings, served: None)
        monkeypatch.setattr(decisions, "refit_on_serve", refit)
        killed.decide(killed.model(value=0.5))
        killed.new_day("wednesday")
        killed.decide(killed.model(value=0.5))
        tuesday = killed.history[1][1]
        monkeypatch.setattr(champion, "switch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decisions.roll_back(killed.settings)
        decisions.roll_back(killed.settings)
        assert killed.champion == tuesday != monday


class TestByHand:
    def test_a_person_may_choose_what_the_policy_would_not_and_it_is_recorded(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5), worse := shop.model("als", value=0.1))
        row = decisions.promote_by_hand(shop.settings, worse.version, reason="a test in the shop").metrics
        assert (row["decision"], row["decided_by"], row["reason"]) == ("promoted", "hand", "a test in the shop")
        assert (shop.champion, row["champion_version"]) == (worse.version, first.version)
        assert shop.published[-1] == worse.version

    def test_the_choice_holds_until_models_of_other_data_come(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5), worse := shop.model("als", value=0.45))
        decisions.promote_by_hand(shop.settings, worse.version)
        shop.decide(first, worse)
        assert shop.champion == worse.version
        shop.new_day("tuesday")
        shop.decide(better := shop.model(value=0.5), shop.model("als", value=0.45))
        assert shop.champion == better.version

    def test_choosing_the_champion_changes_nothing(self, shop: Shop) -> None:
        shop.decide(first := shop.model())
        decisions.promote_by_hand(shop.settings, first.version)
        assert len(shop.history) == 1

    def test_an_unknown_version_is_an_error_that_lists_the_models(self, shop: Shop) -> None:
        known = shop.model()
        with pytest.raises(ArtifactError, match=f"nonsense.*{known.version}"):
            decisions.promote_by_hand(shop.settings, "nonsense")

    def test_the_shuffled_control_is_refused(self, shop: Shop) -> None:
        with pytest.raises(ModelError, match="control"):
            decisions.promote_by_hand(shop.settings, shop.model(variant="shuffled").version)
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
        row = decisions.roll_back(shop.settings, reason="nothing but bestsellers").metrics
        assert (shop.champion, shop.published[-1]) == (versions[1], versions[1])
        assert (row["decision"], row["decided_by"]) == ("rolled_back", "hand")
        assert row["reason"] == "nothing but bestsellers"
        assert champion.current(shop.settings)["previous"] == versions[2]

    def test_once_more_goes_further_back_and_then_there_is_none(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        decisions.roll_back(shop.settings)
        decisions.roll_back(shop.settings)
        assert shop.champion == versions[0]
        with pytest.raises(WorkspaceError, match="no champion before"):
            decisions.roll_back(shop.settings)

    def test_after_a_rollback_a_new_champion_leads_back_to_where_it_stood(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        decisions.roll_back(shop.settings)
        decisions.promote_by_hand(shop.settings, versions[2])
        decisions.roll_back(shop.settings)
        assert shop.champion == versions[1]

    def test_the_same_run_again_does_not_undo_it(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        decisions.roll_back(shop.settings)
        shop.decide(shop.model(value=0.5))
        assert shop.champion == versions[1]
        shop.decide(shop.model(value=0.5), shop.model("als", value=0.9))
        assert shop.champion == versions[1]

    def test_the_next_day_may_bring_a_new_one(self, days: tuple[Shop, list[str]]) -> None:
        shop, _ = days
        decisions.roll_back(shop.settings)
        shop.new_day("thursday")
        shop.decide(thursday := shop.model(value=0.5))
        assert shop.champion == thursday.version

    def test_one_whose_artifact_is_gone_is_named(self, days: tuple[Shop, list[str]]) -> None:
        shop, versions = days
        served = decisions.decisions(shop.settings)[1].metrics["served_version"]
        rmtree(shop.settings.paths.artifacts / "served" / served)
        with pytest.raises(ArtifactError, match=served):
            decisions.roll_back(shop.settings)
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


class TestForgottenUsers:
    def test_a_comparison_goes_by_the_users_that_are_left(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        drop_rows(first.path / VALIDATION_FILE, {"user 7"})
        assert pq.read_table(first.path / VALIDATION_FILE).num_rows == 59
        row = shop.decide(first, other := shop.model("als", value=0.5))
        assert shop.champion == other.version
        compared = [user for user in range(N_USERS) if not is_in_first_half(f"user {user}", shop.settings.seed)]
        assert f"over {len(set(compared) - {7})} users" in row["reason"] and row["diff"] == pytest.approx(0.1)

    def test_a_champion_with_too_few_remaining_users_cannot_be_compared_with(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        for user in range(41):
            drop_rows(first.path / VALIDATION_FILE, {f"user {user}"})
        row = shop.decide(first, shop.model("als", value=0.5))
        assert (row["decision"], shop.champion) == ("kept", first.version)
        assert "common users, and promotion.min_users requires 20" in row["reason"]
