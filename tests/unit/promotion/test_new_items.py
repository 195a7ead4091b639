"""Vectors of items that came after the champion, and that such items can then be recommended."""

from __future__ import annotations

import numpy as np
import pytest
from unit import backbones_world as bw


@pytest.mark.parametrize("name", ["biasmf", "ncf", "lightgcn", "als", "itemknn", "ease", "kernel"])
class TestANewItem:
    def test_is_recommended_to_the_users_of_its_circle(self, name: str) -> None:
        data = bw.toy_data()
        backbone = bw.toy_fitted(name, data=bw.without(data, bw.COLD))
        new = backbone.extended(data.item_ids[bw.COLD], backbone.vectors_of_new_items(data)[bw.COLD])
        ids, scores = new.recommend(data.user_ids.tolist(), k=3, items=data.item_ids[bw.COLD].tolist())
        best = [int(item.strip("item '")) // bw.ITEMS_EACH for item in ids[:, 0]]
        assert np.mean(np.array(best) == bw.USER_CIRCLE) > 0.9
        assert np.isfinite(scores).all()

    def test_changes_nothing_for_the_items_that_were_there(self, name: str) -> None:
        data = bw.toy_data()
        backbone = bw.toy_fitted(name, data=bw.without(data, bw.COLD))
        new = backbone.extended(data.item_ids[bw.COLD], backbone.vectors_of_new_items(data)[bw.COLD])
        users = np.arange(bw.N_USERS)
        np.testing.assert_allclose(new.score(users)[:, : (~bw.COLD).sum()], backbone.score(users), rtol=1e-5)
        assert backbone.fitted.known.nnz == new.fitted.known.nnz


class TestAnItemWithoutTextAndProfile:
    def test_gets_no_vector(self) -> None:
        data = bw.toy_data()
        backbone = bw.toy_fitted("biasmf", data=bw.without(data, bw.COLD))
        assert data.item_content is not None and data.item_profile is not None
        silent = int(np.flatnonzero(bw.COLD)[0])
        for rows in (data.item_content, data.item_profile):
            rows[silent] = np.nan
        data.texts[silent] = ""
        vectors = backbone.vectors_of_new_items(data)
        assert np.isnan(vectors[silent]).all()
        assert np.isfinite(np.delete(vectors, silent, axis=0)).all()

    def test_a_model_without_profiles_reads_none(self) -> None:
        data = bw.toy_data()
        backbone = bw.toy_fitted("biasmf", "base", data=bw.without(data, bw.COLD))
        assert data.item_profile is not None
        before = backbone.vectors_of_new_items(data)
        data.item_profile[bw.COLD] *= -1
        np.testing.assert_array_equal(backbone.vectors_of_new_items(data), before)
