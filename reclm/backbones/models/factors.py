"""What the two models of the library implicit share: their factors are blended with predictions from texts.

For users and items without interactions, or with few, kernel ridge regression from profiles and texts predicts the
factors (`kernel_ridge.py`). A final vector is w * own + (1 - w) * predicted with w = n / (n + tau) for an entity with n
interactions, and w = 0 without any. There are no epochs to choose: `select` chooses tau, the only option, and where
warm and cold items are ranked together also the level of the cold ones (`cold_start.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.base import Backbone
from reclm.backbones.cold_start import LEVEL_SHIFTS, level_shift, raised
from reclm.backbones.content_prior import choose_prior, take_prior
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import ColdStart, CurveRow, Fitted, Selection, TriedColdStart, Vectors, curve_rows
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.kernel_ridge import embedding_sources, item_sources, predict_all
from reclm.backbones.metrics import recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, SERVED, EvaluationSetting, EvaluationTask, TrainingData, Variant

BLENDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""The values of tau that validation tries, in interactions. A larger one trusts predictions more, own factors less."""


class FactorBackbone(Backbone):
    """A backbone whose factors implicit finds."""

    @abstractmethod
    def factorize(self, interactions: sparse.csr_matrix, seed: int, threads: int) -> tuple[Matrix, Matrix, Matrix]:
        """Return user factors (n_users, f), item factors (n_items, f) and item biases (n_items,).

        The values of `interactions` (n_users, n_items) are their weights.
        """

    def default_selection(self) -> Selection:
        return Selection.of_epochs(0)

    @staticmethod
    def _tau(selection: Selection, setting: EvaluationSetting) -> float:
        return selection.options.get(setting, {}).get("tau", BLENDS[0])

    def select(self, data: TrainingData, variant: Variant, tasks: Sequence[EvaluationTask], seed: int) -> Selection:
        factors = self._factors(data, variant, seed)
        selection = _best_blends(factors, tasks) if tasks else self.default_selection()
        self._finish(data, variant, seed, selection, factors)
        return choose_prior(self.fitted, data, seed, selection, tasks, _inner_products)

    def refit(self, data: TrainingData, variant: Variant, selection: Selection, seed: int) -> list[CurveRow]:
        self._finish(data, variant, seed, selection, self._factors(data, variant, seed))
        take_prior(self.fitted, data, seed, selection.options, _inner_products)
        return []

    def _factors(self, data: TrainingData, variant: Variant, seed: int) -> _Factors:
        with _quiet_blas():
            weighted = data.interactions if data.weights is None else data.weights
            users, items, bias = self.factorize(weighted, seed, self.runtime.threads)
        user_profile, item_profile = profiles_of(data, variant, seed)
        of_users, of_items = data.interactions.getnnz(axis=1), data.interactions.getnnz(axis=0)
        with_bias = np.column_stack([items, bias])
        predicted_items = predict_all(item_sources(data, item_profile), of_items, with_bias)
        predicted_users = predict_all(embedding_sources([user_profile]), of_users, users)
        return _Factors(users, with_bias, predicted_users, predicted_items, of_users, of_items)

    def _finish(self, data: TrainingData, variant: Variant, seed: int, selection: Selection, factors: _Factors) -> None:
        taus = {setting: self._tau(selection, setting) for setting in EVALUATION_SETTINGS}
        levels = selection.cold_start
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors={s: factors.blended(tau, levels.get(s, ColdStart())) for s, tau in taus.items()},
                user_id_vectors=_missing_where(factors.users, factors.user_interactions == 0),
                item_id_vectors=_missing_where(factors.items, factors.item_interactions == 0),
                description={
                    "variant": variant,
                    "seed": seed,
                    "options": {setting: {"tau": tau} for setting, tau in taus.items()},
                    "cold_start": {setting: level._asdict() for setting, level in levels.items()},
                    "snapshot": data.snapshot,
                },
            )
        )


@dataclass(frozen=True)
class _Factors:
    """Own and predicted factors of users (n_users, f) and of items with their bias (n_items, f + 1)."""

    users: Matrix
    items: Matrix
    predicted_users: Matrix | None
    predicted_items: Matrix | None
    user_interactions: NDArray[np.int64]
    item_interactions: NDArray[np.int64]

    def blended(self, tau: float, level: ColdStart) -> Vectors:
        """Return final vectors with the blend `tau`, cold items raised by `level.shift`."""
        users = _blend(self.users, self.predicted_users, self.user_interactions, tau)
        items = _blend(self.items, self.predicted_items, self.item_interactions, tau)
        vectors = Vectors(np.column_stack([users, np.ones(len(users), dtype=np.float32)]), items, self.predicted_items)
        warm = self.item_interactions > 0
        return replace(vectors, items=raised(items, warm, level_shift(vectors, warm, level)))


def _best_blends(factors: _Factors, tasks: Sequence[EvaluationTask]) -> Selection:
    """Choose the blend with the best Recall@20 + NDCG@20 of each setting; one without a task gets the largest."""
    found = {task.setting: [_measured(factors, tau, ColdStart(), task) for tau in BLENDS] for task in tasks}
    best = {setting: int(np.argmax([one.value for one in measured])) for setting, measured in found.items()}
    epochs = {setting: best.get(setting, max(best.values())) for setting in EVALUATION_SETTINGS}
    taus = {setting: {"tau": BLENDS[position]} for setting, position in epochs.items()}
    levels: dict[EvaluationSetting, ColdStart] = {}
    tried: list[TriedColdStart] = []
    for task in tasks:
        if task.setting == SERVED:
            position, tau = epochs[SERVED], taus[SERVED]["tau"]
            others = [_measured(factors, tau, ColdStart(shift=shift), task) for shift in LEVEL_SHIFTS]
            tried = [found[SERVED][position], *others]
            found[SERVED][position] = max(tried, key=lambda one: one.value)
            levels[SERVED] = found[SERVED][position].cold_start
    curve = [
        row
        for setting, measured in found.items()
        for position, one in enumerate(measured)
        for row in curve_rows(position, setting, one)
    ]
    return Selection(epochs, levels, curve, taus, tried)


def _inner_products(setting: EvaluationSetting, users: Matrix, items: Matrix) -> Matrix:
    return users @ items.T


def _measured(factors: _Factors, tau: float, level: ColdStart, task: EvaluationTask) -> TriedColdStart:
    vectors = factors.blended(tau, level)
    return TriedColdStart(level, **recall_and_ndcg(lambda rows: vectors.users[rows] @ vectors.items.T, task))


def _blend(own: Matrix, predicted: Matrix | None, interactions: NDArray[np.int64], tau: float) -> Matrix:
    """Blend own and predicted rows. Without a prediction: own rows, and their mean for rows without interactions."""
    has_own = interactions > 0
    if predicted is None:
        mean = own[has_own].mean(axis=0) if has_own.any() else own.mean(axis=0)
        return np.where(has_own[:, None], own, mean).astype(np.float32)
    weight = np.where(has_own, interactions / np.maximum(interactions + tau, 1e-9), 0.0)[:, None]
    return (weight * own + (1 - weight) * predicted).astype(np.float32)


def _missing_where(rows: Matrix, missing: NDArray[np.bool_]) -> Matrix:
    return np.where(missing[:, None], np.nan, rows).astype(np.float32)


@contextmanager
def _quiet_blas() -> Iterator[None]:
    """Use one BLAS thread while implicit's own threads work, as implicit asks for; without it implicit warns."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
