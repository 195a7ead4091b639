"""SGL, self-supervised graph learning (Wu et al., "Self-supervised graph learning for recommendation", SIGIR 2021,
eq. 4, 10-12, edge dropout): LightGCN, plus InfoNCE between two views of each node, computed on two graphs that have
lost random edges.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from reclm.backbones.graph import BipartiteGraph
from reclm.backbones.models.contrast import info_nce
from reclm.backbones.models.lightgcn import GraphNetwork
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.trainer import Network, Rows


class SGLNetwork(GraphNetwork):
    """LightGCN with edge-dropout views."""

    def contrast(self, users: Tensor, items: Tensor, graph: BipartiteGraph, batch: Rows, partners: Rows) -> Tensor:
        people, things = (torch.from_numpy(part).to(users.device) for part in (batch, partners))
        share = self.settings.edge_dropout
        first, second = (self.propagated(users, items, graph.thinned(share), people, things) for _ in range(2))
        sides = zip(first, second, strict=True)
        return torch.stack([info_nce(one, other, self.settings.contrast_temperature) for one, other in sides]).sum()


class SGL(NeuralBackbone):
    """LightGCN with contrastive views of a thinned graph."""

    name: ClassVar[str] = "sgl"

    def network(self) -> Network:
        return SGLNetwork(self.train)
