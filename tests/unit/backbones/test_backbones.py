"""One behaviour suite over all backbones, on a toy world whose answers are known."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from unit.backbones_world import (
    CIRCLES,
    COLD,
    ITEM_CIRCLE,
    N_ITEMS,
    N_USERS,
    USER_CIRCLE,
    WITHHELD,
    toy_backbone,
    toy_data,
    toy_fitted,
    toy_tasks,
)

from reclm.backbones.base import Backbone
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.loading import load_backbone
from reclm.backbones.ranking import BackboneScorer
from reclm.dataset import EVALUATION_SETTINGS, SERVED
from reclm.errors import ModelError
from reclm.settings.recommenders import BACKBONES

DATA = toy_data()
USERS, ITEMS = DATA.user_ids.tolist(), DATA.item_ids.tolist()
NEURAL = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl")
LINEAR = ("itemknn", "ease", "kernel")
READ_HISTORIES = tuple(name for name in BACKBONES if name != "kernel")
NOT_LINEAR = tuple(name for name in BACKBONES if name not in LINEAR)


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request) -> Backbone:
    return toy_fitted(request.param)


class TestRecommending:
    def test_finds_the_withheld_item_first_among_warm_ones(self, backbone):
        warm = [item for item, cold in zip(ITEMS, COLD, strict=True) if not cold]
        ids, _ = backbone.recommend(USERS, k=1, items=warm)
        found = ids[:, 0] == DATA.item_ids[WITHHELD]
        assert found.mean() >= 0.9

    def test_gives_a_cold_item_to_the_circle_it_is_for(self, backbone):
        cold = [item for item, is_cold in zip(ITEMS, COLD, strict=True) if is_cold]
        ids, _ = backbone.recommend(USERS, k=1, items=cold, setting="zero_shot")
        circles = [ITEM_CIRCLE[ITEMS.index(item)] for item in ids[:, 0]]
        assert (np.array(circles) == USER_CIRCLE).mean() >= 0.9

    def test_leaves_out_known_items_unless_include_known(self, backbone):
        known = DATA.interactions.toarray()[0] > 0
        ids, _ = backbone.recommend(USERS[0], k=N_ITEMS)
        assert not set(DATA.item_ids[known]) & set(ids[0])
        ids, _ = backbone.recommend(USERS[0], k=N_ITEMS, include_known=True)
        assert set(ids[0]) == set(ITEMS)

    def test_leaves_out_the_items_in_filter(self, backbone):
        ids, _ = backbone.recommend(USERS[:3], k=N_ITEMS, filter=[ITEMS[0], ITEMS[5]])
        assert not {ITEMS[0], ITEMS[5]} & set(ids.ravel())

    def test_answers_with_scores_that_fall_and_pads_where_items_run_out(self, backbone):
        ids, scores = backbone.recommend(USERS[:2], k=N_ITEMS + 4)
        assert ids.shape == scores.shape == (2, N_ITEMS + 4)
        there = np.isfinite(scores)
        assert (np.diff(scores[0][there[0]]) <= 0).all()
        assert (there == (ids != "")).all()
        assert there.sum(axis=1).tolist() == (N_ITEMS - DATA.interactions.getnnz(axis=1)[:2]).tolist()

    def test_scores_agree_with_score(self, backbone):
        ids, scores = backbone.recommend(USERS[3], k=2)
        row = backbone.score(np.array([3]))
        assert row.shape == (1, N_ITEMS)
        assert row.dtype == np.float32
        np.testing.assert_allclose(scores[0], [row[0, ITEMS.index(item)] for item in ids[0]], rtol=1e-5)


class TestFullShot:
    def test_ranks_an_item_nobody_is_known_to_have_touched_last(self, backbone):
        scores = BackboneScorer(backbone, "full_shot").score(np.arange(N_USERS))
        assert (scores[:, COLD].max(axis=1) < scores[:, ~COLD].min(axis=1)).all()

    def test_leaves_the_other_settings_as_they_are(self, backbone):
        users = np.arange(N_USERS)
        np.testing.assert_array_equal(BackboneScorer(backbone, SERVED).score(users), backbone.score(users, SERVED))


class TestSimilarItems:
    def test_are_of_the_same_circle_and_never_the_item_itself(self, backbone):
        ids, scores = backbone.similar_items(ITEMS, k=3)
        circles = np.array([[ITEM_CIRCLE[ITEMS.index(item)] for item in row] for row in ids])
        assert (circles == ITEM_CIRCLE[:, None]).mean() >= 0.9
        assert all(item not in row for item, row in zip(ITEMS, ids, strict=True))
        assert (np.diff(scores, axis=1) <= 1e-6).all()


class TestErrorsSayWhatToDo:
    def test_an_unknown_user_is_named(self, backbone):
        with pytest.raises(ModelError, match=r"does not know user \"Robert'\); DROP\".*train again"):
            backbone.recommend("Robert'); DROP")

    def test_an_unknown_item_is_named(self, backbone):
        for call in (backbone.similar_items, lambda item: backbone.recommend(USERS[0], filter=[item])):
            with pytest.raises(ModelError, match="does not know item 'nowhere'"):
                call("nowhere")

    @pytest.mark.parametrize("k", [0, -3])
    def test_k_below_one_is_refused(self, backbone, k):
        with pytest.raises(ModelError, match=f"at least 1, not {k}"):
            backbone.recommend(USERS[0], k=k)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_an_unfitted_backbone_says_so(self, name):
        with pytest.raises(ModelError, match="not fitted yet; call select"):
            toy_backbone(name).recommend("anyone")

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ModelError, match="lightgcn"):
            toy_backbone("lightgnc")


class TestSaving:
    def test_a_loaded_backbone_answers_the_same(self, backbone, tmp_path):
        backbone.save(tmp_path)
        again = load_backbone(tmp_path)
        for setting in EVALUATION_SETTINGS:
            everybody = np.arange(N_USERS)
            np.testing.assert_array_equal(again.score(everybody, setting), backbone.score(everybody, setting))
        for ours, theirs in zip(again.recommend(USERS, 5), backbone.recommend(USERS, 5), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_dropped_row_forgets_that_user_and_no_other(self, backbone, tmp_path):
        backbone.save(tmp_path)
        rows = pq.read_table(tmp_path / "users.parquet")
        keep = [user != USERS[2] for user in rows["user_id"].to_pylist()]
        pq.write_table(rows.filter(keep), tmp_path / "users.parquet")
        again = load_backbone(tmp_path)
        with pytest.raises(ModelError, match="does not know user"):
            again.recommend(USERS[2])
        rest = [user for user in USERS if user != USERS[2]]
        np.testing.assert_array_equal(again.recommend(rest, 5)[0], backbone.recommend(rest, 5)[0])

    def test_no_person_is_left_outside_the_parquet_rows(self, backbone, tmp_path):
        from safetensors.numpy import load_file

        backbone.save(tmp_path)
        shapes = [value.shape for value in load_file(tmp_path / "parameters.safetensors").values()]
        assert not any(shape and shape[0] in (N_USERS, N_ITEMS) for shape in shapes)
        assert USERS[0] not in json.dumps((tmp_path / "config.json").read_text())

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ModelError, match=r"config\.json does not exist"):
            load_backbone(tmp_path)


class TestOlderModels:
    def test_of_another_build_say_what_to_do(self, tmp_path):
        backbone = toy_fitted("ncf")
        backbone.fitted.networks = {
            name: value[:1] if name.endswith("second.weight") else value
            for name, value in backbone.fitted.networks.items()
        }
        backbone.save(tmp_path)
        with pytest.raises(ModelError, match=r"ncf was trained by another version of reclm.*run `reclm train`"):
            load_backbone(tmp_path)


class TestFitting:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_one_seed_gives_one_result(self, name):
        tables = [toy_fitted(name, epochs=3).fitted.vectors["full_shot"] for _ in range(2)]
        np.testing.assert_array_equal(tables[0].users, tables[1].users)
        np.testing.assert_array_equal(tables[0].items, tables[1].items)

    @pytest.mark.parametrize("name", BACKBONES)
    @pytest.mark.parametrize("variant", ["base", "augment", "shuffled"])
    def test_selection_returns_an_epoch_a_setting_and_records_its_curve(self, name, variant):
        backbone = toy_backbone(name, "train.epochs=6")
        selection = backbone.select(DATA, variant, toy_tasks(DATA), seed=1)
        assert set(selection.epochs) == set(EVALUATION_SETTINGS)
        measured = {(row["setting"], row["metric"]) for row in selection.curve if row["setting"]}
        assert measured == {(setting, metric) for setting in EVALUATION_SETTINGS for metric in ("recall", "ndcg")}
        assert all(0 <= row["value"] <= 1 for row in selection.curve if row["setting"])
        assert np.isfinite(backbone.score(np.arange(N_USERS))).all()

    @pytest.mark.parametrize("name", ["biasmf", "als"])
    def test_without_tasks_selects_what_its_settings_say(self, name):
        selected, backbone = toy_backbone(name, "train.epochs=2"), toy_fitted(name, "base", "train.epochs=2")
        selection = selected.select(DATA, "base", [], seed=1)
        assert replace(selection, curve=()) == selected.default_selection()
        assert selection.validation("ndcg") == dict.fromkeys(EVALUATION_SETTINGS)
        np.testing.assert_array_equal(selected.score(np.arange(N_USERS)), backbone.score(np.arange(N_USERS)))

    @pytest.mark.parametrize("name", NEURAL)
    def test_keeps_the_vectors_of_each_chosen_epoch(self, name):
        both = toy_fitted(name, epochs={"full_shot": 2, "zero_shot": 4, "mixed": 4})
        early = toy_fitted(name, epochs=2)
        np.testing.assert_array_equal(both.score(np.arange(5), "full_shot"), early.score(np.arange(5)))
        assert not np.array_equal(both.score(np.arange(5), "full_shot"), both.score(np.arange(5), "zero_shot"))

    @pytest.mark.parametrize("name", NEURAL)
    def test_starts_from_popularity(self, name):
        uneven = DATA.interactions.toarray()
        uneven[::2, ::2] = 0
        known = sparse.csr_matrix(uneven)
        popularity = known.getnnz(axis=0)[~COLD]
        start = toy_fitted(name, "base", data=replace(DATA, interactions=known), epochs=0)
        scores = start.score(np.arange(N_USERS))[:, ~COLD].mean(axis=0)
        assert np.corrcoef(scores, popularity)[0, 1] > 0.8

    @pytest.mark.parametrize("name", READ_HISTORIES)
    def test_needs_neither_texts_nor_profiles(self, name):
        bare = replace(DATA, texts=[""] * N_ITEMS, item_content=None, item_profile=None, user_profile=None)
        backbone = toy_fitted(name, "augment", data=bare)
        warm = np.array(ITEMS)[~COLD].tolist()
        ids, _ = backbone.recommend(USERS, k=1, items=warm)
        assert (ids[:, 0] == DATA.item_ids[WITHHELD]).mean() >= 0.8

    @pytest.mark.parametrize("name", NOT_LINEAR)
    def test_serves_a_user_without_history_by_profile(self, name):
        emptied = DATA.interactions.tolil()
        strangers = np.arange(0, N_USERS, N_USERS // CIRCLES)
        emptied[strangers] = 0
        data = replace(DATA, interactions=sparse.csr_matrix(emptied))
        backbone = toy_fitted(name, data=data)
        before = {setting: vectors.users.copy() for setting, vectors in backbone.fitted.vectors.items()}
        backbone.learn_to_fold_in(data, 1)
        folded = backbone.fold_in(data.interactions[strangers], data.user_profile[strangers])
        others = np.delete(np.arange(N_USERS), strangers)
        for setting, vectors in backbone.fitted.vectors.items():
            np.testing.assert_array_equal(vectors.users[others], before[setting][others])
            moved = np.abs(vectors.users[strangers] - before[setting][strangers]).max(axis=1)
            assert (moved > 1e-3).all() == (name in NEURAL)
            if name in NEURAL and setting == SERVED:
                np.testing.assert_allclose(vectors.users[strangers], folded, rtol=1e-5)
        ids, _ = backbone.recommend(np.array(USERS)[strangers].tolist(), k=4)
        circles = np.array([[ITEM_CIRCLE[ITEMS.index(item)] for item in row] for row in ids])
        assert (circles == USER_CIRCLE[strangers][:, None]).mean() >= 0.9

    def test_a_shuffled_stranger_is_folded_in_by_the_profile_that_was_dealt(self):
        emptied = DATA.interactions.tolil()
        emptied[0] = 0
        data = replace(DATA, interactions=sparse.csr_matrix(emptied))
        dealt = profiles_of(data, "shuffled", 1)[0]
        assert not np.array_equal(dealt[0], data.user_profile[0])
        vectors = []
        for variant, given in (("shuffled", data), ("augment", replace(data, user_profile=dealt))):
            backbone = toy_fitted("biasmf", "shuffled", data=data)
            backbone.fitted.description["variant"] = variant
            backbone.learn_to_fold_in(given, 1)
            vectors.append(backbone.fitted.vectors["full_shot"].users[0])
        np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5)

    @pytest.mark.parametrize("name", ["biasmf", "ncf", "lightgcn"])
    def test_learns_by_bpr_as_well(self, name):
        backbone = toy_fitted(name, "base", "train.loss=bpr", "train.batch_size=32", epochs=40)
        warm = np.array(ITEMS)[~COLD].tolist()
        ids, _ = backbone.recommend(USERS, k=1, items=warm)
        circles = np.array([ITEM_CIRCLE[ITEMS.index(item)] for item in ids[:, 0]])
        assert (circles == USER_CIRCLE).mean() >= 0.9
