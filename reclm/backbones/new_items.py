"""Predict the vectors of items that came after a backbone was fitted.

In: final vectors, and the current texts, text embeddings and profile embeddings of all items. Out: a vector for each
item. It is predicted by kernel ridge regression that is fitted on all items of the backbone: from texts, text
embeddings and, where validation found them useful, profile embeddings to the vector that the item would have without
interactions (`Vectors.unseen`), blended with its trained vector by the share that validation found best for cold items.
From the trained vector the mean advantage of items with interactions is subtracted first, and what validation added to
the level of cold items (`ColdStart.shift`) is added in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reclm.backbones.cold_start import level_shift, mix, shifted_to_unseen
from reclm.backbones.features import Matrix, present
from reclm.backbones.fitted import ColdStart, Fitted
from reclm.backbones.kernel_ridge import item_sources, predict_all, rows_without_source
from reclm.dataset import SERVED, TrainingData


def predicted_vectors(fitted: Fitted, cold_start: ColdStart, data: TrainingData) -> Matrix:
    """Predict a vector in the space of a fitted backbone for each item of `data`: (n_items, width) float32.

    A row is NaN where neither text nor profile is known. Use only the rows of items that the backbone was not fitted
    on; the other rows are predictions too. Where validation found texts alone to be better, profiles are used only
    for items without a text.
    """
    learned = fitted.vectors[SERVED]
    position = np.array([fitted.item_position.get(item, -1) for item in data.item_ids.tolist()])
    targets = np.zeros((len(data.item_ids), learned.items.shape[1]), dtype=np.float32)
    source = learned.items
    cold = ~present(fitted.item_id_vectors)  # at the time of the fit; users may have been forgotten since
    shift = level_shift(learned, ~cold, cold_start)
    if learned.unseen is not None:
        source = mix(learned.unseen, shifted_to_unseen(learned, ~cold), cold_start.kernel_share)
        source[cold] = learned.items[cold] - shift
    targets[position >= 0] = source[position[position >= 0]]
    profiles = None if fitted.description["variant"] == "base" else data.item_profile
    vectors = np.full_like(targets, np.nan)
    for read in (profiles,) if cold_start.reads_profiles or profiles is None else (None, profiles):
        missing = np.isnan(vectors).all(axis=1)
        if not missing.any():
            break
        sources: list[Any] = item_sources(data, read)
        found = predict_all(sources, (position >= 0).astype(np.int64), targets, linear=True)
        if found is not None:
            predicted = missing & ~rows_without_source(sources)
            vectors[predicted] = found[predicted] + shift
    return vectors
