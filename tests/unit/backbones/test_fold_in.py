"""Folding in gives vectors to users on whom a backbone was not fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from unit import backbones_world as bw

from reclm.backbones.base import Backbone
from reclm.backbones.fold_in import learn
from reclm.backbones.loading import load_backbone
from reclm.errors import ModelError


@pytest.fixture(scope="module", params=["biasmf", "ncf", "lightgcn", "als"])
def fitted(request: pytest.FixtureRequest) -> Backbone:
    backbone = bw.toy_fitted(request.param)
    backbone.learn_to_fold_in(bw.toy_data(), 1)
    return backbone


def histories(*rows: list[int]) -> sparse.csr_matrix:
    dense = np.zeros((len(rows), bw.N_ITEMS), dtype=np.float32)
    for at, items in enumerate(rows):
        dense[at, items] = 1
    return sparse.csr_matrix(dense)


def best_circles(backbone: Backbone, vectors: np.ndarray, seen: sparse.csr_matrix) -> list[int]:
    scores = backbone.score_vectors(vectors)
    scores[seen.nonzero()] = -np.inf
    return bw.ITEM_CIRCLE[scores.argmax(axis=1)].tolist()


class TestANewUser:
    def test_is_found_by_two_items(self, fitted: Backbone) -> None:
        seen = histories([0, 1], [10, 12], [20, 21])
        assert best_circles(fitted, fitted.fold_in(seen), seen) == [0, 1, 2]

    def test_is_found_by_a_profile_alone(self, fitted: Backbone) -> None:
        profiles = bw.toy_data().user_profile
        assert profiles is not None
        nothing = histories(*[[]] * bw.N_USERS)
        found = best_circles(fitted, fitted.fold_in(nothing, profiles), nothing)
        assert np.mean(np.array(found) == bw.USER_CIRCLE) > 0.9

    def test_without_history_and_profile_gets_the_same_vector_as_any_other(self, fitted: Backbone) -> None:
        vectors = fitted.fold_in(histories([], []))
        assert np.isfinite(vectors).all()
        assert (vectors[0] == vectors[1]).all()
        assert (vectors[:, -1] == 1).all()

    def test_gets_the_same_vector_alone_as_in_a_batch(self, fitted: Backbone) -> None:
        both = fitted.fold_in(histories([0, 1], [10, 12]))
        np.testing.assert_allclose(fitted.fold_in(histories([10, 12]))[0], both[1], rtol=1e-5, atol=1e-6)

    def test_gets_the_same_vector_by_fold_in_one(self, fitted: Backbone) -> None:
        profiles = bw.toy_data().user_profile
        assert profiles is not None
        for items in ([0, 1], [10], []):
            for profile in (None, profiles[0]):
                read = None if profile is None else profile[None]
                alone = fitted.fold_in_one(np.array(items, dtype=np.int64), profile)
                np.testing.assert_allclose(alone, fitted.fold_in(histories(items), read)[0], rtol=1e-5, atol=1e-6)

    def test_has_it_still_after_saving_and_loading(self, fitted: Backbone, tmp_path: Path) -> None:
        fitted.save(tmp_path)
        seen = histories([3, 5])
        np.testing.assert_array_equal(load_backbone(tmp_path).fold_in(seen), fitted.fold_in(seen))

    def test_needs_a_backbone_that_has_learned_to(self) -> None:
        backbone = bw.toy_fitted("biasmf", "base", "train.epochs=1")
        with pytest.raises(ModelError, match="learn_to_fold_in"):
            backbone.fold_in(histories([0]))


class TestLearning:
    def test_finds_a_linear_map_where_there_is_one(self) -> None:
        random = np.random.default_rng(3)
        items = random.standard_normal((40, 9)).astype(np.float32)
        known = sparse.csr_matrix((random.random((300, 40)) < 0.3).astype(np.float32))
        mean = np.asarray(known @ items) / np.maximum(known.getnnz(axis=1), 1)[:, None]
        users = np.hstack([mean[:, :-1] * 3, np.ones((300, 1))]).astype(np.float32)
        found = learn(users, items, known, None, 1).vectors(items, known)
        assert np.corrcoef(found[:, :-1].ravel(), users[:, :-1].ravel())[0, 1] > 0.9

    def test_serves_users_without_a_profile_where_others_had_one(self) -> None:
        backbone = bw.toy_fitted("biasmf")
        backbone.learn_to_fold_in(bw.toy_data(), 1)
        missing = np.full((1, 12), np.nan, dtype=np.float32)
        np.testing.assert_array_equal(backbone.fold_in(histories([0, 1]), missing), backbone.fold_in(histories([0, 1])))


class TestUnseenItemVectors:
    def test_cold_items_are_such_already_and_warm_ones_keep_their_circle(self, fitted: Backbone) -> None:
        vectors = fitted.fitted.vectors["full_shot"]
        assert vectors.unseen is not None
        if fitted.name != "als":  # there a cold item's vector is predicted too, and blended
            np.testing.assert_allclose(vectors.unseen[bw.COLD], vectors.items[bw.COLD], rtol=1e-4, atol=1e-5)
        scores = fitted._score(vectors.users, vectors.unseen, "full_shot")
        means = np.stack([scores[:, circle == bw.ITEM_CIRCLE].mean(axis=1) for circle in range(bw.CIRCLES)], axis=1)
        assert np.mean(means.argmax(axis=1) == bw.USER_CIRCLE) > 0.9
