"""LightGCN (He et al., "LightGCN: simplifying and powering graph convolution network for recommendation", SIGIR 2020,
eq. 7-11):  E⁽ˡ⁺¹⁾ = Â E⁽ˡ⁾,  final E = mean of E⁽⁰⁾ … E⁽ᴸ⁾,  ŷ_ui = e_uᵀ e_i, here with an item bias. An item without
edges keeps E⁽⁰⁾, undivided (see `graph.py`); in training the withheld items are such items, so E⁽⁰⁾ learns to serve.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from reclm.backbones.graph import BipartiteGraph, propagate
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.trainer import Network
from reclm.settings.recommenders import TrainSettings


class GraphNetwork(Network):
    """What the three graph models share: the operator of their propagation.

    Under the softmax loss items are normalised by a milder power of their degree and the score is sharpened; both were
    chosen on the validation slice of real logs. Under `bpr` it is the published model, without a bias.
    """

    uses_graph = True
    extra_id_decay = 100.0  # a user is who their neighbours say; an id vector beside them memorises
    include_first = True

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__(settings)
        self.uses_bias = settings.loss == "softmax"
        self.item_exponent, self.sharpness = (0.25, 20.0) if self.uses_bias else (0.5, 1.0)

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        users, items = self.propagated(users, items, graph, user_rows, item_rows)
        return users * self.sharpness, items

    def propagated(
        self,
        users: Tensor,
        items: Tensor,
        graph: BipartiteGraph,
        user_rows: Tensor | None,
        item_rows: Tensor | None,
        noise: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The mean over graph layers, of the rows asked for."""
        return propagate(
            users,
            items,
            graph,
            self.settings.layers,
            include_first=self.include_first,
            noise=noise,
            user_rows=user_rows,
            item_rows=item_rows,
        )


class LightGCN(NeuralBackbone):
    """Graph convolution without weights."""

    name: ClassVar[str] = "lightgcn"

    def network(self) -> Network:
        return GraphNetwork(self.train)
