"""The baselines that every model is compared with: closed-form, deterministic, without profiles.

In: `TrainingData`. Out: a `Scorer` over all items. Popularity, item-kNN and EASE read interactions only, so that every
cold item scores 0, and are not measured in the zero-shot setting; the text baselines can tell cold items apart and are
measured in every setting. Each is a product of the user-item matrix with an item-item matrix. The ridge from text to
users, whose textbook form has one target per user, is solved over the words or over the items, whichever are fewer, so
that many users add no cost. Four baselines come twice: as they are, and `…_tuned`, with a penalty, power or number of
neighbours that was chosen on the validation slice.

EASE is Steck (2019, arXiv 1905.03375, eq. 8); item-kNN is the cosine of Sarwar et al. (2001); the text features are
binary TF x log(N/df) (Salton & Buckley 1988). The formulas that they share with the backbones are in `closed_form.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from reclm.backbones import closed_form
from reclm.backbones.closed_form import cholesky, dense_product
from reclm.backbones.metrics import metrics_per_user, recall_and_ndcg
from reclm.backbones.ranking import Scorer, rank, truth_ranks
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData
from reclm.errors import ModelError
from reclm.text.tfidf import ASCII_WORDS, tfidf

EASE_PENALTY = 100.0
RIDGE_PENALTY = 10.0
POPULARITY_PENALTIES = (1.0, 10.0, 100.0)
CONTENT_POWER = 3.0
SELECTION_K = 20

WARM_ITEMS: tuple[EvaluationSetting, ...] = ("full_shot", "mixed")
ALL_ITEMS = EVALUATION_SETTINGS
ANSWERS: dict[str, tuple[EvaluationSetting, ...]] = {
    "random": ALL_ITEMS,
    "popularity": WARM_ITEMS,
    "predicted_popularity": ALL_ITEMS,
    "itemknn": WARM_ITEMS,
    "ease": WARM_ITEMS,
    "content_cosine": ALL_ITEMS,
    "content_knn": ALL_ITEMS,
    "ridge": ALL_ITEMS,
    "itemknn_tuned": WARM_ITEMS,
    "ease_tuned": WARM_ITEMS,
    "content_knn_tuned": ALL_ITEMS,
    "ridge_tuned": ALL_ITEMS,
}


class Tuned(NamedTuple):
    """A baseline whose `values` are tried on the validation slice; what they are is said in `fit_baseline`."""

    of: str
    values: tuple[float, ...]


TUNED = {
    "itemknn_tuned": Tuned("itemknn", (10.0, 20.0, 50.0, 100.0, 200.0, np.inf)),
    "ease_tuned": Tuned("ease", (30.0, 100.0, 300.0, 1000.0)),
    "content_knn_tuned": Tuned("content_knn", (1.0, 2.0, 3.0, 5.0, 8.0)),
    "ridge_tuned": Tuned("ridge", (3.0, 10.0, 30.0, 100.0, 300.0)),
}
"""The tuned baselines, by the name that `settings.evaluation.baselines` uses."""

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
    return closed_form.why_not(TUNED[name].of if name in TUNED else name, len(data.item_ids), any(data.texts))


def fit_baseline(
    name: str,
    data: TrainingData,
    seed: int,
    *,
    available: NDArray[np.bool_] | None = None,
    option: float | None = None,
) -> Scorer:
    """Fit the baseline called `name` (one of `settings.evaluation.baselines`).

    `available` (n_items,) marks the items that users could have chosen before the cut-off: those without
    interactions then count as not liked. It defaults to the warm items; pass the candidates of
    the full-shot task where they are known. `option` replaces the penalty of predicted_popularity (1), EASE (100) and
    ridge (10), the power of content_knn (3) and the number of neighbours of itemknn (all); a tuned baseline is fitted
    with the one that `tune` chose. Raises ModelError for an unknown name or data the baseline cannot be fitted on.
    """
    if name not in ANSWERS:
        raise ModelError(f"no baseline is called {name!r}; the baselines are {', '.join(ANSWERS)}")
    reason = why_not(name, data)
    if reason is not None:
        raise ModelError(f"baseline {name} {reason}")
    name = TUNED[name].of if name in TUNED else name
    sources = np.flatnonzero(data.warm_items if available is None else available | data.warm_items)
    return FITTERS[name](data, seed, sources, option)


def tune(name: str, data: TrainingData, task: EvaluationTask, available: NDArray[np.bool_] | None = None) -> float:
    """Return the value of a tuned baseline with the best Recall@20 + NDCG@20 on `task`, a validation task of `data`."""

    def quality(value: float) -> float:
        scorer = fit_baseline(name, data, 0, available=available, option=value)
        return sum(recall_and_ndcg(scorer.score, task).values())

    return max(TUNED[name].values, key=quality)


def strongest_predicted_popularity(
    data: TrainingData, task: EvaluationTask, available: NDArray[np.bool_] | None = None
) -> tuple[Scorer, float]:
    """Fit predicted popularity with the penalty that has the best Recall@20 on `task` itself.

    Choosing on the test answers is intended: models are compared with "predicted popularity, best penalty", so the
    choice can only favour the baseline. Returns the scorer and its penalty, one of `POPULARITY_PENALTIES`.
    """
    tried = []
    for penalty in POPULARITY_PENALTIES:
        scorer = fit_baseline("predicted_popularity", data, 0, available=available, option=penalty)
        ranks = truth_ranks(rank(scorer, task, SELECTION_K), task)
        recall = metrics_per_user(ranks, task, (SELECTION_K,))["recall", SELECTION_K]
        tried.append((float(recall.mean()) if len(recall) else 0.0, -penalty, scorer))
    _, negative, best = max(tried, key=lambda entry: entry[:2])
    return best, -negative


def _random(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    return Random(seed, len(data.item_ids))


def _popularity(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    return SameForAll(_counts(data).astype(np.float32))


def _itemknn(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    history = _history(data, sources)
    similarity = closed_form.cosines(history)
    if option is not None:
        closed_form.keep_largest(similarity, option)
    return ItemToItem(history.astype(np.float32), similarity, sources, len(data.item_ids))


def _ease(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    warm = np.flatnonzero(data.warm_items)  # a cold item's row and column of EASE's weights are zero
    history = _history(data, warm)
    gram = dense_product(history.T.tocsr(), history)
    weights = closed_form.leave_one_out_weights(gram, EASE_PENALTY if option is None else option)
    return ItemToItem(history.astype(np.float32), weights, warm, len(data.item_ids))


def _content_cosine(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    return _from_all_items(data, sources, _text_kernel(data, sources))


def _content_knn(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    kernel = _text_kernel(data, sources)
    np.power(kernel, CONTENT_POWER if option is None else option, out=kernel)
    return _from_all_items(data, sources, kernel)


def _ridge(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    """Score by X (K + pI)^-1 K_st: with T the texts, the prediction of `text -> users` ridge for every item t.

    T_t (T_s' T_s + pI)^-1 T_s' X' (over words) = K_ts (K_ss + pI)^-1 X' (over items, K = T T').
    """
    strength = RIDGE_PENALTY if option is None else option
    content = tfidf(data.texts, words=ASCII_WORDS)
    content = content[:, np.flatnonzero(content.getnnz(axis=0))]
    text = content[sources]
    if content.shape[1] <= len(sources):
        system = dense_product(text.T.tocsr(), text)
        system[np.diag_indices_from(system)] += strength
        smoothed = linalg.cho_solve(cholesky(system), content.T.toarray(), overwrite_b=True, check_finite=False)
        weights = np.asarray(text @ smoothed, dtype=np.float32)
    else:
        kernel, between = dense_product(text, text.T.tocsr()), dense_product(text, content.T.tocsr())
        weights = closed_form.ridge_weights(kernel, between, strength)
    return _from_all_items(data, sources, weights)


def _predicted_popularity(data: TrainingData, seed: int, sources: Rows, option: float | None) -> Scorer:
    """Ridge from text to log(1 + interactions), centred; solved by conjugate gradients on the sparse texts."""
    strength = POPULARITY_PENALTIES[0] if option is None else option
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
    return dense_product(content[sources], content.T.tocsr(), np.float32)


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
