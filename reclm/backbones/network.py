"""What differs between neural backbones: the recipe, the final vectors, the score and the contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reclm.backbones.graph import BipartiteGraph
from reclm.settings.recommenders import TrainSettings

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """The constants of a network's training that decide its quality. What depends on the data set is a setting instead.

    The values below are those of matrix factorisation; each model's file names what it changes.
    """

    score_scale: float = 1.0
    """Factor of the score. A larger one makes the softmax sharper, so that vectors of small spread can fit it."""
    uses_bias: bool = True
    """Whether an item bias is added to the score. It carries popularity."""
    item_exponent: float = 0.5
    """Power of an item's degree that a graph divides by. A smaller one lets popular items keep more influence."""
    user_decay: float = 10.0
    """Weight decay of a user's initial vector, in units of an item's: users are in one batch an epoch, items in all."""
    user_id_decay: float = 0.0
    """Further decay of a user's id vector alone. A large one makes users consist of their neighbours and histories."""
    weight_rate: float = 0.03
    """Learning rate of network weights, in units of an id vector's: a weight moves every row, an id vector only one."""
    observed_share: float = 0.5
    """Share of known interactions that a softmax step observes, as graph edges or history; it predicts the rest."""
    max_steps: int = 24
    """Softmax steps of an epoch at most: with more users the batches grow. More steps learn faster, and take longer."""
    max_candidates: int | None = None
    """Items that a softmax step scores at most, where that is less than `train.max_candidates`: a limit on time."""


class Network(nn.Module):
    """A network over initial vectors. This one scores by inner product; subclasses say what the final vectors are."""

    uses_graph = False
    """Whether final vectors depend on the interactions of neighbours."""
    recipe = Recipe()

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the final vectors of `user_rows` (b, d) and `item_rows` (c, d), from the initial vectors of all."""
        raise NotImplementedError

    def score(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        """Return the scores (b, c) of final vectors `users` (b, d) and `items` (c, d) with item biases (c,)."""
        return users @ items.T + bias

    def score_pairs(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        """Return the scores (b,) of row-wise pairs."""
        return (users * items).sum(dim=1) + bias

    def contrast(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, batch_users: Rows, batch_items: Rows
    ) -> Tensor | None:
        """Return a contrastive loss over the users and items of a batch; None where a model has none."""
        return None

    def tables(self, users: Tensor, items: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is stored of final vectors: (n_users, w) and (n_items, w), the last columns ones and biases."""
        return torch.cat([users, torch.ones_like(users[:, :1])], 1), torch.cat([items, bias.unsqueeze(1)], 1)
