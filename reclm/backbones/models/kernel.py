"""Kernel ridge regression from what is written about items to who interacted with them; nothing else is learned.

The scores of an item for all users are predicted from those of the items that are like it by text and profile
(Saunders, Gammerman & Vovk, "Ridge regression learning algorithm in dual variables", ICML 1998), with the kernel of
`content.py` and one penalty. A warm item is predicted with itself left out, as if it were cold. So this model says what
content alone knows; no model that reads the same content should do worse on cold items.
"""

from __future__ import annotations

from typing import ClassVar

from reclm.backbones.closed_form import leave_one_out_weights, ridge_weights
from reclm.backbones.content import Rows
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import Options
from reclm.backbones.models.linear import RIDGE_GRID, Grid, Items, LinearBackbone


class Kernel(LinearBackbone):
    """Kernel ridge regression over item content."""

    name: ClassVar[str] = "kernel"
    warm_grid: ClassVar[Grid] = RIDGE_GRID
    cold_grid: ClassVar[Grid] = RIDGE_GRID

    def warm_weights(self, items: Items, options: Options) -> Matrix:
        return leave_one_out_weights(items.kernel.between(items.warm, items.warm, options), options["penalty"])

    def cold_weights(self, items: Items, rows: Rows, options: Options) -> Matrix:
        return predicted_from_content(items, rows, options)


def predicted_from_content(items: Items, rows: Rows, options: Options) -> Matrix:
    """Predict the columns (n_warm, len(rows)) of items from those of the warm items, by their content."""
    kernel, between = (items.kernel.between(items.warm, others, options) for others in (items.warm, rows))
    return ridge_weights(kernel, between, options["penalty"])
