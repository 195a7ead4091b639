"""Recall, NDCG and the other ranking metrics, for evaluation and, on a sample of users, for use between epochs.

In: item lists or the ranks of truth pairs (`ranking.py`), and an `EvaluationTask`. Out: values per user, or means. The
definitions are those of LightGCN (He et al. 2020, arXiv 2002.02126, section 4.1): NDCG's ideal list is cut at
min(|truth|, K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.ranking import NO_ITEM
from reclm.dataset import EvaluationTask

VALIDATION_K = 20
MAX_VALIDATION_USERS = 4000  # ranked for at most between epochs: an even sample of the users, for speed
VALIDATION_BATCH = 1024

USER_METRICS = ("recall", "ndcg", "precision", "mrr", "hit_rate")
LIST_METRICS = ("coverage", "novelty", "average_popularity")


def user_sums(values: NDArray[np.float64], task: EvaluationTask) -> NDArray[np.float64]:
    """Sum values over each user's truth pairs: (n_truth,) to (n_task_users,)."""
    starts = task.truth.indptr[task.users]
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)


def truth_sizes(task: EvaluationTask) -> NDArray[np.int64]:
    """Return the number of truth items of each of the task's users, (n_task_users,)."""
    return np.diff(task.truth.indptr)[task.users].astype(np.int64)


def discounts(ranks: NDArray[np.int16], k: int) -> NDArray[np.float64]:
    """Return 1 / log2(rank + 1) for ranks 1 to k, else 0; same shape as `ranks`."""
    table = np.concatenate([[0.0], 1 / np.log2(np.arange(2, k + 2))])
    return table[np.where(ranks <= k, ranks, 0)]


def ideal_gains(sizes: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return the DCG of the best possible list for `sizes` truth items: the sum of the first min(size, k) discounts."""
    table = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return table[np.minimum(sizes, k)]


def metrics_per_user(
    ranks: NDArray[np.int16], task: EvaluationTask, ks: Sequence[int]
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Compute every metric of `USER_METRICS` at every K, each (n_task_users,), in the order of `task.users`.

    Recall = hits / |truth|; NDCG = DCG / ideal DCG at min(|truth|, K); Precision = hits / K; MRR = 1 / rank of the
    first hit within K, else 0; HitRate = 1 with at least one hit.
    """
    sizes = truth_sizes(task)
    inverse = np.where(ranks > 0, 1.0 / np.maximum(ranks, 1), 0.0)
    starts = task.truth.indptr[task.users]
    first = np.maximum.reduceat(inverse, starts) if len(starts) else np.zeros(0)
    result: dict[tuple[str, int], NDArray[np.float64]] = {}
    for k in ks:
        hits = user_sums(((ranks > 0) & (ranks <= k)).astype(float), task)
        result["recall", k] = hits / sizes
        result["ndcg", k] = user_sums(discounts(ranks, k), task) / ideal_gains(sizes, k)
        result["precision", k] = hits / k
        result["mrr", k] = np.where(first >= 1 / k - 1e-12, first, 0.0)
        result["hit_rate", k] = (hits > 0).astype(float)
    return result


def list_metrics(
    lists: NDArray[np.int32], task: EvaluationTask, interactions: sparse.csr_matrix, ks: Sequence[int]
) -> dict[tuple[str, int], float]:
    """Compute coverage, novelty and average popularity of the lists at every K.

    Coverage is the share of candidates that are in at least one list. With c_i known interactions of item i
    (`interactions` is (n_users, n_items)), average popularity is the mean c_i over list entries, and novelty the mean
    of -log2((c_i + 1) / (sum c + n_items)), the self-information of Zhou et al. (2010, PNAS 107) smoothed so that
    items without interactions have one. NaN where there are no lists.
    """
    counts = np.asarray(interactions.getnnz(axis=0), dtype=float).ravel()
    surprise = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    result: dict[tuple[str, int], float] = {}
    for k in ks:
        shown = lists[:, :k][lists[:, :k] != NO_ITEM]
        times = np.bincount(shown, minlength=len(counts))
        total = times.sum()
        result["coverage", k] = float(np.count_nonzero(times)) / max(int(np.count_nonzero(task.candidates)), 1)
        result["novelty", k] = float(times @ surprise / total) if total else float("nan")
        result["average_popularity", k] = float(times @ counts / total) if total else float("nan")
    return result


def recall_and_ndcg(
    score: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    task: EvaluationTask,
    max_users: int = MAX_VALIDATION_USERS,
) -> dict[str, float]:
    """Compute {"recall": …, "ndcg": …} at 20, averaged over users with truth; 0 where there is none.

    Made for use between epochs: it samples users evenly where there are more than `max_users`, and leaves the order of
    equal scores to torch, which is faster than the exact order of `ranking.rank`.
    """
    users = task.users
    if len(users) > max_users:
        users = users[np.linspace(0, len(users) - 1, max_users).astype(np.int64)]
    candidates = np.flatnonzero(task.candidates)
    k = min(VALIDATION_K, len(candidates))
    if len(users) == 0 or k == 0:
        return {"recall": 0.0, "ndcg": 0.0}
    gains = discounts(np.arange(1, k + 1, dtype=np.int16), k)
    truth, mask = task.truth[:, candidates].tocsr(), task.mask[:, candidates].tocsr()
    recall = ndcg = 0.0
    for start in range(0, len(users), VALIDATION_BATCH):
        batch = users[start : start + VALIDATION_BATCH]
        scores = score(batch)[:, candidates]
        masked = mask[batch].tocoo()
        scores[masked.row, masked.col] = -np.inf
        hits = np.take_along_axis(truth[batch].toarray() > 0, _best(scores, k), axis=1)
        n_true = np.diff(task.truth.indptr)[batch]
        recall += float((hits.sum(axis=1) / n_true).sum())
        ndcg += float(((hits * gains).sum(axis=1) / ideal_gains(n_true, k)).sum())
    return {"recall": recall / len(users), "ndcg": ndcg / len(users)}


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the columns of each row's `k` largest scores, best first."""
    import torch

    return torch.topk(torch.from_numpy(scores), k, dim=1).indices.numpy()  # type: ignore[no-any-return]
