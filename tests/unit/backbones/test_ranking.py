"""Lists, ties, masks and metrics, held against plain Python and against ranx."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from reclm.backbones.metrics import USER_METRICS, list_metrics, metrics_per_user
from reclm.backbones.ranking import NO_ITEM, rank, top_k, truth_ranks
from reclm.dataset import EvaluationTask
from reclm.errors import ModelError

KS = (1, 5, 20)


class Table:
    """Scores read from a table (n_users, n_items)."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores.astype(np.float32)

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scores[users]


def slow_top_k(row: np.ndarray, k: int) -> list[int]:
    """Python's own sort, by falling score and then rising position."""
    best = sorted((i for i in range(len(row)) if row[i] > -np.inf), key=lambda i: (-row[i], i))[:k]
    return best + [NO_ITEM] * (k - len(best))


def matrix(rng: np.random.Generator, shape: tuple[int, int], density: float) -> sparse.csr_matrix:
    return sparse.csr_matrix((rng.random(shape) < density).astype(np.float32))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def task(rng: np.random.Generator) -> EvaluationTask:
    """60 users (some without truth), 500 items of which 400 are candidates, truth and mask disjoint."""
    candidates = np.zeros(500, dtype=np.bool_)
    candidates[rng.choice(500, 400, replace=False)] = True
    both = matrix(rng, (60, 500), 0.06).toarray() * candidates
    as_truth = rng.random(both.shape) < 0.4
    truth, mask = both * as_truth, both * ~as_truth
    truth[::9] = 0
    return EvaluationTask("final", "full_shot", sparse.csr_matrix(truth), sparse.csr_matrix(mask), candidates)


class TestTheKBestOfARow:
    @pytest.mark.parametrize("n_columns", [1, 3, 40, 255, 256, 257, 1000, 3001])
    @pytest.mark.parametrize("levels", [1, 2, 7, 10**6])
    def test_are_pythons_own_sort_however_many_are_equal(
        self, rng: np.random.Generator, n_columns: int, levels: int
    ) -> None:
        scores = (rng.integers(-levels, levels + 1, (12, n_columns)) / levels).astype(np.float32)
        scores[rng.random(scores.shape) < 0.2] = -np.inf
        for k in (1, 20, 40):
            assert top_k(scores, k).tolist() == [slow_top_k(row, k) for row in scores]

    def test_treat_minus_zero_and_zero_as_equal(self) -> None:
        assert top_k(np.array([[-0.0, 0.0, -0.0, 0.0]], np.float32), 4).tolist() == [[0, 1, 2, 3]]

    def test_order_infinite_huge_and_tiny_scores(self) -> None:
        row = np.array([[1e-45, np.inf, -3e38, 3e38, -1e-45, 0.0]], np.float32)
        assert top_k(row, 6).tolist() == [[1, 3, 0, 5, 4, 2]]

    def test_leave_places_open_where_everything_is_masked(self) -> None:
        assert top_k(np.full((2, 300), -np.inf, np.float32), 3).tolist() == [[NO_ITEM] * 3] * 2

    @pytest.mark.parametrize("column", [0, 299])
    def test_cannot_be_chosen_among_nan(self, column: int) -> None:
        scores = np.zeros((2, 300), np.float32)
        scores[1, column] = np.nan
        with pytest.raises(ModelError, match="NaN"):
            top_k(scores, 5)


class TestRankingATask:
    def test_never_lists_masked_items_or_items_that_are_no_candidates(
        self, rng: np.random.Generator, task: EvaluationTask
    ) -> None:
        lists = rank(Table(rng.random((60, 500))), task, 395)
        masked = task.mask.toarray()
        for user, row in zip(task.users, lists, strict=True):
            shown = row[row != NO_ITEM]
            assert task.candidates[shown].all()
            assert not masked[user, shown].any()
            assert len(shown) == min(395, int(task.candidates.sum() - masked[user].sum()))

    def test_gives_the_same_lists_whatever_the_batch(self, rng: np.random.Generator, task: EvaluationTask) -> None:
        scorer = Table(rng.integers(0, 4, (60, 500)))
        expected = rank(scorer, task, 20)
        for batch_size in (1, 7, 1000):
            np.testing.assert_array_equal(rank(scorer, task, 20, batch_size), expected)

    def test_refuses_scores_of_the_wrong_shape(self, task: EvaluationTask) -> None:
        with pytest.raises(ModelError, match="shape"):
            rank(Table(np.zeros((60, 499))), task, 5)

    def test_answers_a_task_without_candidates_with_empty_lists(self, task: EvaluationTask) -> None:
        empty = EvaluationTask("final", "zero_shot", task.truth, task.mask, np.zeros(500, dtype=np.bool_))
        assert (rank(Table(np.zeros((60, 500))), empty, 5) == NO_ITEM).all()


class TestMetrics:
    def test_equal_ranx(self, rng: np.random.Generator, task: EvaluationTask, monkeypatch: pytest.MonkeyPatch) -> None:
        import numba

        monkeypatch.setattr(
            numba.config, "DISABLE_JIT", True
        )  # compiling ranx takes a minute, interpreting it here does not
        from ranx import Qrels, Run, evaluate

        lists = rank(Table(rng.random((60, 500)) + 0.3 * task.truth.toarray()), task, max(KS))
        ours = metrics_per_user(truth_ranks(lists, task), task, KS)
        truth = task.truth.toarray()
        qrels = Qrels({f"u{u}": {f"i{i}": 1 for i in np.flatnonzero(truth[u])} for u in task.users})
        run = Run(
            {
                f"u{u}": {f"i{i}": float(-place) for place, i in enumerate(row) if i != NO_ITEM}
                for u, row in zip(task.users, lists, strict=True)
            }
        )
        theirs = evaluate(qrels, run, [f"{metric}@{k}" for metric in USER_METRICS for k in KS])
        for metric in USER_METRICS:
            for k in KS:
                assert ours[metric, k].mean() == pytest.approx(theirs[f"{metric}@{k}"], abs=1e-9), (metric, k)

    def test_of_one_user_are_what_one_works_out_by_hand(self) -> None:
        truth = sparse.csr_matrix(np.array([[1, 0, 1, 0, 1.0]]))
        task = EvaluationTask("final", "full_shot", truth, sparse.csr_matrix((1, 5)), np.ones(5, dtype=np.bool_))
        ranks = truth_ranks(np.array([[1, 2, 3, 0]], np.int32), task)
        assert ranks.tolist() == [4, 2, 0]
        values = {key: float(value[0]) for key, value in metrics_per_user(ranks, task, (2, 4)).items()}
        assert values["recall", 2] == pytest.approx(1 / 3)
        assert values["ndcg", 2] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
        assert values["precision", 4] == pytest.approx(2 / 4)
        assert values["mrr", 4] == values["mrr", 2] == 0.5
        assert values["hit_rate", 2] == 1

    def test_count_a_first_hit_beyond_k_as_no_hit(self) -> None:
        truth = sparse.csr_matrix(np.array([[1.0, 0]]))
        task = EvaluationTask("final", "full_shot", truth, sparse.csr_matrix((1, 2)), np.ones(2, dtype=np.bool_))
        ranks = np.array([7], np.int16)
        values = metrics_per_user(ranks, task, (5, 7))
        assert values["mrr", 5][0] == 0
        assert values["mrr", 7][0] == pytest.approx(1 / 7)

    def test_do_not_depend_on_how_users_are_batched(self, rng: np.random.Generator, task: EvaluationTask) -> None:
        lists = rank(Table(rng.random((60, 500))), task, 20)
        np.testing.assert_array_equal(truth_ranks(lists, task, batch_size=7), truth_ranks(lists, task))


class TestWhatListsFavour:
    def test_is_counted_over_list_entries(self) -> None:
        candidates = np.array([True, True, True, True, False])
        truth = sparse.csr_matrix(np.eye(2, 5))
        task = EvaluationTask("final", "full_shot", truth, sparse.csr_matrix((2, 5)), candidates)
        known = sparse.csr_matrix(np.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0.0]]))
        favoured = list_metrics(np.array([[0, 1], [0, NO_ITEM]], np.int32), task, known, (1, 2))
        assert favoured["coverage", 1] == 1 / 4
        assert favoured["coverage", 2] == 2 / 4
        assert favoured["average_popularity", 2] == pytest.approx((2 + 1 + 2) / 3)
        shares = np.array([3, 2, 3]) / (3 + 5)
        assert favoured["novelty", 2] == pytest.approx(-np.log2(shares).mean())
