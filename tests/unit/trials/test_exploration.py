"""Exploration: the ranking for most requests, a random list for some, and propensities that are true."""

from __future__ import annotations

import numpy as np

from reclm.trials.exploration import explore, is_explored

REQUESTS = [f"request {n}" for n in range(4000)]


class TestExploration:
    def test_is_off_with_share_zero(self) -> None:
        shown = explore(100, 5, share=0.0, pool=50, request_id="r")
        assert shown.order.tolist() == [0, 1, 2, 3, 4]
        assert shown.propensities.tolist() == [1.0] * 5

    def test_depends_on_the_request_alone(self) -> None:
        first, again = ([explore(30, 4, share=0.5, pool=9, request_id=r) for r in REQUESTS[:50]] for _ in range(2))
        assert [one.order.tolist() for one in first] == [one.order.tolist() for one in again]

    def test_shows_each_item_as_often_as_its_propensity_says(self) -> None:
        lists = [explore(30, 4, share=0.5, pool=9, request_id=r) for r in REQUESTS]
        shown = np.bincount(np.concatenate([one.order for one in lists]), minlength=30) / len(REQUESTS)
        promised = dict(zip(*(np.concatenate(part).tolist() for part in zip(*lists, strict=True)), strict=True))
        expected = np.array([promised.get(item, 0.0) for item in range(30)])
        np.testing.assert_allclose(expected, [0.5 + 0.5 * 4 / 9] * 4 + [0.5 * 4 / 9] * 5 + [0.0] * 21)
        np.testing.assert_allclose(shown, expected, atol=0.03)

    def test_shows_every_item_of_an_explored_list_at_every_place_equally_often(self) -> None:
        lists = np.stack([explore(30, 4, share=1.0, pool=6, request_id=r).order for r in REQUESTS])
        by_place = np.stack([np.bincount(lists[:, place], minlength=6) for place in range(4)]) / len(REQUESTS)
        np.testing.assert_allclose(by_place, 1 / 6, atol=0.03)

    def test_explored_lists_are_told_by_their_propensities(self) -> None:
        lists = [explore(30, 8, share=0.3, pool=25, request_id=r) for r in REQUESTS]
        explored = is_explored(np.stack([one.propensities for one in lists]))
        assert 0.27 < explored.mean() < 0.33
        for one, random in zip(lists, explored, strict=True):
            assert random or one.order.tolist() == list(range(8))

    def test_fewer_items_than_places_are_all_shown(self) -> None:
        shown = explore(3, 10, share=0.5, pool=50, request_id="r")
        assert sorted(shown.order.tolist()) == [0, 1, 2]
        np.testing.assert_allclose(shown.propensities, 1.0)
        assert explore(0, 10, share=0.5, pool=50, request_id="r").order.tolist() == []
