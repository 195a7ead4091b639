"""Rank all candidates for every user and find the ranks of the items they really chose.

In: a `Scorer` and an `EvaluationTask`. Out: lists of item positions, best first, and the rank of each truth pair in its
user's list. The protocol is that of LightGCN (He et al. 2020, arXiv 2002.02126, section 4.1): all items that the user
has not interacted with are candidates. Equal scores are ordered by item position, whatever the batch. Nothing loops
over users.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import EvaluationSetting, EvaluationTask
from reclm.errors import ModelError

NO_ITEM = -1
CACHED_CELLS = 500_000  # scores sorted at once: 2 MB, about what stays in a core's cache
BLOCKS = 256  # columns are folded into about this many maxima, whose K-th largest bounds the K-th best score from below


class Scorer(Protocol):
    """Anything that can score items for users: a baseline, or a backbone in one evaluation setting."""

    def score(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score all items for the user positions `users` (b,): a new float32 array (b, n_items), higher is better.

        A score of -inf means that the item is never recommended. The caller may write into the array.
        """
        ...


class BackboneScorer:
    """The `Scorer` of a backbone in one evaluation setting."""

    def __init__(self, backbone: Any, setting: EvaluationSetting, n_items: int = 0) -> None:
        self.backbone, self.setting, self.n_items = backbone, setting, n_items

    def score(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score all items (b, n_items); items that came after training are no candidates of evaluation: zero.

        Among warm items (full-shot) one without interactions ranks last, whatever its texts say: how it compares with
        warm ones is chosen, and measured, in `mixed`.
        """
        scores: NDArray[np.float32] = self.backbone.score(users, setting=self.setting)
        if self.setting == "full_shot":
            scores[:, self._untouched] = scores.min(axis=1, keepdims=True) - 1
        later = self.n_items - scores.shape[1]
        return np.pad(scores, ((0, 0), (0, later))) if later > 0 else scores

    @cached_property
    def _untouched(self) -> NDArray[np.int64]:
        """The positions of the items without interactions."""
        return np.flatnonzero(self.backbone.fitted.known.getnnz(axis=0) == 0)


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Return the columns of the k largest scores of each row of `scores` (b, n), best first, equal ones by column.

    Shape (b, k); -1 where a row has fewer than k scores above -inf. Raises ModelError on NaN.
    """
    n_rows, n_columns = scores.shape
    floor = _lower_bound(scores, k)
    keep = scores >= floor[:, None]
    flat, counts = _kept(keep)
    crowded = np.flatnonzero(counts > 4 * k)
    if len(crowded):
        keep[crowded] = _exactly_k(scores[crowded], k)
        flat, counts = _kept(keep)
    rows, columns = np.divmod(flat, n_columns)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = np.full((n_rows, max(k, int(counts.max(initial=0)))), np.iinfo(np.int64).min)
    keys[rows, within] = _order_keys(scores.ravel()[flat], n_columns - 1 - columns)
    keys.sort(axis=1)
    best = keys[:, ::-1][:, :k]
    nothing = best < _order_keys(np.array([-np.finfo(np.float32).max], np.float32), np.zeros(1, np.int64))
    return np.where(nothing, NO_ITEM, n_columns - 1 - (best & 0xFFFFFFFF)).astype(np.int32)


def _kept(keep: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of the marks and their number per row, three times faster than `nonzero` and an axis count."""
    flat = np.flatnonzero(keep)
    edges = np.searchsorted(flat, np.arange(len(keep) + 1) * keep.shape[1])
    return flat, np.diff(edges)


def _lower_bound(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """For each row a value that at least min(k, n) of its scores reach, close to the k-th largest; shape (b,)."""
    n_rows, n_columns = scores.shape
    blocks = min(n_columns, max(BLOCKS, 4 * k))
    depth = n_columns // blocks
    maxima = scores[:, : depth * blocks].reshape(n_rows, depth, blocks).max(axis=1)
    if np.isnan(maxima).any() or np.isnan(scores[:, depth * blocks :]).any():
        raise ModelError(
            "the model scored an item NaN: its training diverged, or a feature holds NaN; lower train.learning_rate, "
            "or run `reclm publish` again"
        )
    if k >= blocks:
        return np.full(n_rows, -np.inf, np.float32)
    return np.partition(maxima, blocks - k, axis=1)[:, blocks - k]


def _exactly_k(scores: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Marks the min(k, n) best of each row when many are equal; for rows with long ties. Shape (b, n)."""
    k = min(k, scores.shape[1])
    kth = np.partition(scores, -k, axis=1)[:, -k, None]
    above, equal = scores > kth, scores == kth
    wanted = k - np.count_nonzero(above, axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= wanted))


def _order_keys(scores: NDArray[np.float32], low: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers that order as (score, low): the float's bits made monotone in the upper half, `low` in the lower."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero turns -0.0 into 0.0, its equal
    monotone = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return (monotone << 32) | low


def rank(scorer: Scorer, task: EvaluationTask, k: int, batch_size: int = 1024) -> NDArray[np.int32]:
    """Return the k best unmasked candidates of each of the task's users: item positions (n_task_users, k), -1 padded.

    Row r belongs to `task.users[r]`. Raises ModelError when a score is NaN or the scorer's shape is not (b, n_items).
    """
    users, candidates = task.users, np.flatnonzero(task.candidates)
    everything = len(candidates) == len(task.candidates)
    position = np.append(candidates, NO_ITEM).astype(np.int32)
    lists = np.full((len(users), k), NO_ITEM, np.int32)
    if not len(candidates):
        return lists
    step = max(1, CACHED_CELLS // len(candidates))
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        scores = _checked(scorer.score(batch), (len(batch), len(task.candidates)))
        masked = task.mask[batch]
        if masked.nnz:
            scores[np.repeat(np.arange(len(batch)), np.diff(masked.indptr)), masked.indices] = -np.inf
        for row in range(0, len(batch), step):
            some = scores[row : row + step]
            best = top_k(some if everything else some.take(candidates, axis=1), k)
            lists[start + row : start + row + len(some)] = position[best]
    return lists


def _checked(scores: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if scores.shape != shape:
        raise ModelError(f"the model returned scores of shape {scores.shape} instead of (users, items) = {shape}")
    return np.require(scores, np.float32, ["C", "W"])


def truth_ranks(lists: NDArray[np.int32], task: EvaluationTask, batch_size: int = 1024) -> NDArray[np.int16]:
    """Find the rank, from 1, of each truth pair in its user's list; 0 where it is not in the list.

    `lists` is (n_task_users, k). The result is (n_truth,), in the order of `task.truth`'s stored entries.
    """
    truth, users = task.truth, task.users
    ranks = np.zeros(truth.nnz, np.int16)
    pair = np.zeros((min(batch_size, max(len(users), 1)), truth.shape[1] + 1), np.int32)  # last column: padding
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        first, last = int(truth.indptr[batch[0]]), int(truth.indptr[batch[-1] + 1])
        rows = np.repeat(np.arange(len(batch)), np.diff(truth.indptr)[batch])
        columns = truth.indices[first:last]
        pair[rows, columns] = np.arange(1, last - first + 1)
        found = np.take_along_axis(pair[: len(batch)], lists[start : start + len(batch)], axis=1)
        row, column = np.nonzero(found)
        ranks[first + found[row, column] - 1] = column + 1
        pair[rows, columns] = 0
    return ranks
