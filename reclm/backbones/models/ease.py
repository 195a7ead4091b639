"""EASE: every item is predicted from all others by ridge regression in closed form.

min ‖X − XB‖² + λ‖B‖² with a zero diagonal of B (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019,
arXiv 1905.03375). Texts and profiles enter as further rows of X, weighted by `side_weight`: collective EASE (Jeunen,
Van Balen & Goethals, "Closed-form models for collaborative filtering with side-information", RecSys 2020, section 3).
Their inner products are the kernel of `content.py`, so that no row has to be written down. A cold item has no row of
interactions yet, which is not to say that nobody likes it: its column is fitted on the further rows alone.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reclm.backbones.closed_form import leave_one_out_weights
from reclm.backbones.content import Rows
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import Options
from reclm.backbones.models.kernel import predicted_from_content
from reclm.backbones.models.linear import RIDGE_GRID, SIDE_KERNEL, Grid, Items, LinearBackbone


class EASE(LinearBackbone):
    """EASE with side information."""

    name: ClassVar[str] = "ease"
    warm_grid: ClassVar[Grid] = {
        "penalty": (100.0, 30.0, 300.0, 1000.0, 3000.0),
        "side_weight": (0.0, 10.0, 30.0, 100.0),
    }
    cold_grid: ClassVar[Grid] = RIDGE_GRID

    def warm_weights(self, items: Items, options: Options) -> Matrix:
        gram = items.gram.astype(np.float64)
        if options["side_weight"]:
            gram += options["side_weight"] * items.kernel.between(items.warm, items.warm, SIDE_KERNEL)
        return leave_one_out_weights(gram, options["penalty"])

    def cold_weights(self, items: Items, rows: Rows, options: Options) -> Matrix:
        return predicted_from_content(items, rows, options)
