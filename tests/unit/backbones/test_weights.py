"""Weights of interactions are ALS's confidences, and count in the losses of networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit import backbones_world as bw

from reclm.backbones.loading import create_backbone
from reclm.dataset import TrainingData
from reclm.settings.operations import RuntimeSettings
from reclm.settings.recommenders import FusionSettings, TrainSettings


def score(data: TrainingData, user: int, item: int) -> float:
    """The score of a user and an item by ALS."""
    backbone = create_backbone("als", TrainSettings(factors=8), FusionSettings(), RuntimeSettings(threads=1))
    backbone.refit(data, "base", backbone.default_selection(), 1)
    return float(backbone.score(np.array([user]))[0, item])


class TestALS:
    def test_fits_an_interaction_of_a_larger_weight_more_closely(self) -> None:
        data = bw.toy_data()
        user, item = (int(positions[0]) for positions in data.interactions.nonzero())
        weights = data.interactions.copy()
        weights[user, item] = 20.0
        error, weighted_error = (
            abs(1 - score(one, user, item)) for one in (data, replace(data, weights=weights.tocsr()))
        )
        assert weighted_error < error

    def test_equal_weights_change_nothing(self) -> None:
        data = bw.toy_data()
        assert score(data, 0, 1) == score(replace(data, weights=data.interactions.copy()), 0, 1)


class TestNetworks:
    @pytest.mark.parametrize("loss", ["softmax", "bpr"])
    @pytest.mark.parametrize("model", ["biasmf", "lightgcn"])
    def test_learn_an_interaction_of_a_larger_weight_better(self, model: str, loss: str) -> None:
        data = bw.toy_data()
        weights = data.interactions.copy()
        weights[0, 2] = 50.0

        def margin(one: TrainingData) -> float:
            """By how much user 0 prefers item 2 to the other known items."""
            scores = bw.toy_fitted(model, "base", f"train.loss={loss}", data=one, epochs=20).score(np.array([0]))[0]
            others = np.setdiff1d(data.interactions[0].indices, [2])
            return float(scores[2] - scores[others].mean())

        assert margin(replace(data, weights=weights.tocsr())) > margin(data)

    @pytest.mark.parametrize("loss", ["softmax", "bpr"])
    def test_equal_weights_change_nothing(self, loss: str) -> None:
        data = bw.toy_data()
        doubled = replace(data, weights=2 * data.interactions)
        plain, weighted = (
            bw.toy_fitted("biasmf", "base", f"train.loss={loss}", data=one, epochs=3).score(np.arange(5))
            for one in (data, doubled)
        )
        np.testing.assert_allclose(weighted, plain, atol=1e-3)
