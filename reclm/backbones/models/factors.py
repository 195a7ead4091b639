"""What the two models of the library implicit share: their factors are blended with predictions from texts.

For users and items without interactions, or with few, kernel ridge regression from profiles and texts predicts the
factors (`kernel_ridge.py`). A final vector is w * own + (1 - w) * predicted with w = n / (n + tau) for an entity with n
interactions, and w = 0 without any. There are no epochs to choose: `select` chooses tau, the only option.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.base import Backbone
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import CurveRow, Fitted, Selection, Vectors
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.kernel_ridge import embedding_sources, item_sources, predict_all
from reclm.backbones.metrics import recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData, Variant

BLENDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""The values of tau that validation tries, in interactions. A larger one trusts predictions more, own factors less."""


class FactorBackbone(Backbone):
    """A backbone whose factors implicit finds."""

    @abstractmethod
    def factorize(self, interactions: sparse.csr_matrix, seed: int, threads: int) -> tuple[Matrix, Matrix, Matrix]:
        """Return user factors (n_users, f), item factors (n_items, f) and item biases (n_items,)."""

    def default_selection(self) -> Selection:
        return Selection.of_epochs(0)

    @staticmethod
    def _tau(selection: Selection, setting: EvaluationSetting) -> float:
        return selection.options.get(setting, {}).get("tau", BLENDS[0])

    def select(self, data: TrainingData, variant: Variant, tasks: Sequence[EvaluationTask], seed: int) -> Selection:
        factors = self._factors(data, variant, seed)
        selection = _best_blends(factors, tasks) if tasks else self.default_selection()
        self._finish(data, variant, seed, selection, factors)
        return selection

    def refit(self, data: TrainingData, variant: Variant, selection: Selection, seed: int) -> list[CurveRow]:
        self._finish(data, variant, seed, selection, self._factors(data, variant, seed))
        return []

    def _factors(self, data: TrainingData, variant: Variant, seed: int) -> _Factors:
        with _quiet_blas():
            users, items, bias = self.factorize(data.interactions, seed, self.runtime.threads)
        user_profile, item_profile = profiles_of(data, variant, seed)
        of_users, of_items = data.interactions.getnnz(axis=1), data.interactions.getnnz(axis=0)
        with_bias = np.column_stack([items, bias])
        predicted_items = predict_all(item_sources(data, item_profile), of_items, with_bias)
        predicted_users = predict_all(embedding_sources([user_profile]), of_users, users)
        return _Factors(users, with_bias, predicted_users, predicted_items, of_users, of_items)

    def _finish(self, data: TrainingData, variant: Variant, seed: int, selection: Selection, factors: _Factors) -> None:
        taus = {setting: self._tau(selection, setting) for setting in EVALUATION_SETTINGS}
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors={setting: factors.blended(tau) for setting, tau in taus.items()},
                user_id_vectors=_missing_where(factors.users, factors.user_interactions == 0),
                item_id_vectors=_missing_where(factors.items, factors.item_interactions == 0),
                description={
                    "variant": variant,
                    "seed": seed,
                    "options": {setting: {"tau": tau} for setting, tau in taus.items()},
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

    def blended(self, tau: float) -> Vectors:
        """Return final vectors with the blend `tau`."""
        users = _blend(self.users, self.predicted_users, self.user_interactions, tau)
        items = _blend(self.items, self.predicted_items, self.item_interactions, tau)
        return Vectors(np.column_stack([users, np.ones(len(users), dtype=np.float32)]), items, self.predicted_items)


def _best_blends(factors: _Factors, tasks: Sequence[EvaluationTask]) -> Selection:
    """Choose the blend with the best Recall@20 + NDCG@20 of each setting; one without a task gets the largest."""
    best: dict[EvaluationSetting, tuple[float, int]] = {}
    curve: list[CurveRow] = []
    for position, tau in enumerate(BLENDS):
        vectors = factors.blended(tau)
        for task in tasks:
            metrics = recall_and_ndcg(lambda rows, v=vectors: v.users[rows] @ v.items.T, task)  # type: ignore[misc]
            curve += [
                {"epoch": position, "loss": float("nan"), "setting": task.setting, "metric": metric, "value": value}
                for metric, value in metrics.items()
            ]
            total = sum(metrics.values())
            if task.setting not in best or total > best[task.setting][0]:
                best[task.setting] = (total, position)
    largest = max(position for _, position in best.values())
    epochs = {s: best[s][1] if s in best else largest for s in EVALUATION_SETTINGS}
    return Selection(epochs, options={s: {"tau": BLENDS[position]} for s, position in epochs.items()}, curve=curve)


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
