"""BPR: matrix factorisation by Bayesian personalised ranking, from the library implicit.

max Σ ln σ(x_uᵀ y_i + b_i − x_uᵀ y_j − b_j) − λ‖Θ‖² (Rendle et al., "BPR: Bayesian personalized ranking from implicit
feedback", UAI 2009, BPR-OPT). It runs on one thread, so that one seed gives one result. Its recipe: `train.factors`,
`train.bpr_iterations`, `train.bpr_learning_rate`, `train.bpr_regularization`, and the blends of `factors.py`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import sparse

from reclm.backbones.features import Matrix
from reclm.backbones.models.factors import FactorBackbone


class BPR(FactorBackbone):
    """implicit.bpr.BayesianPersonalizedRanking, whose factors texts and profiles can predict."""

    name: ClassVar[str] = "bpr"

    def factorize(self, interactions: sparse.csr_matrix, seed: int, threads: int) -> tuple[Matrix, Matrix, Matrix]:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        train = self.train
        model = BayesianPersonalizedRanking(
            factors=train.factors,
            learning_rate=train.bpr_learning_rate,
            regularization=train.bpr_regularization,
            iterations=train.bpr_iterations,
            random_state=seed,
            num_threads=1,
        )
        model.fit(interactions.astype(np.float32), show_progress=False)
        users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
        return users[:, :-1], items[:, :-1], items[:, -1]  # implicit keeps the item bias in the last column
