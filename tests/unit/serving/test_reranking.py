"""Re-ranking a list by rules, over eight items whose scores, vectors and categories are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reclm.backbones.ranking import NO_ITEM, top_k
from reclm.serving.item_catalogue import ItemCatalogue
from reclm.serving.reranking import Rules, pinned_positions, rerank

SCORES = np.array([8, 7, 6, 5, 4, 3, 2, 1], dtype=np.float32)
CATEGORIES = ["tea", "tea", "tea", "tea", "mugs", "mugs", "mugs", "mugs"]
ANGLES = np.radians([0, 5, 10, 80, 85, 90, 95, 100])
NOTHING = np.zeros(0, dtype=np.int64)


@dataclass
class Index:
    """Stands for the candidate index."""

    catalogue: ItemCatalogue = field(
        default_factory=lambda: ItemCatalogue(
            titles=[""] * 8,
            categories=[(name.title(),) for name in CATEGORIES],
            created=np.full(8, np.datetime64("NaT", "us")),
            profiles=[""] * 8,
            meaning=np.zeros((8, 0), dtype=np.float32),
        )
    )
    directions: NDArray[np.float32] = field(
        default_factory=lambda: np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
    )

    def item_position(self, item_id: str) -> int | None:
        return int(item_id) if item_id in "01234567" else None

    def top(self, scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        best = top_k(scores[None], k)[0]
        best = best[best != NO_ITEM].astype(np.int64)
        return best, scores[best]


INDEX: Any = Index()


def ranked(k: int, left_out: tuple[int, ...] = (), **rules: Any) -> list[int]:
    some = Rules(**rules)
    mask = np.isin(np.arange(8), left_out)
    pinned, _ = pinned_positions(INDEX, some, None, NOTHING)
    return rerank(INDEX, SCORES.copy(), mask, pinned, k, some)[0].tolist()


class TestDiversity:
    def test_of_zero_keeps_the_order_of_scores(self) -> None:
        assert ranked(8) == list(range(8))
        assert ranked(3, left_out=(0, 2)) == [1, 3, 4]

    def test_chooses_by_maximal_marginal_relevance(self) -> None:
        relevance = (SCORES - 1) / 7
        chosen = [0]
        while len(chosen) < 4:
            cosine = np.cos(ANGLES[:, None] - ANGLES[chosen]).max(axis=1)
            value = 0.6 * relevance - 0.4 * cosine
            value[chosen] = -np.inf
            chosen.append(int(np.argmax(value)))
        assert ranked(4, diversity=0.4) == chosen == [0, 3, 1, 2]

    def test_of_one_takes_the_least_similar_items_after_the_best(self) -> None:
        assert ranked(2, diversity=1.0) == [0, 7]


class TestALimitForEachCategory:
    def test_passes_over_items_of_a_full_category(self) -> None:
        assert ranked(4, max_per_category=2) == [0, 1, 4, 5]

    def test_ends_the_list_when_every_category_is_full(self) -> None:
        assert ranked(6, max_per_category=1) == [0, 4]

    def test_counts_pinned_items(self) -> None:
        assert ranked(3, max_per_category=1, pins=[("7", None)]) == [7, 0]

    def test_looks_beyond_the_pool_when_it_has_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("reclm.serving.reranking.pool_size", lambda k: 2)
        assert ranked(4, max_per_category=2) == [0, 1, 4, 5]


class TestPins:
    def test_have_their_places_and_leave_the_rest_in_order(self) -> None:
        assert ranked(4, pins=[("6", None), ("5", 3)]) == [6, 0, 5, 1]

    def test_that_want_one_place_stand_one_after_the_other(self) -> None:
        assert ranked(4, pins=[("6", 2), ("5", 2), ("4", None)]) == [4, 6, 5, 0]

    def test_beyond_the_list_are_not_shown(self) -> None:
        assert ranked(2, pins=[("6", 3)]) == [0, 1]

    def test_move_up_when_the_list_is_short(self) -> None:
        assert ranked(8, left_out=(1, 2, 3, 4, 5), pins=[("6", 8)]) == [0, 7, 6]

    def test_show_items_that_the_ranking_leaves_out_but_not_those_that_the_request_excludes(self) -> None:
        assert ranked(2, left_out=(6,), pins=[("6", None)]) == [6, 0]
        rules = Rules(pins=[("6", None), ("5", None), ("nothing", None)])
        allowed = np.arange(8) != 5
        assert pinned_positions(INDEX, rules, allowed, np.array([6])) == ({}, ("nothing",))


class TestBoosts:
    def test_are_in_standard_deviations_of_the_scores(self) -> None:
        just_enough = 7 / SCORES.std() + 0.01
        assert ranked(1, item_boosts=[("7", just_enough)]) == [7]
        assert ranked(1, item_boosts=[("7", just_enough - 0.02)]) == [0]

    def test_of_categories_and_items_are_added_up(self) -> None:
        assert ranked(1, category_boosts=[("MUGS", 1.0), ("mugs", 1.0)]) == [4]
        assert ranked(1, category_boosts=[("tea", -9.0)]) == [4]
        assert ranked(8, category_boosts=[("nothing", 9.0)], item_boosts=[("nothing", 9.0)]) == list(range(8))

    def test_show_in_the_score(self) -> None:
        rules = Rules(item_boosts=[("0", 1.0)])
        _, scores = rerank(INDEX, SCORES.copy(), np.zeros(8, dtype=bool), {}, 1, rules)
        assert scores[0] == pytest.approx(8 + SCORES.std())
