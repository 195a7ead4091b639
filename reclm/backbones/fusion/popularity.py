"""Predict the log popularity of items from their features: where item biases start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.features import Matrix
from reclm.backbones.fusion.recipe import RIDGE_PENALTIES
from reclm.dataset import TrainingData


def split_popularity(data: TrainingData, features: Matrix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split centred log popularity into what `features` (n_items, width) predict and the rest of each warm item.

    Returns the ridge weights (width,) and the rest (n_items,), zero for cold items.
    """
    warm = data.warm_items
    popularity = np.log(np.asarray(data.interactions.sum(axis=0)).ravel()[warm] + 0.5)
    centred = popularity - popularity.mean()
    weights = ridge_by_leave_one_out(features[warm], centred)
    rest = np.zeros(len(warm))
    rest[warm] = centred - features[warm] @ weights
    return weights.astype(np.float32), rest.astype(np.float32)


def ridge_by_leave_one_out(features: Matrix, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ridge weights (width,) with the penalty of least leave-one-out error (Golub, Heath & Wahba 1979)."""
    wide = features.astype(np.float64)
    left, values, right = np.linalg.svd(wide, full_matrices=False)
    along = left.T @ target
    best = (np.inf, np.zeros(features.shape[1]))
    for penalty in RIDGE_PENALTIES:
        shrink = values**2 / (values**2 + penalty)
        leverage = np.square(left) @ shrink
        error = float(np.square((target - left @ (shrink * along)) / (1 - leverage).clip(1e-6)).mean())
        if error < best[0]:
            best = (error, right.T @ (shrink * along / np.where(values == 0, 1, values)))
    return best[1]
