"""Blend a model's scores with those of kernel ridge regression over item content, so that it does not fall below them.

In: a fitted backbone whose score of a vector is known, and the data that it was fitted on. Out: the same backbone with
further columns in its vectors, whose inner products are the scores of the model `kernel` in low rank. So the blend is
published, indexed and folded in as any vector is. How much the columns count is chosen on validation, for each
evaluation setting, from not at all to almost alone. Stacking a learned and a closed-form model is Wolpert's
generalisation (Neural Networks 5, 1992) with one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import linalg

from reclm.backbones.closed_form import Dense, cholesky
from reclm.backbones.cold_start import ColdStartTask
from reclm.backbones.content import ContentKernel
from reclm.backbones.features import Matrix, landmarks
from reclm.backbones.fitted import Fitted, Options, Selection, Vectors
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.metrics import MAX_VALIDATION_USERS, recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData, Variant

Product = Callable[[EvaluationSetting, Matrix, Matrix], Matrix]
"""Scores user vectors (b, width) with item vectors (n, width) as a model does in an evaluation setting: (b, n)."""

COLUMNS = 64
"""Columns that the prior adds to a vector."""
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 16.0)
"""How far the prior's scores spread, in spreads of the model's own: the values that validation tries."""
PENALTIES = (30.0, 3.0, 10.0, 100.0, 300.0)
KERNEL: Options = {"text_weight": 0.3, "profile_weight": 0.3}
MAX_SOURCES, MAX_TARGETS = 6000, 4096  # items that are learned from, and that the columns are fitted to: limits of time
SPREAD_USERS = 256  # users whose scores show how far they spread
MAX_KEPT = 6  # three variants on two snapshots
SPARE_COLUMNS, POWER_ITERATIONS = 16, 2
NEGLIGIBLE = 1e-9  # length of a user's scores under which they are rounding errors of nothing
BLOCK = 2048


@dataclass(frozen=True)
class Factors:
    """Scores of the kernel in low rank: `users` (n_users, COLUMNS), `items` (n_items, COLUMNS).

    The scores of a user with a history have length 1 over the items that the columns were fitted to.
    """

    users: Matrix
    items: Matrix


class ContentPrior:
    """The kernel's scores for the items of one data set, with the profiles `item_profile` (n_items, dim) or none."""

    def __init__(self, data: TrainingData, item_profile: Matrix | None) -> None:
        warm = data.warm_items
        self.kernel = ContentKernel(data.texts, data.item_content, item_profile, warm)
        self.sources = landmarks(np.flatnonzero(warm & self.kernel.known), MAX_SOURCES)
        cold = np.flatnonzero(~warm & self.kernel.known)
        targets = cold if len(cold) >= COLUMNS + SPARE_COLUMNS else np.flatnonzero(self.kernel.known)
        self.targets = landmarks(targets, MAX_TARGETS)
        self.history = data.interactions[:, self.sources].astype(np.float64).tocsr()

    @cached_property
    def _among_sources(self) -> Dense:
        return self.kernel.between(self.sources, self.sources, KERNEL)

    @cached_property
    def _to_targets(self) -> Dense:
        return self.kernel.between(self.targets, self.sources, KERNEL)

    def best_penalty(self, task: EvaluationTask) -> float:
        """Return the penalty with which the kernel alone is best on a zero-shot validation task."""

        def quality(penalty: float) -> float:
            users, weights = self._factors(penalty)
            items = np.zeros((len(task.candidates), users.shape[1]), dtype=np.float32)
            items[self.targets] = self._to_targets @ weights
            return sum(recall_and_ndcg(lambda rows: users[rows] @ items.T, task).values())

        return max(PENALTIES, key=quality)

    def factors(self, penalty: float) -> Factors:
        """Return the scores for all items."""
        users, weights = self._factors(penalty)
        items = np.empty((len(self.kernel.known), users.shape[1]), dtype=np.float32)
        for start in range(0, len(items), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(items)))
            items[rows] = self.kernel.between(rows, self.sources, KERNEL) @ weights
        return Factors(users, items)

    def _factors(self, penalty: float) -> tuple[Matrix, Dense]:
        """Return users (n_users, columns) and weights (n_sources, columns), whose products with the kernel are items.

        The scores are X (K + penalty I)^-1 K', with histories X, the kernel K among the sources and K' from them to the
        targets. Their leading directions are found by randomised subspace iteration (Halko, Martinsson & Tropp, SIAM
        Review 53, 2011, algorithm 4.4).
        """
        system = self._among_sources.copy()
        system[np.diag_indices_from(system)] += penalty
        solver = cholesky(system)

        def transposed_scores(left: Dense) -> Dense:
            return self._to_targets @ linalg.cho_solve(solver, self.history.T @ left, check_finite=False)

        def scores(right: Dense) -> Dense:
            solved = linalg.cho_solve(solver, self._to_targets.T @ right, check_finite=False)
            return np.asarray(self.history @ solved)

        size = min(COLUMNS + SPARE_COLUMNS, len(self.sources), self.history.shape[0])
        basis = np.linalg.qr(scores(np.random.default_rng(0).standard_normal((len(self.targets), size))))[0]
        for _ in range(POWER_ITERATIONS):
            basis = np.linalg.qr(scores(np.linalg.qr(transposed_scores(basis))[0]))[0]
        turn, strengths, _ = np.linalg.svd(transposed_scores(basis).T, full_matrices=False)
        users = (basis @ turn)[:, :COLUMNS]
        weights = linalg.cho_solve(solver, self.history.T @ users, check_finite=False)
        lengths = np.linalg.norm(users * strengths[: users.shape[1]], axis=1, keepdims=True)
        unit = np.divide(users, lengths, out=np.zeros_like(users), where=lengths > NEGLIGIBLE)
        return unit.astype(np.float32), weights


def choose_prior(
    fitted: Fitted,
    data: TrainingData,
    seed: int,
    selection: Selection,
    tasks: Sequence[EvaluationTask],
    product: Product,
    max_users: int = MAX_VALIDATION_USERS,
) -> Selection:
    """Choose on `tasks` how much the prior counts in each evaluation setting, and put it into the vectors of `fitted`.

    Returns the selection with the options `prior_weight` and `prior_penalty`, and with what was measured with them.
    """
    zero_shot = next((task for task in tasks if task.setting == "zero_shot"), None)
    found = content_factors(data, fitted.description["variant"], seed, task=zero_shot) if tasks else None
    if found is None:
        return selection
    factors, penalty = found
    best = dict.fromkeys(EVALUATION_SETTINGS, 0.0)
    measured: dict[tuple[str, int], dict[str, float]] = {}
    for task in tasks:
        own, cut = {task.setting: fitted.vectors[task.setting]}, ColdStartTask(task, None)
        tried = []
        for weight in WEIGHTS:
            vectors = with_prior(own, data, factors, {task.setting: weight}, product)[task.setting]
            metrics = _measured(vectors, cut, product, max_users)
            tried.append((sum(metrics.values()), weight, metrics))
        _, best[task.setting], chosen = max(tried, key=lambda one: one[0])
        measured[task.setting, selection.epochs[task.setting]] = chosen
    options = {
        setting: {**selection.options.get(setting, {}), "prior_weight": weight, "prior_penalty": penalty}
        for setting, weight in best.items()
    }
    take_prior(fitted, data, seed, options, product)
    curve = [
        row | {"value": measured.get((row["setting"], row["epoch"]), {}).get(row["metric"], row["value"])}
        for row in selection.curve
    ]
    return replace(selection, options=options, curve=curve)


def _measured(vectors: Vectors, task: ColdStartTask, product: Product, max_users: int) -> dict[str, float]:
    items = vectors.items[task.columns]
    return recall_and_ndcg(lambda rows: product(task.setting, vectors.users[rows], items), task.task, max_users)


def take_prior(
    fitted: Fitted, data: TrainingData, seed: int, options: Mapping[EvaluationSetting, Options], product: Product
) -> None:
    """Put the prior into the vectors of `fitted` as `options` say, and record them; without them nothing changes."""
    weights = {setting: options.get(setting, {}).get("prior_weight", 0.0) for setting in EVALUATION_SETTINGS}
    if any(weights.values()):
        penalty = max(one.get("prior_penalty", 0.0) for one in options.values())
        found = content_factors(data, fitted.description["variant"], seed, penalty=penalty)
        if found is not None:
            fitted.vectors = with_prior(fitted.vectors, data, found[0], weights, product)
    if options:
        fitted.description["options"] = {setting: dict(one) for setting, one in options.items()}


_KEPT: dict[tuple[int, Variant, int, float | None], tuple[TrainingData, Factors, float]] = {}


def content_factors(
    data: TrainingData, variant: Variant, seed: int, *, penalty: float | None = None, task: EvaluationTask | None = None
) -> tuple[Factors, float] | None:
    """Return the factors of a data set and their penalty: the one that is given, or the best one on a zero-shot task.

    None where no item has content. The newest results are kept, because all models of a run ask for the same.
    """
    key = (id(data), variant, seed, penalty)
    if key not in _KEPT:
        prior = ContentPrior(data, profiles_of(data, variant, seed)[1])
        if not len(prior.sources):
            return None
        best = penalty
        if best is None:
            best = PENALTIES[0] if task is None else prior.best_penalty(task)
        while len(_KEPT) >= MAX_KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = data, prior.factors(best), best
    return _KEPT[key][1:]


def with_prior(
    vectors: Mapping[EvaluationSetting, Vectors],
    data: TrainingData,
    factors: Factors,
    weights: Mapping[EvaluationSetting, float],
    product: Product,
) -> dict[EvaluationSetting, Vectors]:
    """Return the `vectors` of a model fitted on `data` with the columns of the prior.

    `weights` say how far its scores spread beside those of the model, which `product` computes. They are compared
    over the items that are ranked: warm ones in the full-shot setting, cold ones in the zero-shot setting.
    """
    warm = data.warm_items
    ranked = {"full_shot": warm, "zero_shot": ~warm}
    users = landmarks(np.flatnonzero(data.interactions.getnnz(axis=1)), SPREAD_USERS)
    longer = {}
    for setting, own in vectors.items():
        items = ranked.get(setting, np.ones_like(warm))
        items = items if items.any() else ~items
        spreads = [
            float(np.std(scores, axis=1).mean()) if scores.size else 0.0
            for scores in (
                product(setting, own.users[users], own.items[items]),
                factors.users[users] @ factors.items[items].T,
            )
        ]
        longer[setting] = blended(own, factors, weights[setting] * spreads[0] / spreads[1] if spreads[1] else 0.0)
    return longer


def blended(vectors: Vectors, factors: Factors, factor: float) -> Vectors:
    """Return the vectors with the columns of the prior before the last one; `factor` multiplies its scores."""

    def longer(rows: Matrix, more: Matrix) -> Matrix:
        return np.hstack([rows[:, :-1], more, rows[:, -1:]]).astype(np.float32)

    items = factors.items * np.float32(factor)
    return Vectors(
        longer(vectors.users, factors.users),
        np.asfortranarray(longer(vectors.items, items)),
        None if vectors.unseen is None else longer(vectors.unseen, items),
    )
