"""SGL, self-supervised graph learning: LightGCN with a contrastive loss between two views of each node.

The views are computed on two graphs that have lost random edges (Wu et al., "Self-supervised graph learning for
recommendation", SIGIR 2021, eq. 4, 10-12, edge dropout). Its recipe is LightGCN's; `train.edge_dropout`,
`train.contrast_weight` and `train.contrast_temperature` are settings.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from reclm.backbones.graph import BipartiteGraph
from reclm.backbones.models.contrast import info_nce
from reclm.backbones.models.lightgcn import GraphNetwork
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.network import Network, Rows


class SGLNetwork(GraphNetwork):
    """LightGCN with edge-dropout views."""

    def contrast(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, batch_users: Rows, batch_items: Rows
    ) -> Tensor:
        user_rows, item_rows = (torch.from_numpy(part).to(users.device) for part in (batch_users, batch_items))
        share = self.settings.edge_dropout
        first, second = (self.propagated(users, items, graph.thinned(share), user_rows, item_rows) for _ in range(2))
        views = zip(first, second, strict=True)
        return torch.stack([info_nce(one, other, self.settings.contrast_temperature) for one, other in views]).sum()


class SGL(NeuralBackbone):
    """LightGCN with contrastive views of a thinned graph."""

    name: ClassVar[str] = "sgl"

    def network(self) -> Network:
        return SGLNetwork(self.train)
