"""Where cold items are put: by their tower, by kernel ridge, or between the two, as validation says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from unit import backbones_world as bw

from reclm.backbones.base import Backbone
from reclm.backbones.cold_start import (
    KERNEL_SHARES,
    LEVEL_SHIFTS,
    ColdStartKernel,
    ColdStartTask,
    level_shift,
    level_spread,
    mix,
    mix_keeping_spread,
    shifted_to_unseen,
)
from reclm.backbones.fitted import ColdStart, Selection, Vectors
from reclm.backbones.kernel_ridge import (
    MAX_CACHED_CELLS,
    PENALTY,
    KernelRidge,
    item_sources,
    predict_all,
    rows_without_source,
)
from reclm.backbones.metrics import recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, SERVED

DATA = bw.toy_data()
NEURAL = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl")
COLD = np.flatnonzero(bw.COLD)
TEXTS_ALONE = ColdStart(1.0, reads_profiles=False)


def selected(
    name: str = "biasmf", variant: Any = "augment", *flags: str, tasks: Any = None
) -> tuple[Backbone, Selection]:
    backbone = bw.toy_backbone(name, "train.epochs=4", *flags)
    return backbone, backbone.select(DATA, variant, bw.toy_tasks(DATA) if tasks is None else tasks, seed=1)


class TestKernelRidge:
    @pytest.mark.parametrize("linear", [False, True])
    def test_is_ridge_regression_in_its_dual_form(self, linear: bool) -> None:
        random = np.random.default_rng(0)
        rows = random.standard_normal((12, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        evidence, targets = np.arange(12) % 3, random.standard_normal((12, 2)).astype(np.float32)
        known = evidence > 0
        cosines = rows @ rows[known].T
        kernel = np.maximum(cosines, 0) ** 2 + (cosines if linear else 0)
        mean = targets[known].mean(axis=0)
        dual = np.linalg.inv(kernel[known] + PENALTY * np.eye(known.sum())) @ (targets[known] - mean)
        found = predict_all([rows], evidence, targets, linear=linear)
        np.testing.assert_allclose(found, kernel @ dual + mean, atol=1e-5)

    def test_sources_add_up_and_a_kernel_at_hand_changes_nothing(self) -> None:
        sources = item_sources(DATA, DATA.item_profile)
        assert len(sources) == 3
        assert sparse.issparse(sources[0])
        both = KernelRidge(sources, (~bw.COLD).astype(int))
        parts = [KernelRidge([source], (~bw.COLD).astype(int)).kernel(COLD, np.float64) for source in sources]
        np.testing.assert_allclose(both.kernel(COLD, np.float64), sum(parts))
        targets = np.random.default_rng(1).standard_normal((bw.N_ITEMS, 3)).astype(np.float32)
        np.testing.assert_allclose(
            both.predict(targets, COLD, both.cached_kernel(COLD, MAX_CACHED_CELLS)),
            both.predict(targets, COLD),
            atol=1e-5,
        )

    def test_a_kernel_in_blocks_is_the_same_and_one_too_large_is_not_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = KernelRidge(item_sources(DATA, None), (~bw.COLD).astype(int), linear=True)
        targets = np.random.default_rng(6).standard_normal((bw.N_ITEMS, 3)).astype(np.float32)
        expected = whole.predict(targets, COLD)
        monkeypatch.setattr("reclm.backbones.kernel_ridge.BLOCK", 3)
        parts = KernelRidge(item_sources(DATA, None), (~bw.COLD).astype(int), linear=True)
        np.testing.assert_allclose(parts.predict(targets, COLD), expected, atol=1e-6)
        assert parts.cached_kernel(COLD, 1) is None
        np.testing.assert_allclose(parts.predict(targets, COLD, parts.cached_kernel(COLD, 1)), expected, atol=1e-6)

    def test_says_the_mean_where_nothing_is_known(self) -> None:
        rows = np.eye(4)
        rows[3] = 0
        targets = np.arange(8, dtype=np.float32).reshape(4, 2)
        found = predict_all([rows], np.array([1, 1, 1, 0]), targets)
        assert found is not None
        np.testing.assert_allclose(found[3], targets[:3].mean(axis=0))
        assert rows_without_source([rows]).tolist() == [False, False, False, True]


def final(items: np.ndarray, unseen: np.ndarray | None = None) -> Vectors:
    return Vectors(np.ones((bw.N_USERS, items.shape[1]), dtype=np.float32), items, unseen)


class TestMixing:
    OWN, PREDICTED = np.random.default_rng(6).standard_normal((2, 9, 4)).astype(np.float32)

    @staticmethod
    def apart(rows: np.ndarray) -> float:
        return float(np.linalg.norm(rows - rows.mean(axis=0)))

    @pytest.mark.parametrize(("nearer", "wanted"), [(1.5, 1.0), (4.0, 0.5), (0.5, 2.0)])
    def test_rows_lie_as_far_apart_as_their_own_do(self, nearer: float, wanted: float) -> None:
        """At most twice as far as they did, and never nearer; their middle and their order stay."""
        predicted = self.OWN.mean(axis=0) + (self.OWN - self.OWN.mean(axis=0)) / nearer + 3
        found = mix_keeping_spread(self.OWN, predicted, 1.0)
        assert self.apart(found) == pytest.approx(wanted * self.apart(self.OWN), rel=1e-5)
        np.testing.assert_allclose(found.mean(axis=0), predicted.mean(axis=0), atol=1e-5)

    def test_an_inner_product_ranks_them_as_the_mix_does(self) -> None:
        users = np.random.default_rng(7).standard_normal((5, 4))
        mixed, found = mix(self.OWN, self.PREDICTED, 0.5), mix_keeping_spread(self.OWN, self.PREDICTED, 0.5)
        assert self.apart(found) > self.apart(mixed) * 1.05
        np.testing.assert_array_equal(np.argsort(users @ found.T), np.argsort(users @ mixed.T))

    def test_one_row_alone_is_the_mix(self) -> None:
        np.testing.assert_array_equal(
            mix_keeping_spread(self.OWN[:1], self.PREDICTED[:1], 0.25), mix(self.OWN[:1], self.PREDICTED[:1], 0.25)
        )


class TestColdStartKernel:
    def test_moves_cold_items_by_its_share_and_no_others(self) -> None:
        items = np.random.default_rng(2).standard_normal((bw.N_ITEMS, 5)).astype(np.float32)
        kernel = ColdStartKernel(DATA, DATA.item_profile)
        whole = kernel.apply(final(items), ColdStart(1.0))
        np.testing.assert_array_equal(whole[~bw.COLD], items[~bw.COLD])
        assert (np.abs(whole[bw.COLD] - items[bw.COLD]).max(axis=1) > 1e-3).all()
        predicted = kernel.ridge(True).predict(items, COLD)
        for share in (0.25, 1.0):
            found = kernel.apply(final(items), ColdStart(share))
            np.testing.assert_allclose(found[COLD], mix_keeping_spread(items[COLD], predicted, share), atol=1e-6)
        assert kernel.apply(final(items), ColdStart()) is items

    def test_reads_profiles_or_texts_alone(self) -> None:
        items = np.random.default_rng(2).standard_normal((bw.N_ITEMS, 5)).astype(np.float32)
        kernel, bare = ColdStartKernel(DATA, DATA.item_profile), ColdStartKernel(DATA, None)
        assert (kernel.choices, bare.choices) == ((False, True), (True,))
        texts = kernel.apply(final(items), ColdStart(1.0, reads_profiles=False))
        assert np.abs(texts - kernel.apply(final(items), ColdStart(1.0))).max() > 1e-3
        for profiles in (True, False):
            np.testing.assert_array_equal(bare.apply(final(items), ColdStart(1.0, profiles)), texts)

    def test_leaves_items_without_text_or_profile_to_their_tower(self) -> None:
        first = COLD[0]
        texts = ["" if row == first else text for row, text in enumerate(DATA.texts)]
        assert DATA.item_content is not None
        content = DATA.item_content.copy()
        content[first] = np.nan
        kernel = ColdStartKernel(replace(DATA, texts=texts, item_content=content), None)
        items = np.random.default_rng(3).standard_normal((bw.N_ITEMS, 5)).astype(np.float32)
        np.testing.assert_array_equal(kernel.apply(final(items), ColdStart(1.0))[first], items[first])
        np.testing.assert_array_equal(kernel.predictable_items(True), COLD[1:])

    @pytest.mark.parametrize("empty", ["texts", "interactions"])
    def test_needs_texts_and_warm_items(self, empty: str) -> None:
        bare: dict[str, Any] = {"texts": [""] * bw.N_ITEMS, "item_content": None}
        if empty == "interactions":
            bare = {"interactions": sparse.csr_matrix(DATA.interactions.shape, dtype=np.float32)}
        kernel = ColdStartKernel(replace(DATA, **bare), None)
        items = np.ones((bw.N_ITEMS, 3), dtype=np.float32)
        assert kernel.choices == ()
        assert kernel.apply(final(items), ColdStart(1.0)) is items

    @pytest.mark.parametrize("choices", [(True,), (False, True)])
    def test_warm_items_are_tried_once_and_cold_ones_with_every_cold_start(self, choices: tuple[bool, ...]) -> None:
        kernel = ColdStartKernel(DATA, DATA.item_profile if False in choices else None)
        items, unseen = np.random.default_rng(4).standard_normal((2, bw.N_ITEMS, 5)).astype(np.float32)
        vectors = final(items, unseen)
        warm, all_cold, _ = bw.toy_tasks(DATA)
        fewer = all_cold.candidates.copy()
        fewer[COLD[0]] = False  # cold, and no candidate: it is moved with the others all the same
        warm, cold = (ColdStartTask(task, kernel) for task in (warm, replace(all_cold, candidates=fewer)))
        assert [cold_start for cold_start, _ in warm.options(vectors)] == [ColdStart()]
        offered = dict(cold.options(vectors))
        assert [*offered] == [
            ColdStart(),
            *(ColdStart(share, profiles) for profiles in choices for share in KERNEL_SHARES[1:]),
        ]
        for cold_start, rows in offered.items():
            np.testing.assert_allclose(rows, kernel.apply(vectors, cold_start)[cold.columns], atol=1e-5)

    def test_beside_warm_items_cold_ones_are_tried_on_other_levels_and_warm_ones_stay(self) -> None:
        items, unseen = np.random.default_rng(4).standard_normal((2, bw.N_ITEMS, 5)).astype(np.float32)
        vectors, kernel = final(items, unseen), ColdStartKernel(DATA, DATA.item_profile)
        warm, cold, both = (ColdStartTask(task, kernel) for task in bw.toy_tasks(DATA))
        mix = ColdStart(0.5)
        assert [*warm.levels(vectors, mix), *cold.levels(vectors, mix)] == []
        offered = dict(both.levels(vectors, mix))
        assert [*offered] == [mix._replace(shift=shift) for shift in LEVEL_SHIFTS]
        unit = level_spread(vectors, ~bw.COLD)
        for cold_start, rows in offered.items():
            np.testing.assert_allclose(rows, kernel.apply(vectors, cold_start), atol=1e-5)
            moved = rows - both.items(vectors, mix)
            np.testing.assert_array_equal(moved[~bw.COLD], 0)
            np.testing.assert_array_equal(moved[:, :-1], 0)
            np.testing.assert_allclose(moved[bw.COLD, -1], cold_start.shift * unit, rtol=1e-4)

    def test_keeps_the_towers_mean_of_cold_items(self) -> None:
        items, unseen = np.random.default_rng(5).standard_normal((2, bw.N_ITEMS, 5)).astype(np.float32)
        kernel = ColdStartKernel(DATA, DATA.item_profile)
        level = unseen[~bw.COLD].mean(axis=0) - items[~bw.COLD].mean(axis=0)
        assert np.abs(level).max() > 0.1
        learned = kernel.apply(final(items), ColdStart(0.5))
        untouched = kernel.apply(final(items, unseen), ColdStart(0.5))
        np.testing.assert_allclose((untouched - learned)[bw.COLD], np.tile(level / 2, (len(COLD), 1)), atol=1e-5)
        np.testing.assert_array_equal(untouched[~bw.COLD], items[~bw.COLD])


@pytest.fixture
def all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of texts alone has the whole say, whether or not the tower or the profiles know better."""
    monkeypatch.setattr(ColdStartTask, "options", _texts_alone)
    monkeypatch.setattr("reclm.backbones.cold_start.LEVEL_SHIFTS", ())


def _texts_alone(
    self: ColdStartTask, vectors: Vectors, every: Any = ColdStartTask.options
) -> list[tuple[ColdStart, np.ndarray]]:
    found = list(every(self, vectors))
    return [one for one in found if one[0] == TEXTS_ALONE] or found


@pytest.mark.usefixtures("all_of_it")
class TestWhatWasChosen:
    @pytest.mark.parametrize("name", NEURAL)
    def test_and_measured_is_what_is_kept(self, name: str) -> None:
        backbone, selection = selected(name)
        assert backbone.cold_start == selection.cold_start == dict.fromkeys(EVALUATION_SETTINGS, TEXTS_ALONE)
        vectors = backbone.fitted.vectors["zero_shot"]
        whole = predict_all(
            item_sources(DATA, None), (~bw.COLD).astype(int), shifted_to_unseen(vectors, ~bw.COLD), linear=True
        )
        assert whole is not None
        assert vectors.unseen is not None
        np.testing.assert_allclose(
            vectors.items[COLD], mix_keeping_spread(vectors.unseen[COLD], whole[COLD], 1.0), atol=1e-4
        )
        for task in bw.toy_tasks(DATA):
            setting = task.setting
            epoch = backbone.fitted.description["epochs"][setting]
            recorded = {
                row["metric"]: row["value"]
                for row in selection.curve
                if (row["setting"], row["epoch"]) == (setting, epoch)
            }
            measured = recall_and_ndcg(lambda users, s=setting: backbone.score(users, s), task)  # type: ignore[misc]
            assert measured == pytest.approx(recorded)

    @pytest.mark.parametrize("name", ["biasmf", "lightgcn"])
    def test_a_refit_gives_the_same_vectors(self, name: str) -> None:
        chosen, selection = selected(name)
        again = bw.toy_backbone(name, "train.epochs=4")
        again.refit(DATA, "augment", selection, seed=1)
        assert again.cold_start == chosen.cold_start == dict.fromkeys(EVALUATION_SETTINGS, TEXTS_ALONE)
        for setting in EVALUATION_SETTINGS:
            np.testing.assert_allclose(
                again.fitted.vectors[setting].items, chosen.fitted.vectors[setting].items, atol=1e-6
            )


def without_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towers say the same of everything."""
    from reclm.backbones.fusion.tower import Tower

    monkeypatch.setattr(Tower, "forward", lambda self, rows: self.output.bias.expand(self._rows(rows), -1))
    monkeypatch.setattr(
        Tower, "_rows", lambda self, rows: len(self.features) if rows is None else len(rows), raising=False
    )


class TestSelection:
    @pytest.mark.parametrize("name", ["biasmf", "ncf", "als"])
    def test_raises_cold_items_that_their_level_alone_would_bury(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All that people want is cold, and the only levels to choose from are far below and far above."""
        monkeypatch.setattr("reclm.backbones.cold_start.LEVEL_SHIFTS", (-50.0, 50.0))
        monkeypatch.setattr("reclm.backbones.models.factors.LEVEL_SHIFTS", (-50.0, 50.0))
        warm, cold, both = bw.toy_tasks(DATA)
        backbone, selection = selected(name, tasks=[warm, cold, replace(both, truth=cold.truth)])
        shifts = {one.cold_start.shift: one for one in selection.tried}
        chosen = selection.cold_start[SERVED]
        assert shifts[50.0].value > shifts[-50.0].value
        assert shifts[chosen.shift].value == max(one.value for one in selection.tried)
        measured = recall_and_ndcg(lambda users: backbone.score(users, SERVED), replace(both, truth=cold.truth))
        assert sum(measured.values()) == pytest.approx(shifts[chosen.shift].value)

    def test_takes_the_kernel_where_the_tower_knows_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_towers(monkeypatch)
        backbone, selection = selected("biasmf", "base", "train.epochs=12", "fusion.matched_spread=0")
        assert selection.cold_start["zero_shot"].kernel_share > 0
        task = bw.toy_tasks(DATA)[1]
        assert recall_and_ndcg(lambda users: backbone.score(users, "zero_shot"), task)["ndcg"] > 0.9

    def test_takes_none_of_it_where_the_kernel_knows_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(5)

        def guess(self: KernelRidge, targets: np.ndarray, rows: np.ndarray, kernel: Any = None) -> np.ndarray:
            return random.standard_normal((len(rows), targets.shape[1])).astype(np.float32) * 10

        monkeypatch.setattr(KernelRidge, "predict", guess)
        assert selected("biasmf")[1].cold_start["zero_shot"].kernel_share == 0

    @pytest.mark.parametrize("profiles", [True, False])
    @pytest.mark.parametrize("tower", [True, False])
    def test_names_the_kernel_that_knows_better_even_where_the_tower_has_its_way(
        self, tower: bool, profiles: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        random, whole = np.random.default_rng(5), KernelRidge.predict

        def guess(self: KernelRidge, targets: np.ndarray, rows: np.ndarray, kernel: Any = None) -> np.ndarray:
            if (len(self.sources) == 3) == profiles:
                return whole(self, targets, rows, kernel)
            return random.standard_normal((len(rows), targets.shape[1])).astype(np.float32) * 1000

        monkeypatch.setattr(KernelRidge, "predict", guess)
        if not tower:
            without_towers(monkeypatch)
        flags = () if tower else ("train.epochs=12", "fusion.matched_spread=0")
        cold_start = selected("biasmf", "augment", *flags)[1].cold_start["zero_shot"]
        assert (cold_start.kernel_share == 0, cold_start.reads_profiles) == (tower, profiles)

    def test_without_cold_items_to_ask_about_there_is_nothing_to_choose(self) -> None:
        backbone, _ = selected(tasks=bw.toy_tasks(DATA)[:1])
        assert backbone.cold_start == dict.fromkeys(EVALUATION_SETTINGS, ColdStart())
        assert selected("als", "base", tasks=bw.toy_tasks(DATA)[:1])[0].cold_start == {}


class TestItemsThatComeLater:
    def test_go_where_cold_items_were_put_best(self) -> None:
        backbone = bw.toy_fitted("biasmf", epochs=4, cold_start=TEXTS_ALONE)
        sources = item_sources(DATA, None)
        learned = backbone.fitted.vectors[SERVED]
        source = np.where(bw.COLD[:, None], learned.items, shifted_to_unseen(learned, ~bw.COLD))
        expected = predict_all(sources, np.ones(bw.N_ITEMS, dtype=np.int64), source, linear=True)
        np.testing.assert_allclose(backbone.vectors_of_new_items(DATA), expected, atol=1e-5)
        for other in (ColdStart(0.0, reads_profiles=False), ColdStart(1.0)):
            backbone.fitted.description["cold_start"] = {SERVED: other._asdict()}
            assert not np.allclose(backbone.vectors_of_new_items(DATA), expected, atol=1e-3)

    @pytest.mark.parametrize("name", ["biasmf", "als"])
    def test_stand_on_the_level_of_the_other_cold_items(self, name: str) -> None:
        level = TEXTS_ALONE._replace(shift=2.0)
        plain = bw.toy_fitted(name, epochs=4, cold_start=TEXTS_ALONE)
        raised = bw.toy_fitted(name, epochs=4, cold_start=level)
        found = raised.vectors_of_new_items(DATA) - plain.vectors_of_new_items(DATA)
        shift = level_shift(plain.fitted.vectors[SERVED], ~bw.COLD, level)
        assert shift[-1] > 0
        np.testing.assert_allclose(found, np.tile(shift, (bw.N_ITEMS, 1)), atol=1e-5)

    def test_profiles_speak_for_those_without_a_text(self) -> None:
        backbone = bw.toy_fitted("biasmf", epochs=4, cold_start=TEXTS_ALONE)
        assert DATA.item_content is not None
        texts, content = ["", *DATA.texts[1:]], DATA.item_content.copy()
        content[0] = np.nan
        bare = replace(DATA, texts=texts, item_content=content)
        assert np.isfinite(backbone.vectors_of_new_items(bare)).all()
        assert np.isnan(backbone.vectors_of_new_items(replace(bare, item_profile=None))[0]).all()
