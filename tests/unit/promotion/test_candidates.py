"""Which models are candidates for champion, on whom they are chosen, and in which order they are considered."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest
from unit.promotion_world import N_USERS, Shop, make_shop

from reclm.promotion.candidates import candidate, candidates_of, halves, in_order
from reclm.settings.tree import Settings
from reclm.storage.artifacts import Artifact


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


def order(shop: Shop, *trained: Artifact) -> list[str]:
    return [one.label for one in in_order(shop.settings, candidates_of(shop.settings, trained))]


class TestTheOrder:
    def test_is_that_of_the_values_whatever_the_backbone(self, shop: Shop) -> None:
        models = [shop.model("als", "base", value=0.4), shop.model("ncf", value=0.5), shop.model("bpr", value=0.6)]
        assert order(shop, *models) == ["bpr/augment", "ncf/augment", "als/base"]

    def test_puts_a_model_without_profiles_first_that_is_better_for_certain(self, shop: Shop) -> None:
        assert order(shop, shop.model(value=0.4), shop.model(variant="base", value=0.5)) == ["ncf/base", "ncf/augment"]

    def test_prefers_profiles_where_the_difference_may_be_chance(self, shop: Shop) -> None:
        base = shop.model(variant="base", value=0.41)
        uncertain = shop.model(value=0.4, spread=0.39)
        assert order(shop, base, uncertain) == ["ncf/augment", "ncf/base"]

    def test_prefers_the_profiles_of_the_best_backbone_not_of_another(self, shop: Shop) -> None:
        models = [shop.model("als", "base", value=0.5), shop.model("als", value=0.5), shop.model("ncf", value=0.3)]
        assert order(shop, *models) == ["als/augment", "als/base", "ncf/augment"]

    def test_never_holds_the_control_nor_a_model_that_was_not_measured(self, shop: Shop) -> None:
        assert order(shop, shop.model(variant="shuffled", value=0.9), shop.model("als", users=0)) == []


class TestTheHalves:
    def test_choose_on_one_part_of_the_users_and_compare_on_the_other(self, shop: Shop) -> None:
        one = candidate(shop.settings, [shop.model(value=0.3, first=0.6)])
        assert not one.first.keys() & one.second.keys()
        assert len(one.first) + len(one.second) == N_USERS
        assert (fmean(one.first.values()), fmean(one.second.values())) == pytest.approx((0.6, 0.3), abs=1e-6)

    def test_are_the_same_every_day_and_for_every_model(self, shop: Shop) -> None:
        monday = candidate(shop.settings, [shop.model()])
        shop.new_day("tuesday")
        tuesday = candidate(shop.settings, [shop.model("als", "base")])
        assert monday.first.keys() == tuesday.first.keys()

    def test_are_others_under_another_seed(self, shop: Shop) -> None:
        values = dict.fromkeys((f"user {u}" for u in range(N_USERS)), 0.5)
        other = shop.settings.model_copy(update={"seed": shop.settings.seed + 1})
        assert halves(shop.settings, values)[0].keys() != halves(other, values)[0].keys()

    def test_hold_all_users_where_there_are_too_few_to_divide(self, shop: Shop) -> None:
        one = candidate(shop.settings, [shop.model(users=25)])
        assert len(one.first) == len(one.second) == 25


class TestSeveralSeeds:
    def test_count_by_their_mean(self, shop: Shop) -> None:
        lucky = [shop.model("als", value=0.9, seed=1), shop.model("als", value=0.1, seed=2)]
        steady = [shop.model("ncf", value=0.6, seed=1), shop.model("ncf", value=0.6, seed=2)]
        assert order(shop, *lucky, *steady) == ["ncf/augment", "als/augment"]

    def test_are_one_candidate_whose_best_seed_on_the_first_half_would_serve(self, shop: Shop) -> None:
        seeds = [shop.model(value=0.9, first=0.3, seed=1, zero_shot=0.1), shop.model(first=0.4, seed=2, zero_shot=0.3)]
        (one,) = candidates_of(shop.settings, seeds)
        assert (one.artifact, one.seeds) == (seeds[1], (1, 2))
        assert fmean(one.second.values()) == pytest.approx(0.7, abs=1e-6)
        assert one.cold == pytest.approx(0.2)
