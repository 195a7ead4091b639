"""ALS: weighted matrix factorisation by alternating least squares, from the library implicit.

min Σ c_ui (p_ui − x_uᵀ y_i)² + λ(Σ‖x_u‖² + Σ‖y_i‖²),  c_ui = α w_ui where u interacted with i, else 1 (Hu, Koren &
Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, eq. 3); w_ui is the weight of the
strongest event, 1 in a log without types of events. Its recipe: `train.factors`, `train.als_iterations`,
`train.als_regularization`, `train.als_alpha`, and the blends of `factors.py`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import sparse

from reclm.backbones.features import Matrix
from reclm.backbones.models.factors import FactorBackbone


class ALS(FactorBackbone):
    """implicit.als.AlternatingLeastSquares, whose factors texts and profiles can predict."""

    name: ClassVar[str] = "als"

    def factorize(self, interactions: sparse.csr_matrix, seed: int, threads: int) -> tuple[Matrix, Matrix, Matrix]:
        from implicit.cpu.als import AlternatingLeastSquares

        train = self.train
        model = AlternatingLeastSquares(
            factors=train.factors,
            regularization=train.als_regularization,
            alpha=train.als_alpha,
            iterations=train.als_iterations,
            random_state=seed,
            num_threads=threads,
        )
        model.fit(interactions.astype(np.float32), show_progress=False)
        users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
        return users, items, np.zeros(len(items), dtype=np.float32)
