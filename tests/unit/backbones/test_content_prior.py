"""A network's scores are blended with what kernel ridge regression over item content says, as validation chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit import backbones_world as bw

from reclm.backbones.content_prior import KERNEL, ContentPrior, blended, choose_prior, content_factors
from reclm.backbones.fitted import Selection
from reclm.backbones.loading import load_backbone
from reclm.backbones.models.neural import NeuralBackbone
from reclm.dataset import EVALUATION_SETTINGS

DATA = bw.toy_data()
EVERYBODY = np.arange(bw.N_USERS)


def kernel_scores(penalty: float) -> np.ndarray:
    """Scores of the textbook formula, each user's of length 1 over all items."""
    prior = ContentPrior(DATA, DATA.item_profile)
    everything = np.arange(bw.N_ITEMS)
    among = prior.kernel.between(prior.sources, prior.sources, KERNEL)
    to_all = prior.kernel.between(prior.sources, everything, KERNEL)
    scores = prior.history @ np.linalg.solve(among + penalty * np.eye(len(among)), to_all)
    return scores / np.linalg.norm(scores, axis=1, keepdims=True)


def ignorant(name: str, selection: Selection | None = None) -> tuple[NeuralBackbone, Selection]:
    """A network that knows nothing of items, and its selection."""
    backbone = bw.toy_backbone(name, "train.epochs=1")
    assert isinstance(backbone, NeuralBackbone)
    selection = selection or Selection.of_epochs(1)
    backbone.refit(DATA, "augment", replace(selection, options={}), 1)
    noise = np.random.default_rng(3)
    for setting, vectors in backbone.fitted.vectors.items():
        items = noise.standard_normal(vectors.items.shape).astype(np.float32)
        backbone.fitted.vectors[setting] = replace(vectors, items=items)
    return backbone, selection


def with_best_prior(backbone: NeuralBackbone, selection: Selection) -> Selection:
    return choose_prior(backbone.fitted, DATA, 1, selection, bw.toy_tasks(DATA), backbone._product_in)


class TestTheFactors:
    def test_are_the_scores_of_kernel_ridge_regression(self) -> None:
        factors = ContentPrior(DATA, DATA.item_profile).factors(2.0)
        np.testing.assert_allclose(factors.users @ factors.items.T, kernel_scores(2.0), atol=1e-4)

    def test_are_none_without_content(self) -> None:
        bare = replace(DATA, texts=[""] * bw.N_ITEMS, item_content=None, item_profile=None)
        assert content_factors(bare, "base", 1, penalty=2.0) is None

    def test_are_made_once_for_all_networks_of_a_run(self) -> None:
        first = content_factors(DATA, "base", 1, penalty=2.0)
        again = content_factors(DATA, "base", 1, penalty=2.0)
        assert first is not None and again is not None and first[0] is again[0]


class TestBlending:
    @pytest.mark.parametrize("name", ["biasmf", "ncf"])
    def test_adds_the_priors_scores_to_those_of_the_network(self, name: str) -> None:
        backbone = bw.toy_fitted(name, epochs=2)
        before = backbone.score(EVERYBODY)
        factors = ContentPrior(DATA, DATA.item_profile).factors(2.0)
        backbone.fitted.vectors = {s: blended(v, factors, 3.0) for s, v in backbone.fitted.vectors.items()}
        np.testing.assert_allclose(backbone.score(EVERYBODY), before + 3 * kernel_scores(2.0), atol=1e-3)
        assert (backbone.user_vectors(EVERYBODY)[:, -1] == 1).all()


class TestSelection:
    @pytest.mark.parametrize("name", ["biasmf", "ncf"])
    def test_leans_on_the_prior_where_the_network_knows_nothing(self, name: str, tmp_path: Path) -> None:
        backbone, selection = ignorant(name)
        selection = with_best_prior(backbone, selection)
        assert selection.options["zero_shot"]["prior_weight"] > 0
        cold = DATA.item_ids[bw.COLD].tolist()
        ids, _ = backbone.recommend(DATA.user_ids.tolist(), k=1, items=cold, setting="zero_shot")
        circles = np.array([bw.ITEM_CIRCLE[backbone.fitted.item_position[item]] for item in ids[:, 0]])
        assert (circles == bw.USER_CIRCLE).mean() >= 0.9
        backbone.save(tmp_path)
        for setting in EVALUATION_SETTINGS:
            again = load_backbone(tmp_path).score(EVERYBODY, setting)
            np.testing.assert_array_equal(again, backbone.score(EVERYBODY, setting))

    @pytest.mark.parametrize("name", ["biasmf", "als"])
    def test_leaves_a_model_alone_that_needs_no_help(self, name: str) -> None:
        backbone = bw.toy_backbone(name)
        selection = backbone.select(DATA, "augment", bw.toy_tasks(DATA), 1)
        assert {one["prior_weight"] for one in selection.options.values()} == {0.0}
        width = backbone.train.factors if name == "als" else backbone.train.dim
        assert backbone.fitted.vectors["full_shot"].items.shape[1] == width + 1
        assert backbone.fitted.description["options"] == selection.options

    def test_records_what_was_measured_with_the_prior(self) -> None:
        backbone, selection = ignorant("biasmf")
        rows = [
            {"epoch": 1, "loss": 0.0, "setting": "zero_shot", "metric": metric, "value": 0.0}
            for metric in ("recall", "ndcg")
        ]
        selection = with_best_prior(backbone, replace(selection, curve=rows))
        assert (selection.validation("ndcg")["zero_shot"] or 0) > 0.8

    def test_is_repeated_by_a_refit(self) -> None:
        options = {s: {"prior_weight": 4.0, "prior_penalty": 3.0} for s in EVALUATION_SETTINGS}
        backbone = bw.toy_backbone("biasmf", "train.epochs=2")
        backbone.refit(DATA, "augment", replace(Selection.of_epochs(2), options=options), 1)
        plain = bw.toy_fitted("biasmf", "augment", "train.epochs=2", epochs=2)
        added = backbone.score(EVERYBODY) - plain.score(EVERYBODY)
        prior = kernel_scores(3.0)
        np.testing.assert_allclose(added / added.std(), prior / prior.std(), atol=0.02)
        warm = ~bw.COLD
        spreads = [scores[:, warm].std(axis=1).mean() for scores in (added, plain.score(EVERYBODY))]
        assert spreads[0] / spreads[1] == pytest.approx(4, rel=0.01)
        assert backbone.fitted.description["options"] == options
