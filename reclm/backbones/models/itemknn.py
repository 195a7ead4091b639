"""Item-kNN: an item is scored by its similarity to the items of a history, of which only the nearest count.

The similarity of warm items is the cosine of their interactions (Sarwar et al., "Item-based collaborative filtering
recommendation algorithms", WWW 2001) plus `side_weight` times the kernel of `content.py`; that of cold items is the
kernel alone. Profiles are read as a part of that kernel.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reclm.backbones.closed_form import cosines, keep_largest
from reclm.backbones.content import Rows
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import Options
from reclm.backbones.models.linear import RIDGE_GRID, SIDE_KERNEL, Grid, Items, LinearBackbone

NEIGHBOURS = (100.0, 20.0, 50.0, 200.0, 1000.0)


class ItemKNN(LinearBackbone):
    """Cosine similarity to the nearest items."""

    name: ClassVar[str] = "itemknn"
    warm_grid: ClassVar[Grid] = {
        "neighbours": NEIGHBOURS,
        "side_weight": (0.0, 0.03, 0.1, 0.3),
    }
    cold_grid: ClassVar[Grid] = {
        "neighbours": NEIGHBOURS,
        "text_weight": RIDGE_GRID["text_weight"],
        "profile_weight": RIDGE_GRID["profile_weight"],
    }

    def warm_weights(self, items: Items, options: Options) -> Matrix:
        similarity = cosines(items.history)
        if options["side_weight"]:
            kernel = items.kernel.between(items.warm, items.warm, SIDE_KERNEL)
            similarity += (options["side_weight"] * kernel).astype(np.float32)
            np.fill_diagonal(similarity, 0)
        return _nearest(similarity, options)

    def cold_weights(self, items: Items, rows: Rows, options: Options) -> Matrix:
        return _nearest(items.kernel.between(items.warm, rows, options).astype(np.float32), options)


def _nearest(similarity: Matrix, options: Options) -> Matrix:
    np.maximum(similarity, 0, out=similarity)
    keep_largest(similarity, options["neighbours"])
    return similarity
