"""NCF, neural collaborative filtering: matrix factorisation beside a multilayer perceptron.

ŷ_ui = hᵀ [ p_u ⊙ q_i ; φ(W₂ φ(W_u p_u + W_i q_i + b₁) + b₂) ] + b_i, φ = ReLU (He et al., "Neural collaborative
filtering", WWW 2017, eq. 12, NeuMF). The first layer over the joined vector [p_u ; q_i] is the sum of one product a
user and one an item, so both are computed once and stored; only the rest is computed for each pair. One pair of initial
vectors feeds both branches, each through its own linear map.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from reclm.backbones.features import Matrix
from reclm.backbones.graph import BipartiteGraph
from reclm.backbones.models.neural import NeuralBackbone
from reclm.backbones.network import Network, Recipe
from reclm.settings.recommenders import TrainSettings

RECIPE = Recipe(max_candidates=512)
"""Every pair costs a perceptron, so a softmax step scores fewer items."""
HIDDEN_DIVISOR = 4
"""The hidden layers are this many times narrower than the vectors. Wider ones take longer, and rank no better."""
MIN_HIDDEN = 8
"""Width of the hidden layers at least."""
PAIR_BLOCK = 30_000  # pairs scored at once: the hidden layer of a block stays in the processor's cache


class NCFNetwork(Network):
    """Final vectors are [GMF vector ; first-layer half of the MLP], (n, dim + hidden)."""

    recipe = RECIPE

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__(settings)
        dim, hidden = settings.dim, max(settings.dim // HIDDEN_DIVISOR, MIN_HIDDEN)
        self.user_half = nn.Linear(dim, hidden)
        self.item_half = nn.Linear(dim, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.product_weight = nn.Parameter(torch.ones(dim))
        self.deep_weight = nn.Parameter(torch.randn(hidden) * 0.1)

    @property
    def width(self) -> int:
        """The length of a final vector."""
        return self.settings.dim + self.second.in_features

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weighted = users * self.product_weight
        return torch.cat([weighted, self.user_half(users)], 1), torch.cat([items, self.item_half(items)], 1)

    def score(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        dim = self.settings.dim
        joined = users[:, None, dim:] + items[None, :, dim:]
        return users[:, :dim] @ items[:, :dim].T + self._deep(joined) + bias

    def score_pairs(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        dim = self.settings.dim
        shallow = (users[:, :dim] * items[:, :dim]).sum(dim=1)
        return shallow + self._deep(users[:, dim:] + items[:, dim:]) + bias

    def _deep(self, joined: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(joined))) @ self.deep_weight


class NCF(NeuralBackbone):
    """Generalised matrix factorisation beside a multilayer perceptron."""

    name: ClassVar[str] = "ncf"
    inner_product: ClassVar[bool] = False
    validation_users = 1000

    def network(self) -> Network:
        return NCFNetwork(self.train)

    @torch.no_grad()
    def _product(self, network: Network, users: Matrix, items: Matrix) -> Matrix:
        assert isinstance(network, NCFNetwork)
        device = next(network.parameters()).device
        user_rows, item_rows = (torch.from_numpy(table).to(device) for table in (users, items))
        size = max(PAIR_BLOCK // max(len(item_rows), 1), 1)
        own = network.width  # further columns are those of the content prior, whose score is their inner product
        blocks = [
            network.score(block[:, :own], item_rows[:, :own], item_rows[:, -1]) for block in user_rows.split(size)
        ]
        prior: Matrix = users[:, own:-1] @ items[:, own:-1].T
        return torch.cat(blocks).cpu().numpy() + prior if blocks else prior
