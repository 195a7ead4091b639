"""What a model does on the validation slice: all that promotion decides by.

In: a backbone fitted on the snapshot `select`, and that snapshot's tasks. Out: `validation.parquet`, Recall@20 and NDCG@20
of each user asked, so that two models of one day can be compared user by user and a forgotten person's rows can go; and
figures of the lists themselves. Where users are many an even sample of them is asked, the same for every model of a day.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse, stats

from reclm.backbones.ranking import NO_ITEM, Bound, Scorer, list_metrics, metrics_per_user, rank, top_k, truth_ranks
from reclm.backbones.validation import MAX_USERS, TOP
from reclm.dataset import EvaluationTask, TrainingData
from reclm.storage.files import write_table
from reclm.storage.schemas import VALIDATION

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone

FILE = "validation.parquet"
METRICS = ("recall", "ndcg")
TIMED_USERS = 30


def write_validation(
    backbone: Backbone, data: TrainingData, tasks: Sequence[EvaluationTask], folder: Path
) -> dict[str, dict[str, float | None]]:
    """Writes `validation.parquet` into `folder`, a row a setting and user; returns by setting what the lists of 20 are like.

    `coverage`: share of the candidates shown to anyone. `popularity_lift`: see `popularity_lift`. `latency_ms`: median
    milliseconds to rank all items for one user.
    """
    parts: list[pa.Table] = []
    lists_are: dict[str, dict[str, float | None]] = {}
    for task in map(_sampled, tasks):
        scorer = Bound(backbone, task.setting)
        lists = rank(scorer, task, TOP)
        values = metrics_per_user(truth_ranks(lists, task), task, (TOP,))
        columns = {"setting": [task.setting] * len(task.users), "user_id": data.user_ids[task.users].tolist()}
        parts.append(pa.table(columns | {metric: values[metric, TOP] for metric in METRICS}, schema=VALIDATION))
        favoured = list_metrics(lists, task, data.interactions, (TOP,))
        lists_are[task.setting] = {
            "coverage": favoured["coverage", TOP],
            "popularity_lift": popularity_lift(lists, task.users, data.interactions),
            "latency_ms": _latency_ms(scorer, task),
        }
    write_table(folder / FILE, pa.concat_tables([VALIDATION.empty_table(), *parts]))
    return lists_are


def per_user(folder: Path, setting: str, metric: str) -> dict[str, float]:
    """{user id: value at 20} of a model; empty where nobody was asked, or the model is older than this file."""
    if not (folder / FILE).exists():
        return {}
    table = pq.read_table(folder / FILE, columns=["user_id", metric], filters=[("setting", "=", setting)])
    return dict(zip(table["user_id"].to_pylist(), table[metric].to_pylist(), strict=True))


def mean(folder: Path, setting: str, metric: str) -> float | None:
    """Mean over the users asked; None where nobody was."""
    values = per_user(folder, setting, metric)
    return float(np.mean(list(values.values()))) if values else None


def popularity_lift(
    lists: NDArray[np.int32], users: NDArray[np.int64], interactions: sparse.csr_matrix
) -> float | None:
    """Mean over users of the popularity of what they are shown less that of what they know (after Abdollahpouri et al.
    2019, arXiv 1907.13286); None where no user knows or is shown anything.

    `lists` is (n, k), row r for `users[r]`; `interactions` (n_users, n_items). An item's popularity is its rank by known
    interactions, 0 the rarest and 1 the most popular, ties at their mean.
    """
    counts = np.asarray(interactions.getnnz(axis=0), dtype=float).ravel()
    popularity = (stats.rankdata(counts) - 1) / max(len(counts) - 1, 1)
    known = interactions[users] > 0
    n_known, n_shown = np.asarray(known.getnnz(axis=1)).ravel(), np.count_nonzero(lists != NO_ITEM, axis=1)
    told = (n_known > 0) & (n_shown > 0)
    if not told.any():
        return None
    shown = np.where(lists == NO_ITEM, 0.0, popularity[lists]).sum(axis=1)[told] / n_shown[told]
    own = (known @ popularity)[told] / n_known[told]
    return float((shown - own).mean())


def _sampled(task: EvaluationTask) -> EvaluationTask:
    """The task, asking an even sample of MAX_USERS users where there are more."""
    users = task.users
    if len(users) <= MAX_USERS:
        return task
    asked = np.zeros(task.truth.shape[0], np.float32)
    asked[users[np.linspace(0, len(users) - 1, MAX_USERS).astype(np.int64)]] = 1
    truth = sparse.csr_matrix(sparse.diags(asked) @ task.truth)
    truth.eliminate_zeros()
    truth.sort_indices()
    return replace(task, truth=truth)


def _latency_ms(scorer: Scorer, task: EvaluationTask) -> float:
    seconds = []
    for user in task.users[np.linspace(0, len(task.users) - 1, min(TIMED_USERS, len(task.users))).astype(np.int64)]:
        began = time.perf_counter()
        scores = scorer.score(np.array([user]))
        scores[:, ~task.candidates] = -np.inf
        scores[0, task.mask[user].indices] = -np.inf
        top_k(scores, TOP)
        seconds.append(time.perf_counter() - began)
    return round(1000 * float(np.median(seconds)), 3)
