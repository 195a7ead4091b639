"""BiasMF: matrix factorisation with item biases.

ŷ_ui = b_i + p_uᵀ q_i (Koren, Bell & Volinsky, "Matrix factorization techniques for recommender systems", Computer 2009,
eq. 4; a user's own bias cancels in a ranking). Its recipe is the default one of `network.py`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from reclm.backbones.graph import BipartiteGraph
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.network import Network


class BiasMFNetwork(Network):
    """The network that changes nothing: final vectors are the initial ones."""

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return users, items


class BiasMF(NeuralBackbone):
    """Matrix factorisation with item biases."""

    name: ClassVar[str] = "biasmf"

    def network(self) -> Network:
        return BiasMFNetwork(self.train)
