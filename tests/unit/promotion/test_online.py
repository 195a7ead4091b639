"""With `promotion.online_winner` people have the last word on a model of another kind."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pytest
from unit.promotion_world import Shop, make_shop

from reclm.settings.tree import Settings


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose champion is ncf, and where als is better on the validation slice the day after."""
    shop = make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)
    trials(shop)
    shop.decide(shop.model("ncf", value=0.4))
    shop.new_day("tuesday")
    return shop


def trials(shop: Shop, *rows: tuple[str, int, float, float]) -> None:
    """Trials of (challenger, users, lower and upper bound) against ncf; fct_trials as dbt makes it."""
    columns = "challenger_model, challenger_variant, champion_model, champion_variant, users, value, lo, hi"
    with duckdb.connect(str(shop.settings.paths.warehouse)) as connection:
        connection.execute(
            "create or replace table fct_trials (challenger_model varchar, challenger_variant varchar, "
            "champion_model varchar, champion_variant varchar, users bigint, value double, lo double, hi double)"
        )
        for model, users, lo, hi in rows:
            values = [model, "augment", "ncf", "augment", users, (lo + hi) / 2, lo, hi]
            connection.execute(f"insert into fct_trials ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?)", values)


class TestAWinnerOnline:
    def decide(self, shop: Shop) -> tuple[str, str]:
        row = shop.decide(shop.model("ncf", value=0.4), shop.model("als", value=0.6), online_winner=True)
        return row["candidate_model"], row["reason"]

    def test_is_not_asked_for_unless_the_settings_say_so(self, shop: Shop) -> None:
        row = shop.decide(shop.model("ncf", value=0.4), shop.model("als", value=0.6))
        assert row["candidate_model"] == "als"

    def test_replaces_the_champion(self, shop: Shop) -> None:
        trials(shop, ("als", 100, 0.01, 0.2))
        assert self.decide(shop)[0] == "als"

    def test_a_model_that_was_never_tried_does_not_and_the_champions_kind_is_refreshed(self, shop: Shop) -> None:
        trials(shop, ("bpr", 100, 0.01, 0.2))
        model, reason = self.decide(shop)
        assert model == "ncf"
        assert "people were never asked about als/augment over ncf/augment" in reason
        assert "reclm challenge" in reason

    def test_it_is_asked_for_too_where_a_guard_keeps_out_the_champions_kind(self, shop: Shop) -> None:
        row = shop.decide(shop.model("ncf", coverage=0.0), shop.model("als", value=0.4), online_winner=True)
        assert row["decision"] == "kept"
        assert "people were never asked about als/augment over ncf/augment" in row["reason"]

    def test_a_model_whose_interval_holds_zero_does_not(self, shop: Shop) -> None:
        trials(shop, ("als", 100, -0.01, 0.2))
        model, reason = self.decide(shop)
        assert model == "ncf"
        assert "people do not prefer als/augment over ncf/augment: +0.0950 [-0.0100, +0.2000] over 100 users" in reason

    def test_a_model_that_few_answered_about_does_not(self, shop: Shop) -> None:
        trials(shop, ("als", 5, 0.5, 0.9))
        assert "5 users answered about als/augment" in self.decide(shop)[1]

    def test_the_mode_with_more_users_counts(self, shop: Shop) -> None:
        trials(shop, ("als", 30, -0.2, 0.1), ("als", 90, 0.1, 0.2))
        assert self.decide(shop)[0] == "als"

    def test_new_answers_make_a_new_decision_on_the_same_models(self, shop: Shop) -> None:
        trials(shop, ("als", 100, -0.01, 0.2))
        assert self.decide(shop)[0] == "ncf"
        trials(shop, ("als", 200, 0.02, 0.2))
        assert self.decide(shop)[0] == "als"
