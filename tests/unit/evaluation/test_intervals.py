"""Bootstrap intervals against the textbook, and their pairing, determinism and independence of memory limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from reclm.backbones.metrics import metrics_per_user
from reclm.dataset import EvaluationTask
from reclm.evaluation import intervals
from reclm.evaluation.intervals import over_items, over_users, pair_gains

N_USERS, N_ITEMS = 400, 50


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def task(rng: np.random.Generator) -> EvaluationTask:
    truth = sparse.csr_matrix((rng.random((N_USERS, N_ITEMS)) < 0.08).astype(np.float32))
    return EvaluationTask("final", "zero_shot", truth, sparse.csr_matrix(truth.shape), np.ones(N_ITEMS, dtype=np.bool_))


@pytest.fixture
def ranks(rng: np.random.Generator, task: EvaluationTask) -> np.ndarray:
    return np.where(rng.random(task.truth.nnz) < 0.3, rng.integers(1, 21, task.truth.nnz), 0).astype(np.int16)


class TestIntervalsOverUsers:
    def test_agree_with_the_normal_approximation_of_a_mean(self, rng: np.random.Generator) -> None:
        values = rng.random((2000, 1)).astype(np.float32)
        low, high = over_users([("a", "recall", 20)], values, 2000, 1).interval(("a", "recall", 20))
        error = 1.96 * values.std() / np.sqrt(2000)
        assert low == pytest.approx(values.mean() - error, abs=0.15 * error)
        assert high == pytest.approx(values.mean() + error, abs=0.15 * error)

    def test_are_paired_so_that_a_constant_difference_has_no_width(self, rng: np.random.Generator) -> None:
        base = rng.random(500).astype(np.float32)
        columns = [("augment", "recall", 20), ("base", "recall", 20)]
        resamples = over_users(columns, np.stack([base + np.float32(0.25), base], axis=1), 300, 1)
        low, high = resamples.difference(*columns)
        assert low == pytest.approx(0.25, abs=1e-4)
        assert high == pytest.approx(0.25, abs=1e-4)

    def test_repeat_with_the_seed_and_not_with_another(self, rng: np.random.Generator) -> None:
        values, column = rng.random((300, 1)).astype(np.float32), ("a", "ndcg", 20)
        first, again, other = (over_users([column], values, 100, seed).interval(column) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_do_not_depend_on_how_much_is_held_in_memory(
        self, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values, column = rng.random((300, 1)).astype(np.float32), ("a", "ndcg", 20)
        whole = over_users([column], values, 100, 1).means
        monkeypatch.setattr(intervals, "CHUNK_CELLS", 7 * 300)
        chunked = np.concatenate(
            [w @ values / 300 for w in intervals._draws(300, 100, intervals._generator(1, "", 0), 2100)]
        )
        np.testing.assert_allclose(chunked, whole, rtol=1e-5)


class TestIntervalsOverItems:
    @pytest.mark.parametrize("metric", ["recall", "ndcg"])
    def test_contributions_of_truth_pairs_sum_to_the_metric(
        self, task: EvaluationTask, ranks: np.ndarray, metric: str
    ) -> None:
        expected = metrics_per_user(ranks, task, (10,))[metric, 10].mean()
        assert pair_gains(ranks, task, metric, 10).sum() / len(task.users) == pytest.approx(expected, rel=1e-5)

    def test_are_what_a_loop_over_users_and_resamples_gives(self, task: EvaluationTask, ranks: np.ndarray) -> None:
        column = ("a", "recall", 20)
        gains = pair_gains(ranks, task, "recall", 20)[:, None]
        fast = over_items([column], gains, task, 20, 5).means[:, 0]
        items = np.unique(task.truth.indices)
        draws = np.concatenate(list(intervals._draws(len(items), 20, intervals._generator(5, "", intervals.ITEMS))))
        for resample in range(20):
            weight = np.zeros(N_ITEMS)
            weight[items] = draws[resample]
            recalls = []
            for user in task.users:
                pairs = slice(task.truth.indptr[user], task.truth.indptr[user + 1])
                wanted = weight[task.truth.indices[pairs]]
                if wanted.sum():
                    recalls.append(wanted[ranks[pairs] > 0].sum() / wanted.sum())
            assert fast[resample] == pytest.approx(np.mean(recalls), rel=1e-4)

    def test_are_wider_than_over_users_when_one_item_carries_the_truth(self) -> None:
        truth = np.zeros((500, 20), np.float32)
        truth[:, 0] = 1
        truth[np.arange(500), 1 + np.arange(500) % 19] = 1
        task = EvaluationTask(
            "final", "zero_shot", sparse.csr_matrix(truth), sparse.csr_matrix(truth.shape), np.ones(20, dtype=np.bool_)
        )
        ranks = np.where(task.truth.indices == 0, 1, 0).astype(np.int16)  # only the popular item is ever found
        column = ("a", "recall", 20)
        users = over_users(
            [column], metrics_per_user(ranks, task, (20,))["recall", 20][:, None].astype(np.float32), 500, 1
        )
        items = over_items([column], pair_gains(ranks, task, "recall", 20)[:, None], task, 500, 1)
        narrow, wide = (np.ptp(resamples.interval(column)) for resamples in (users, items))
        assert narrow == 0
        assert wide > 0.3

    def test_put_the_mean_inside(self, task: EvaluationTask, ranks: np.ndarray) -> None:
        column = ("a", "ndcg", 20)
        low, high = over_items([column], pair_gains(ranks, task, "ndcg", 20)[:, None], task, 500, 1).interval(column)
        assert low < metrics_per_user(ranks, task, (20,))["ndcg", 20].mean() < high
