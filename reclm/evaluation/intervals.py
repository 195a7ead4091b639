"""Compute 95 % bootstrap intervals of mean metrics and of paired differences, over users and over items.

In: the ranks of every truth pair under each model. Out: bounds per column (model, metric, k). All models use the same
resamples, so the difference of two columns of means is the paired bootstrap (Efron & Tibshirani 1993, chapter 16).

*Over users*: users are drawn with replacement, so a mean becomes a weighted mean. *Over items*: items with truth are
drawn with replacement. With w_i the number of times item i was drawn, a user's Recall is sum(w_i, hits) / sum(w_i,
truth); the gains of NDCG and its ideal are weighted in the same way (the ideal by the mean weight of the truth).
Users none of whose truth was drawn are left out. Both are matrix products, so 57,000 users, 30 models and 1,000
resamples take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.metrics import discounts, ideal_gains, truth_sizes
from reclm.dataset import EvaluationTask

ITEM_METRICS = ("recall", "ndcg")
LEVEL = 95.0
CHUNK_CELLS = 8_000_000  # resampling weights held at once: 32 MB in float32
USERS, ITEMS = 0, 1

Column = tuple[str, str, int]  # (model key, metric, k)


@dataclass(frozen=True)
class Resamples:
    """Bootstrapped means: `means` (n_resamples, n_columns); column c belongs to `columns[c]`."""

    columns: tuple[Column, ...]
    means: NDArray[np.float64]

    @cached_property
    def position(self) -> dict[Column, int]:
        return {column: position for position, column in enumerate(self.columns)}

    def interval(self, column: Column) -> tuple[float, float]:
        """Return the bounds of one mean."""
        return _bounds(self.means[:, self.position[column]])

    def difference(self, one: Column, other: Column) -> tuple[float, float]:
        """Return the bounds of `one` minus `other`, on the same resamples."""
        return _bounds(self.means[:, self.position[one]] - self.means[:, self.position[other]])


def over_users(
    columns: Sequence[Column], values: NDArray[np.float32], n_resamples: int, seed: int, stratum: str = ""
) -> Resamples:
    """Resample users: the rows of `values` (n_users, n_columns). Deterministic in `seed` and `stratum`."""
    parts = [
        weights @ values / len(values) for weights in _draws(len(values), n_resamples, _generator(seed, stratum, USERS))
    ]
    return Resamples(tuple(columns), np.concatenate(parts).astype(np.float64))


def over_items(
    columns: Sequence[Column],
    gains: NDArray[np.float32],
    task: EvaluationTask,
    n_resamples: int,
    seed: int,
    stratum: str = "",
) -> Resamples:
    """Resample the items that occur in `task.truth`.

    `gains` (n_truth, n_columns) is what each truth pair adds to its user's metric, from `pair_gains`.
    """
    items, pair_item = np.unique(task.truth.indices, return_inverse=True)
    sizes = truth_sizes(task)
    pair_user = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    parts = []
    chunk_cells = CHUNK_CELLS * len(items) // max(len(pair_item), 1)
    for drawn in _draws(len(items), n_resamples, _generator(seed, stratum, ITEMS), chunk_cells):
        weights = np.ascontiguousarray(drawn.T)[pair_item]
        mean_weight = np.add.reduceat(weights, starts, axis=0) / sizes[:, None].astype(np.float32)
        present = np.count_nonzero(mean_weight, axis=0)
        with np.errstate(divide="ignore"):
            scale = np.where(mean_weight > 0, 1 / mean_weight, 0).astype(np.float32)
        weights *= scale[pair_user]
        parts.append((weights.T @ gains) / np.maximum(present, 1)[:, None])
    return Resamples(tuple(columns), np.concatenate(parts).astype(np.float64))


def pair_gains(ranks: NDArray[np.int16], task: EvaluationTask, metric: str, k: int) -> NDArray[np.float32]:
    """Return what each truth pair adds to its user's metric, (n_truth,); a user's sum is Recall or NDCG at k."""
    sizes = truth_sizes(task)
    if metric == "recall":
        return (((ranks > 0) & (ranks <= k)) / np.repeat(sizes, sizes)).astype(np.float32)
    return (discounts(ranks, k) / np.repeat(ideal_gains(sizes, k), sizes)).astype(np.float32)


def _bounds(means: NDArray[np.float64]) -> tuple[float, float]:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _generator(seed: int, stratum: str, over: int) -> np.random.Generator:
    return np.random.default_rng([seed, over, *stratum.encode()])


def _draws(
    n: int, n_resamples: int, generator: np.random.Generator, cells: int = CHUNK_CELLS
) -> Iterator[NDArray[np.float32]]:
    """Yield how often each of n was drawn in n draws with replacement: chunks (c, n), `n_resamples` rows in all."""
    step = max(1, cells // max(n, 1))
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        drawn = generator.integers(0, n, (rows, n), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)
