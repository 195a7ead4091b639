"""LightGCN: vectors are averaged over the layers of a graph convolution without weights.

E⁽ˡ⁺¹⁾ = Â E⁽ˡ⁾,  final E = mean of E⁽⁰⁾ … E⁽ᴸ⁾,  ŷ_ui = e_uᵀ e_i (He et al., "LightGCN: simplifying and powering graph
convolution network for recommendation", SIGIR 2020, eq. 7-11), here with an item bias. An item without edges keeps
E⁽⁰⁾, undivided (see `graph.py`). In training the withheld items are such items, so E⁽⁰⁾ learns to serve cold ones.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from reclm.backbones.graph import BipartiteGraph, propagate
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.network import Network, Recipe
from reclm.settings.recommenders import TrainSettings

SOFTMAX_RECIPE = Recipe(score_scale=20.0, item_exponent=0.25, user_id_decay=100.0)
"""Averaged vectors spread little, so the score is scaled up; popular items keep more influence than in the paper; and
user id vectors are almost switched off, because beside the neighbours' vectors they only memorise."""
PUBLISHED_RECIPE = Recipe(uses_bias=False, user_id_decay=100.0)
"""With `train.loss=bpr`: the published model, without an item bias. `user_id_decay` acts in softmax steps alone."""


class GraphNetwork(Network):
    """What the three graph models share: the recipe of each loss and the propagation over the graph."""

    uses_graph = True
    include_first = True
    """Whether the average over layers includes the initial vectors."""

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__(settings)
        self.recipe = SOFTMAX_RECIPE if settings.loss == "softmax" else PUBLISHED_RECIPE

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        users, items = self.propagated(users, items, graph, user_rows, item_rows)
        return users * self.recipe.score_scale, items

    def propagated(
        self,
        users: Tensor,
        items: Tensor,
        graph: BipartiteGraph,
        user_rows: Tensor | None,
        item_rows: Tensor | None,
        noise: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean over the graph's layers for `user_rows` and `item_rows` (all when None)."""
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
