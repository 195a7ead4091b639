"""Measure a model on the validation slice: the figures by which promotion decides.

In: a backbone fitted on the snapshot `select`, and that snapshot's tasks. Out: `validation.parquet` with Recall@20 and
NDCG@20 of each user, so that two models of one day can be compared user by user and a forgotten user's rows can be
deleted; and figures about the lists. Where there are many users, an even sample is measured, the same for every model
of a day.
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

from reclm.backbones.metrics import MAX_VALIDATION_USERS, VALIDATION_K, list_metrics, metrics_per_user
from reclm.backbones.ranking import NO_ITEM, BackboneScorer, Scorer, rank, top_k, truth_ranks
from reclm.dataset import EvaluationTask, TrainingData
from reclm.storage.files import write_table
from reclm.storage.schemas import VALIDATION

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone

VALIDATION_FILE = "validation.parquet"
METRICS = ("recall", "ndcg")
TIMED_USERS = 30  # users whose lists are timed


def write_validation(
    backbone: Backbone, data: TrainingData, tasks: Sequence[EvaluationTask], folder: Path
) -> dict[str, dict[str, float | None]]:
    """Write `validation.parquet` into `folder`, one row per setting and user, and return figures about the lists of 20.

    The figures are, by evaluation setting: `coverage`, the share of candidates that are in any list; `popularity_lift`,
    see the function of that name; `latency_ms`, the median milliseconds to rank all items for one user.
    """
    parts: list[pa.Table] = []
    figures: dict[str, dict[str, float | None]] = {}
    for task in map(_sampled, tasks):
        scorer = BackboneScorer(backbone, task.setting)
        lists = rank(scorer, task, VALIDATION_K)
        parts.append(_metrics_table(lists, task, data))
        favoured = list_metrics(lists, task, data.interactions, (VALIDATION_K,))
        figures[task.setting] = {
            "coverage": favoured["coverage", VALIDATION_K],
            "popularity_lift": popularity_lift(lists, task.users, data.interactions),
            "latency_ms": _latency_ms(scorer, task),
        }
    _write(folder, parts)
    return figures


def write_metrics(scorer: Scorer, data: TrainingData, tasks: Sequence[EvaluationTask], folder: Path) -> None:
    """Write `validation.parquet` of a baseline into `folder`, of the same users as `write_validation`."""
    sampled = [_sampled(task) for task in tasks]
    _write(folder, [_metrics_table(rank(scorer, task, VALIDATION_K), task, data) for task in sampled])


def _metrics_table(lists: NDArray[np.int32], task: EvaluationTask, data: TrainingData) -> pa.Table:
    values = metrics_per_user(truth_ranks(lists, task), task, (VALIDATION_K,))
    columns = {"setting": [task.setting] * len(task.users), "user_id": data.user_ids[task.users].tolist()}
    return pa.table(columns | {metric: values[metric, VALIDATION_K] for metric in METRICS}, schema=VALIDATION)


def _write(folder: Path, parts: Sequence[pa.Table]) -> None:
    write_table(folder / VALIDATION_FILE, pa.concat_tables([VALIDATION.empty_table(), *parts]))


def metric_per_user(folder: Path, setting: str, metric: str) -> dict[str, float]:
    """Return {user id: value at 20} of a model; empty where no user was measured."""
    if not (folder / VALIDATION_FILE).exists():
        return {}
    table = pq.read_table(folder / VALIDATION_FILE, columns=["user_id", metric], filters=[("setting", "=", setting)])
    return dict(zip(table["user_id"].to_pylist(), table[metric].to_pylist(), strict=True))


def mean_metric(folder: Path, setting: str, metric: str) -> float | None:
    """Return the mean over the measured users; None where there are none."""
    values = metric_per_user(folder, setting, metric)
    return float(np.mean(list(values.values()))) if values else None


def popularity_lift(
    lists: NDArray[np.int32], users: NDArray[np.int64], interactions: sparse.csr_matrix
) -> float | None:
    """Compute how much more popular recommended items are than the items that users know (Abdollahpouri et al. 2019).

    It is the mean over users of the difference between both mean popularities (arXiv 1907.13286); None where no user
    has both known and recommended items.

    `lists` is (n, k), row r for `users[r]`; `interactions` (n_users, n_items). An item's popularity is its rank by
    known interactions, 0 the rarest and 1 the most popular, ties at their mean.
    """
    counts = np.asarray(interactions.getnnz(axis=0), dtype=float).ravel()
    popularity = (stats.rankdata(counts) - 1) / max(len(counts) - 1, 1)
    known = interactions[users] > 0
    n_known, n_shown = np.asarray(known.getnnz(axis=1)).ravel(), np.count_nonzero(lists != NO_ITEM, axis=1)
    measurable = (n_known > 0) & (n_shown > 0)
    if not measurable.any():
        return None
    shown = np.where(lists == NO_ITEM, 0.0, popularity[lists]).sum(axis=1)[measurable] / n_shown[measurable]
    own = (known @ popularity)[measurable] / n_known[measurable]
    return float((shown - own).mean())


def _sampled(task: EvaluationTask) -> EvaluationTask:
    """The task with an even sample of MAX_VALIDATION_USERS users, where there are more."""
    users = task.users
    if len(users) <= MAX_VALIDATION_USERS:
        return task
    sampled = np.zeros(task.truth.shape[0], np.float32)
    sampled[users[np.linspace(0, len(users) - 1, MAX_VALIDATION_USERS).astype(np.int64)]] = 1
    truth = sparse.csr_matrix(sparse.diags(sampled) @ task.truth)
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
        top_k(scores, VALIDATION_K)
        seconds.append(time.perf_counter() - began)
    return round(1000 * float(np.median(seconds)), 3)
