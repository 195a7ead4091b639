"""SimGCL: LightGCN without its first layer, with a contrastive loss between two views of added noise.

Final E = mean of E⁽¹⁾ … E⁽ᴸ⁾, without E⁽⁰⁾, plus InfoNCE between two views whose layers are perturbed by small random
noise instead of dropped edges (Yu et al., "Are graph augmentations necessary? Simple graph contrastive learning for
recommendation", SIGIR 2022, eq. 7-10). A node without edges keeps E⁽⁰⁾, as in `lightgcn.py`. Its recipe is LightGCN's;
`train.noise`, `train.contrast_weight` and `train.contrast_temperature` are settings.
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


class SimGCLNetwork(GraphNetwork):
    """The mean over graph layers 1 to L, with noise views."""

    include_first = False

    def contrast(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, batch_users: Rows, batch_items: Rows
    ) -> Tensor:
        user_rows, item_rows = (torch.from_numpy(part).to(users.device) for part in (batch_users, batch_items))
        first, second = (
            self.propagated(users, items, graph, user_rows, item_rows, self.settings.noise) for _ in range(2)
        )
        views = zip(first, second, strict=True)
        return torch.stack([info_nce(one, other, self.settings.contrast_temperature) for one, other in views]).sum()


class SimGCL(NeuralBackbone):
    """LightGCN with contrastive views of added noise."""

    name: ClassVar[str] = "simgcl"

    def network(self) -> Network:
        return SimGCLNetwork(self.train)
