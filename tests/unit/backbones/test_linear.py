"""The closed-form backbones: their weights are the published formulas, and a user is their history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from unit import backbones_world as bw

from reclm.backbones import closed_form
from reclm.backbones.base import Backbone
from reclm.backbones.loading import load_backbone
from reclm.backbones.models.linear import TIE_BREAK, Items
from reclm.dataset import EVALUATION_SETTINGS, TrainingData
from reclm.errors import ModelError

LINEAR = ("itemknn", "ease", "kernel")
EVERYBODY = np.arange(bw.N_USERS)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """The toy data with some interactions taken away, so that histories and popularities differ."""
    toy = bw.toy_data()
    kept = np.random.default_rng(5).random(toy.interactions.shape) < 0.8
    return replace(toy, interactions=sparse.csr_matrix(toy.interactions.toarray() * kept))


@pytest.fixture(scope="module", params=LINEAR)
def backbone(request: pytest.FixtureRequest, data: TrainingData) -> Backbone:
    return bw.toy_fitted(request.param, data=data)


def weights_of(backbone: Backbone) -> np.ndarray:
    """Item-item weights (n_items, n_items): the column of each item."""
    return backbone.fitted.vectors["full_shot"].items[:, :-1].T


def fitted_with(name: str, data: TrainingData, variant: str = "augment", **options: float) -> Backbone:
    backbone = bw.toy_backbone(name)
    chosen = dict.fromkeys(EVALUATION_SETTINGS, options)
    backbone.refit(data, variant, replace(backbone.default_selection(), options=chosen), 1)
    return backbone


class TestEase:
    def test_is_the_published_closed_form_on_warm_items(self, data: TrainingData) -> None:
        known = data.interactions.toarray().astype(float)
        inverse = np.linalg.inv(known.T @ known + 30 * np.eye(bw.N_ITEMS))
        expected = inverse / -np.diag(inverse)
        np.fill_diagonal(expected, 0)
        found = weights_of(fitted_with("ease", data, penalty=30.0, side_weight=0.0))
        np.testing.assert_allclose(found[np.ix_(~bw.COLD, ~bw.COLD)], expected[np.ix_(~bw.COLD, ~bw.COLD)], atol=1e-6)

    def test_reads_texts_as_further_rows(self, data: TrainingData) -> None:
        bare = replace(data, item_content=None, item_profile=None)
        items = Items.of(bare, None)
        assert items.kernel.texts is not None
        texts = np.sqrt(0.3 * 10) * items.kernel.texts[items.warm].toarray().T
        rows = np.vstack([items.history.toarray(), texts])
        inverse = np.linalg.inv(rows.T @ rows + 30 * np.eye(len(items.warm)))
        expected = inverse / -np.diag(inverse)
        np.fill_diagonal(expected, 0)
        found = weights_of(fitted_with("ease", bare, penalty=30.0, side_weight=10.0))
        np.testing.assert_allclose(found[np.ix_(~bw.COLD, ~bw.COLD)], expected, atol=1e-6)


class TestKernel:
    def test_predicts_a_warm_item_with_the_item_left_out(self, data: TrainingData) -> None:
        items = Items.of(data, data.item_profile)
        options = {"text_weight": 0.3, "profile_weight": 0.3}
        kernel = items.kernel.between(items.warm, items.warm, options)
        found = weights_of(fitted_with("kernel", data, penalty=2.0, **options))[np.ix_(~bw.COLD, ~bw.COLD)]
        for item in (0, 7, 15):
            others = np.delete(np.arange(len(items.warm)), item)
            system = kernel[np.ix_(others, others)] + 2 * np.eye(len(others))
            np.testing.assert_allclose(found[others, item], np.linalg.solve(system, kernel[others, item]), atol=1e-5)

    def test_needs_texts(self, data: TrainingData) -> None:
        with pytest.raises(ModelError, match=r"kernel needs item texts.*leave it out of train\.models"):
            bw.toy_fitted("kernel", data=replace(data, texts=[""] * bw.N_ITEMS, item_content=None))


class TestItemKNN:
    def test_adds_up_the_cosines_of_the_nearest_items_alone(self, data: TrainingData) -> None:
        known = data.interactions.toarray()
        norms = np.maximum(np.sqrt(known.sum(axis=0)), 1)
        cosine = known.T @ known / np.outer(norms, norms)
        np.fill_diagonal(cosine, 0)
        expected = np.where(cosine >= np.sort(cosine, axis=0)[-3], cosine, 0)
        found = weights_of(fitted_with("itemknn", data, neighbours=3.0, side_weight=0.0))
        warm = np.ix_(~bw.COLD, ~bw.COLD)
        np.testing.assert_allclose(found[warm], expected[warm], atol=1e-6)


class TestVariants:
    @pytest.mark.parametrize("name", LINEAR)
    def test_differ_by_the_item_profiles_that_they_read(self, data: TrainingData, name: str) -> None:
        texts = replace(data, item_profile=np.random.default_rng(1).standard_normal((bw.N_ITEMS, 8)).astype(np.float32))
        of_cold = [weights_of(bw.toy_fitted(name, v, data=texts))[:, bw.COLD] for v in ("base", "augment", "shuffled")]
        assert not np.allclose(of_cold[0], of_cold[1])
        assert not np.allclose(of_cold[1], of_cold[2])

    @pytest.mark.parametrize("name", LINEAR)
    def test_without_profiles_reads_none(self, data: TrainingData, name: str) -> None:
        bare = weights_of(bw.toy_fitted(name, "base", data=replace(data, item_profile=None)))
        np.testing.assert_array_equal(weights_of(bw.toy_fitted(name, "base", data=data)), bare)


class TestSelection:
    @pytest.mark.parametrize("name", LINEAR)
    def test_takes_the_options_that_validate_best_and_refits_with_them(self, data: TrainingData, name: str) -> None:
        selected = bw.toy_backbone(name)
        selection = selected.select(data, "augment", bw.toy_tasks(data), 1)
        for setting in ("full_shot", "zero_shot"):
            totals: dict[int, float] = {}
            for row in selection.curve:
                if row["setting"] == setting:
                    totals[row["epoch"]] = totals.get(row["epoch"], 0) + row["value"]
            assert totals[selection.epochs[setting]] == max(totals.values())
            assert len(totals) > 5
        assert selected.fitted.description["options"] == selection.options
        again = bw.toy_backbone(name)
        again.refit(data, "augment", selection, 1)
        np.testing.assert_array_equal(again.score(EVERYBODY), selected.score(EVERYBODY))


class TestAUser:
    def test_scores_the_same_alone_in_a_batch_and_folded_in(self, backbone: Backbone) -> None:
        batch = backbone.score(EVERYBODY)
        for user in (0, 9, 23):
            history = backbone.fitted.known[user].indices.astype(np.int64)
            np.testing.assert_array_equal(backbone.score(np.array([user]))[0], batch[user])
            folded_in = backbone.fold_in_one(history)
            np.testing.assert_array_equal(folded_in, backbone.user_vectors(np.array([user]))[0])
            np.testing.assert_array_equal(backbone.score_vectors(folded_in[None])[0], batch[user])

    def test_without_a_history_is_ranked_for_by_popularity(self, backbone: Backbone) -> None:
        scores = backbone.score_vectors(backbone.fold_in_one(np.zeros(0, dtype=np.int64))[None])[0]
        popularity = backbone.fitted.known.getnnz(axis=0)
        np.testing.assert_allclose(scores, TIE_BREAK * popularity / popularity.max(), rtol=1e-5)

    def test_has_no_wide_vector_on_disk(self, backbone: Backbone, tmp_path: Path) -> None:
        backbone.save(tmp_path)
        schema = pq.read_schema(tmp_path / "users.parquet")
        assert schema.field("full_shot_vector").type.list_size == 1
        assert "zero_shot_vector" not in schema.names


class TestANewItem:
    def test_gets_the_column_that_it_would_have_had_as_a_cold_item(self, data: TrainingData) -> None:
        for name in LINEAR:
            known_cold, later = bw.toy_fitted(name, data=data), bw.toy_fitted(name, data=bw.without(data, bw.COLD))
            later = later.extended(data.item_ids[bw.COLD], later.vectors_of_new_items(data)[bw.COLD])
            new = later.score(EVERYBODY)[:, -bw.COLD.sum() :]
            np.testing.assert_allclose(new, known_cold.score(EVERYBODY)[:, bw.COLD], atol=1e-5)

    def test_says_nothing_about_users_who_have_it_in_their_history(self, data: TrainingData) -> None:
        backbone = bw.toy_fitted("ease", data=bw.without(data, bw.COLD))
        backbone = backbone.extended(data.item_ids[bw.COLD], backbone.vectors_of_new_items(data)[bw.COLD])
        old = np.array([0, 3])
        with_new = np.append(old, len(backbone.fitted.item_ids) - 1)
        np.testing.assert_array_equal(backbone.fold_in_one(with_new), backbone.fold_in_one(old))

    def test_survives_saving_with_all_settings_sharing_one_table(self, data: TrainingData, tmp_path: Path) -> None:
        backbone = bw.toy_fitted("ease", data=data)
        backbone.save(tmp_path)
        vectors = load_backbone(tmp_path).fitted.vectors
        assert all(vectors[setting] is vectors["full_shot"] for setting in EVALUATION_SETTINGS)


class TestTooManyItems:
    @pytest.mark.parametrize("name", LINEAR)
    def test_are_refused_with_the_remedy(self, data: TrainingData, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(closed_form, "MAX_DENSE_ITEMS", 20)
        with pytest.raises(ModelError, match=r"27 items are more than the 20.*leave it out of train\.models"):
            bw.toy_fitted(name, data=data)
