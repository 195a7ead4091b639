"""What implicit's two models share: factors from implicit, and a learned map from text and profile to factor space for
items and users that have none, or too little evidence for their own. The map is kernel ridge regression (`placing.py`).

A vector is w·own + (1−w)·mapped with w = n/(n+τ) for an entity with n interactions; w = 0 without any. The path of
blends τ takes the place of epochs: `fit` with tasks keeps the blend that ranks best for each setting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.base import Backbone, Epochs, epoch_of_each_setting
from reclm.backbones.cold_start import embedding_kernels, item_kernels, mapped
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import ColdStart, Fitted, Vectors
from reclm.backbones.fusion.fusion import profiles_of
from reclm.backbones.validation import recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData, Variant

BLENDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class FactorBackbone(Backbone):
    """A backbone whose factors implicit finds."""

    @abstractmethod
    def factorize(self, interactions: sparse.csr_matrix, seed: int, threads: int) -> tuple[Matrix, Matrix, Matrix]:
        """User factors (n_users, f), item factors (n_items, f), item biases (n_items,)."""

    def fit(
        self,
        data: TrainingData,
        variant: Variant,
        *,
        seed: int,
        tasks: Sequence[EvaluationTask] = (),
        epochs: Epochs | None = None,
        placing: Mapping[str, ColdStart] | None = None,
    ) -> dict[EvaluationSetting, int]:
        self.curve = []
        with _quiet_blas():
            users, items, bias = self.factorize(data.interactions, seed, self.settings.runtime.threads)
        user_profile, item_profile = profiles_of(data, variant, seed)
        item_targets = np.column_stack([items, bias])
        mapped_items = mapped(item_kernels(data, item_profile), data.interactions.getnnz(axis=0), item_targets)
        mapped_users = mapped(embedding_kernels([user_profile]), data.interactions.getnnz(axis=1), users)

        def blended(position: int) -> Vectors:
            tau = BLENDS[min(position, len(BLENDS) - 1)]
            user_rows = _blend(users, mapped_users, data.interactions.getnnz(axis=1), tau)
            item_rows = _blend(item_targets, mapped_items, data.interactions.getnnz(axis=0), tau)
            return Vectors(
                np.column_stack([user_rows, np.ones(len(user_rows), dtype=np.float32)]), item_rows, mapped_items
            )

        chosen = epoch_of_each_setting(0 if epochs is None else epochs)
        if tasks and epochs is None:
            chosen = epoch_of_each_setting(self._best_blends(blended, tasks))
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors={setting: blended(chosen[setting]) for setting in EVALUATION_SETTINGS},
                user_id_vectors=_missing_where(users, data.interactions.getnnz(axis=1) == 0),
                item_id_vectors=_missing_where(item_targets, data.interactions.getnnz(axis=0) == 0),
                description={"variant": variant, "seed": seed, "epochs": chosen, "snapshot": data.snapshot},
            )
        )
        return chosen

    def _best_blends(self, blended: Any, tasks: Sequence[EvaluationTask]) -> dict[str, int]:
        best: dict[str, tuple[float, int]] = {}
        for position in range(len(BLENDS)):
            vectors = blended(position)
            for task in tasks:
                metrics = recall_and_ndcg(lambda rows, v=vectors: v.users[rows] @ v.items.T, task)  # type: ignore[misc]
                self.curve += [
                    {"epoch": position, "loss": float("nan"), "setting": task.setting, "metric": metric, "value": value}
                    for metric, value in metrics.items()
                ]
                total = sum(metrics.values())
                if task.setting not in best or total > best[task.setting][0]:
                    best[task.setting] = (total, position)
        return {setting: position for setting, (_, position) in best.items()}


def _blend(own: Matrix, map_: Matrix | None, evidence: NDArray[np.int64], tau: float) -> Matrix:
    """w·own + (1−w)·mapped; where nothing can be mapped, own vectors, and the mean of them for rows without evidence."""
    has_own = evidence > 0
    if map_ is None:
        mean = own[has_own].mean(axis=0) if has_own.any() else own.mean(axis=0)
        return np.where(has_own[:, None], own, mean).astype(np.float32)
    weight = np.where(has_own, evidence / np.maximum(evidence + tau, 1e-9), 0.0)[:, None]
    return (weight * own + (1 - weight) * map_).astype(np.float32)


def _missing_where(rows: Matrix, missing: NDArray[np.bool_]) -> Matrix:
    return np.where(missing[:, None], np.nan, rows).astype(np.float32)


@contextmanager
def _quiet_blas() -> Iterator[None]:
    """One BLAS thread while implicit's own threads work: what implicit itself asks for, without its warning."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
