"""Estimates for a model that was never shown: right where the truth is known, refused where the log cannot tell."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from reclm.errors import ModelError
from reclm.settings.data import DemoSettings
from reclm.trials.off_policy import LoggedLists, estimate_click_rate, wilson
from reclm.trials.simulation import PLACES, SHOWN, Outcome, Shop, estimate, simulate

SMALL = DemoSettings(users=200, items=60, interactions=4000)
LOG = {"n_requests": 1800, "share": 0.4}


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(simulate(SMALL, 1, **LOG, pool=60, n_logs=20))


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(SMALL, 1)


def of(model: str, outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.model == model]


class TestTheDemoShopWhoseTruthIsKnown:
    @pytest.mark.parametrize("model", ["ease", "content_knn", "noisy_truth"])
    def test_at_least_18_of_20_intervals_hold_the_truth(self, outcomes: list[Outcome], model: str) -> None:
        assert len(of(model, outcomes)) == 20
        assert sum(outcome.covered for outcome in of(model, outcomes)) >= 18

    def test_intervals_are_narrow_enough_to_tell_the_models_apart(self, outcomes: list[Outcome]) -> None:
        good, bad = ([one.estimate for one in of(model, outcomes)] for model in ("noisy_truth", "content_knn"))
        assert sum(a.lo > b.hi for a, b in zip(good, bad, strict=True) if a and b) >= 18

    def test_click_rates_of_the_log_itself_would_be_wrong(self, shop: Shop) -> None:
        """Without correction for what was shown the estimate misses the truth, so the test above can fail."""
        log = shop.log(shop.rankings(SHOWN, 60), **LOG, pool=60, seed=1)
        target = shop.rankings("content_knn", PLACES)
        same = target[log.lists.users][:, None, :] == log.items[:, :, None]
        truth, right = shop.truth(target), estimate(log, target)
        assert right.lo < truth < right.hi
        assert abs(log.lists.clicked[same.any(axis=2)].mean() - truth) > right.hi - right.lo

    def test_a_model_whose_items_exploration_never_shows_is_refused(self, shop: Shop) -> None:
        refusals = of("noisy_truth", simulate(SMALL, 1, **LOG, pool=14))
        assert "could have shown only about" in refusals[0].refusal
        assert "serve.exploration_pool" in refusals[0].refusal


class TestTheEstimate:
    def lists(self, n: int, share_explored: float = 0.5) -> LoggedLists:
        random = np.random.default_rng(5)
        propensities = np.where(random.random((n, 1)) < share_explored, 0.25, 0.9) * np.ones((n, 2))
        return LoggedLists(np.arange(n) % 50, propensities, random.random((n, 2)) < 0.3)

    def test_of_the_model_that_was_shown_is_its_own_click_rate(self) -> None:
        log = self.lists(2000)
        log = LoggedLists(log.users, np.ones_like(log.propensities), log.clicked)
        explored = LoggedLists(log.users, np.full_like(log.propensities, 0.4), log.clicked)
        own_places = np.tile([0, 1], (2000, 1))
        assert estimate_click_rate(explored, own_places).value == pytest.approx(log.clicked.mean(), abs=1e-3)

    def test_is_wider_where_all_clicks_are_those_of_a_few_users(self) -> None:
        log, places = self.lists(2000), np.tile([0, 1], (2000, 1))
        spread = estimate_click_rate(log, places)
        by_user = np.repeat(np.random.default_rng(1).random(50) < 0.3, 40)
        lumped = LoggedLists(np.repeat(np.arange(50), 40), log.propensities, np.stack([by_user, by_user], axis=1))
        rate = estimate_click_rate(lumped, places)
        assert rate.hi - rate.lo > 3 * (spread.hi - spread.lo)

    def test_refuses_a_log_in_which_one_user_made_all_clicks(self) -> None:
        log = self.lists(8000)
        log.clicked[log.users > 0] = False
        with pytest.raises(ModelError, match="tell as much about the model as 0 places"):
            estimate_click_rate(log, np.tile([0, 1], (8000, 1)))

    def test_refuses_a_model_that_no_list_shows(self) -> None:
        with pytest.raises(ModelError, match="only about 0% of what the model would show"):
            estimate_click_rate(self.lists(2000), np.full((2000, 2), -1))

    def test_refuses_a_log_without_exploration(self) -> None:
        log = self.lists(2000)
        with pytest.raises(ModelError, match=r"serve\.exploration above 0"):
            estimate_click_rate(LoggedLists(log.users, np.ones((2000, 2)), log.clicked), np.tile([0, 1], (2000, 1)))

    def test_refuses_propensities_that_are_none(self) -> None:
        log = self.lists(100)
        log.propensities[7, 1] = 0.0
        with pytest.raises(ModelError, match=r"place 2 of logged list 7 is 0\.0"):
            estimate_click_rate(log, np.zeros((100, 2), np.int64))

    def test_refuses_a_log_that_agrees_with_the_model_too_rarely(self) -> None:
        log, places = self.lists(2000), np.full((2000, 2), -1)
        places[:3] = [0, 1]
        log.propensities[:3] = 1 / 900
        with pytest.raises(ModelError, match="tell as much about the model as"):
            estimate_click_rate(log, places)


class TestWilsonsInterval:
    def test_is_the_textbooks(self) -> None:
        assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)

    def test_stays_a_share(self) -> None:
        assert wilson(0.0, 40)[0] == 0.0
        assert wilson(0.0, 40)[1] > 0.05
        assert wilson(1.0, 40)[1] == 1.0
