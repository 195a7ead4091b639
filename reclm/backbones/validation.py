"""Recall@20 and NDCG@20 of a scorer on an evaluation task, quick enough to run between epochs: the definitions of
`reclm.evaluation`, on an even sample of the users when there are many.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import EvaluationTask

TOP = 20
MAX_USERS = 4000
BATCH = 1024


def recall_and_ndcg(
    score: Callable[[NDArray[np.int64]], NDArray[np.float32]], task: EvaluationTask, max_users: int = MAX_USERS
) -> dict[str, float]:
    """{"recall": …, "ndcg": …} at 20, averaged over users with truth; 0 when there is none."""
    users = task.users
    if len(users) > max_users:
        users = users[np.linspace(0, len(users) - 1, max_users).astype(np.int64)]
    candidates = np.flatnonzero(task.candidates)
    top = min(TOP, len(candidates))
    if len(users) == 0 or top == 0:
        return {"recall": 0.0, "ndcg": 0.0}
    discount = 1 / np.log2(np.arange(top) + 2)
    ideal = np.cumsum(discount)
    truth, mask = task.truth[:, candidates].tocsr(), task.mask[:, candidates].tocsr()
    recall = ndcg = 0.0
    for start in range(0, len(users), BATCH):
        batch = users[start : start + BATCH]
        scores = score(batch)[:, candidates]
        masked = mask[batch].tocoo()
        scores[masked.row, masked.col] = -np.inf
        hits = np.take_along_axis(truth[batch].toarray() > 0, _best(scores, top), axis=1)
        n_true = np.diff(task.truth.indptr)[batch]
        recall += float((hits.sum(axis=1) / n_true).sum())
        ndcg += float(((hits * discount).sum(axis=1) / ideal[np.minimum(n_true, top) - 1]).sum())
    return {"recall": recall / len(users), "ndcg": ndcg / len(users)}


def _best(scores: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """Columns of each row's `top` largest scores, best first."""
    import torch

    return torch.topk(torch.from_numpy(scores), top, dim=1).indices.numpy()  # type: ignore[no-any-return]
