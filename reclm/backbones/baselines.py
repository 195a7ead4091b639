"""The baselines that every model is compared with: closed-form, deterministic, without profiles.

In: `TrainingData`. Out: a `Scorer` over all items. Popularity, item-kNN and EASE read interactions only and are
measured in the full-shot setting; the text baselines can also score items without interactions and are measured in
both. Each is a product of the user-item matrix with an item-item matrix. The ridge from text to users, whose textbook
form has one target per user, is solved over the words or over the items, whichever are fewer, so that many users add no
cost.

EASE is Steck (2019, arXiv 1905.03375, eq. 8); item-kNN is the cosine of Sarwar et al. (2001); the text features are
binary TF x log(N/df) (Salton & Buckley 1988).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from reclm.backbones.metrics import metrics_per_user
from reclm.backbones.ranking import Scorer, rank, truth_ranks
from reclm.dataset import EvaluationSetting, EvaluationTask, TrainingData
from reclm.errors import ModelError
from reclm.text.tfidf import ASCII_WORDS, tfidf

EASE_PENALTY = 100.0
RIDGE_PENALTY = 10.0
POPULARITY_PENALTIES = (1.0, 10.0, 100.0)
MAX_DENSE_ITEMS = 20_000  # an item-item matrix of this width takes 1.6 GB in float32, its inverse in float64 3.2 GB
BLOCK_ROWS = 2048
SELECTION_K = 20

FULL_SHOT_ONLY: tuple[EvaluationSetting, ...] = ("full_shot",)
BOTH: tuple[EvaluationSetting, ...] = ("full_shot", "zero_shot")
ANSWERS: dict[str, tuple[EvaluationSetting, ...]] = {
    "random": BOTH,
    "popularity": FULL_SHOT_ONLY,
    "predicted_popularity": BOTH,
    "itemknn": FULL_SHOT_ONLY,
    "ease": FULL_SHOT_ONLY,
    "content_cosine": BOTH,
    "content_knn": BOTH,
    "ridge": BOTH,
}
NEEDS_TEXT = ("predicted_popularity", "content_cosine", "content_knn", "ridge")
NEEDS_ITEM_MATRIX = ("itemknn", "ease", "content_cosine", "content_knn", "ridge")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SameForAll:
    """Scores that are the same for every user; `item_scores` is (n_items,)."""

    item_scores: NDArray[np.float32]

    def score(self, users: Rows) -> NDArray[np.float32]:
        return np.tile(self.item_scores, (len(users), 1))


@dataclass(frozen=True)
class ItemToItem:
    """Scores that are sums of `weights` from the items a user knows.

    `history` is (n_users, n_sources), `weights` (n_sources, n_targets) float32; `targets` (n_targets,) are the item
    positions of the columns of `weights`; all other items score 0.
    """

    history: sparse.csr_matrix
    weights: NDArray[np.float32]
    targets: NDArray[np.int64]
    n_items: int

    def score(self, users: Rows) -> NDArray[np.float32]:
        known = np.asarray(self.history[users] @ self.weights, dtype=np.float32)
        if len(self.targets) == self.n_items:
            return known
        scores = np.zeros((len(users), self.n_items), np.float32)
        scores[:, self.targets] = known
        return scores


@dataclass(frozen=True)
class Random:
    """Random scores, uniform on [0, 1): a hash of (seed, user, item), so they do not depend on the batch."""

    seed: int
    n_items: int

    def score(self, users: Rows) -> NDArray[np.float32]:
        cells = users.astype(np.uint64)[:, None] * np.uint64(self.n_items) + np.arange(self.n_items, dtype=np.uint64)
        cells += np.uint64(self.seed * 0x9E3779B97F4A7C15 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finaliser
            cells ^= cells >> np.uint64(shift)
            cells *= np.uint64(factor)
        cells ^= cells >> np.uint64(31)
        return (cells >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def why_not(name: str, data: TrainingData) -> str | None:
    """Return why a baseline cannot be fitted on `data`, as text to print; None when it can."""
    if name in NEEDS_TEXT and not any(data.texts):
        return "needs item texts, and this data set has none"
    if name in NEEDS_ITEM_MATRIX and len(data.item_ids) > MAX_DENSE_ITEMS:
        items = f"{len(data.item_ids):,} items are more than the {MAX_DENSE_ITEMS:,} that fit in memory"
        return f"needs an item-item matrix, and {items}"
    return None


def fit_baseline(
    name: str,
    data: TrainingData,
    seed: int,
    *,
    available: NDArray[np.bool_] | None = None,
    penalty: float | None = None,
) -> Scorer:
    """Fit the baseline called `name` (one of `settings.evaluation.baselines`).

    `available` (n_items,) marks the items that users could have chosen before the cut-off: those without
    interactions then count as not liked. It defaults to the warm items; pass the candidates of
    the full-shot task where they are known. `penalty` replaces that of predicted_popularity (1), EASE (100) and
    ridge (10). Raises ModelError for an unknown name or data the baseline cannot be fitted on.
    """
    if name not in FITTERS:
        raise ModelError(f"no baseline is called {name!r}; the baselines are {', '.join(FITTERS)}")
    reason = why_not(name, data)
    if reason is not None:
        raise ModelError(f"baseline {name} {reason}")
    sources = np.flatnonzero(data.warm_items if available is None else available | data.warm_items)
    return FITTERS[name](data, seed, sources, penalty)


def strongest_predicted_popularity(
    data: TrainingData, task: EvaluationTask, available: NDArray[np.bool_] | None = None
) -> tuple[Scorer, float]:
    """Fit predicted popularity with the penalty that has the best Recall@20 on `task` itself.

    Choosing on the test answers is intended: models are compared with "predicted popularity, best penalty", so the
    choice can only favour the baseline. Returns the scorer and its penalty, one of `POPULARITY_PENALTIES`.
    """
    tried = []
    for penalty in POPULARITY_PENALTIES:
        scorer = fit_baseline("predicted_popularity", data, 0, available=available, penalty=penalty)
        ranks = truth_ranks(rank(scorer, task, SELECTION_K), task)
        recall = metrics_per_user(ranks, task, (SELECTION_K,))["recall", SELECTION_K]
        tried.append((float(recall.mean()) if len(recall) else 0.0, -penalty, scorer))
    _, negative, best = max(tried, key=lambda entry: entry[:2])
    return best, -negative


def _random(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    return Random(seed, len(data.item_ids))


def _popularity(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    return SameForAll(_counts(data).astype(np.float32))


def _itemknn(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    history = _history(data, sources)
    norms = np.sqrt(np.asarray(history.multiply(history).sum(axis=0)).ravel())
    unit = history @ sparse.diags(1 / np.where(norms == 0, 1, norms))
    similarity = _dense_product(unit.T.tocsr(), unit.tocsr(), np.float32)
    np.fill_diagonal(similarity, 0)
    return ItemToItem(history.astype(np.float32), similarity, sources, len(data.item_ids))


def _ease(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    warm = np.flatnonzero(data.warm_items)  # a cold item's row and column of EASE's weights are zero
    history = _history(data, warm)
    gram = _dense_product(history.T.tocsr(), history)
    gram[np.diag_indices_from(gram)] += EASE_PENALTY if penalty is None else penalty
    inverse = _inverse(gram)
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return ItemToItem(history.astype(np.float32), weights, warm, len(data.item_ids))


def _content_cosine(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    return _from_all_items(data, sources, _text_kernel(data, sources))


def _content_knn(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    kernel = _text_kernel(data, sources)
    kernel **= 3
    return _from_all_items(data, sources, kernel)


def _ridge(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    """Score by X (K + pI)^-1 K_st: with T the texts, the prediction of `text -> users` ridge for every item t.

    T_t (T_s' T_s + pI)^-1 T_s' X' (over words) = K_ts (K_ss + pI)^-1 X' (over items, K = T T').
    """
    strength = RIDGE_PENALTY if penalty is None else penalty
    content = tfidf(data.texts, words=ASCII_WORDS)
    content = content[:, np.flatnonzero(content.getnnz(axis=0))]
    text = content[sources]
    if content.shape[1] <= len(sources):
        system = _dense_product(text.T.tocsr(), text)
        system[np.diag_indices_from(system)] += strength
        smoothed = linalg.cho_solve(_cholesky(system), content.T.toarray(), overwrite_b=True, check_finite=False)
        weights = text @ smoothed
    else:
        system = _dense_product(text, text.T.tocsr())
        system[np.diag_indices_from(system)] += strength
        kernel = _dense_product(text, content.T.tocsr())
        weights = linalg.cho_solve(_cholesky(system), kernel, overwrite_b=True, check_finite=False)
    return _from_all_items(data, sources, np.asarray(weights, dtype=np.float32))


def _predicted_popularity(data: TrainingData, seed: int, sources: Rows, penalty: float | None) -> Scorer:
    """Ridge from text to log(1 + interactions), centred; solved by conjugate gradients on the sparse texts."""
    strength = POPULARITY_PENALTIES[0] if penalty is None else penalty
    content = tfidf(data.texts, words=ASCII_WORDS)
    text = content[sources]
    target = np.log1p(_counts(data)[sources])
    words = sparse.linalg.LinearOperator(
        (content.shape[1], content.shape[1]), matvec=lambda w: text.T @ (text @ w) + strength * w, dtype=np.float64
    )
    solution, failed = sparse.linalg.cg(words, text.T @ (target - target.mean()), rtol=1e-10, maxiter=2000)
    if failed:
        raise ModelError(f"predicted_popularity did not converge with penalty {strength}; raise the penalty")
    return SameForAll((content @ solution).astype(np.float32))


def _counts(data: TrainingData) -> NDArray[np.float64]:
    return np.asarray(data.interactions.sum(axis=0), dtype=np.float64).ravel()


def _history(data: TrainingData, sources: Rows) -> sparse.csr_matrix:
    return data.interactions[:, sources].astype(np.float64).tocsr()


def _from_all_items(data: TrainingData, sources: Rows, weights: NDArray[np.float32]) -> ItemToItem:
    history = data.interactions[:, sources].astype(np.float32).tocsr()
    return ItemToItem(history, weights, np.arange(len(data.item_ids)), len(data.item_ids))


def _text_kernel(data: TrainingData, sources: Rows) -> NDArray[np.float32]:
    content = tfidf(data.texts, words=ASCII_WORDS)
    return _dense_product(content[sources], content.T.tocsr(), np.float32)


def _dense_product(left: sparse.csr_matrix, right: sparse.csr_matrix, dtype: type = np.float64) -> NDArray[Any]:
    """left @ right as a dense array, in blocks of rows so that the sparse intermediate stays small."""
    result: NDArray[Any] = np.empty((left.shape[0], right.shape[1]), dtype)
    for start in range(0, left.shape[0], BLOCK_ROWS):
        result[start : start + BLOCK_ROWS] = (left[start : start + BLOCK_ROWS] @ right).toarray()
    return result


def _cholesky(system: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    return linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)


def _inverse(system: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a symmetric positive definite matrix, in the memory of one."""
    factor, _ = _cholesky(np.asfortranarray(system))
    inverse, info = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info:
        raise ModelError("EASE's item-item matrix is singular; its penalty must be above 0")
    for start in range(0, len(inverse), BLOCK_ROWS):  # LAPACK fills the lower triangle alone
        stop = start + BLOCK_ROWS
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        corner = np.tril(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] = corner + np.tril(corner, -1).T
    return inverse


FITTERS: dict[str, Callable[[TrainingData, int, Rows, float | None], Scorer]] = {
    "random": _random,
    "popularity": _popularity,
    "predicted_popularity": _predicted_popularity,
    "itemknn": _itemknn,
    "ease": _ease,
    "content_cosine": _content_cosine,
    "content_knn": _content_knn,
    "ridge": _ridge,
}
