"""Encode a user's history by the texts of the items in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reclm.backbones.features import Matrix
from reclm.backbones.fusion.recipe import HISTORY_SHRINKAGE, MIN_LENGTH
from reclm.backbones.graph import scipy_csr


@dataclass(frozen=True)
class HistorySums:
    """Histories as the encoder reads them: the sums of their items' texts (r, w), and their numbers of items (r, 1)."""

    sums: Tensor
    count: Tensor

    def without(self, rows: Tensor, texts: Tensor) -> HistorySums:
        """Return these histories less single items: `texts` (n, w), each taken from the history `rows` (n,)."""
        ones = torch.ones(len(rows), 1, device=rows.device)
        return HistorySums(self.sums.index_add(0, rows, texts, alpha=-1), self.count.index_add(0, rows, ones, alpha=-1))


class HistoryEncoder(nn.Module):
    """The direction of the sum of a history's item texts, scaled by n / (n + HISTORY_SHRINKAGE), through a linear map.

    The map starts as `start` (w, dim). `texts` (n_items, w) are the leading coordinates of centred text vectors, zeros
    where an item has none.
    """

    texts: Tensor
    sums: Tensor
    count: Tensor

    def __init__(self, texts: Matrix, start: Matrix, interactions: sparse.csr_matrix) -> None:
        super().__init__()
        width = texts.shape[1]
        self.scale = width**0.5  # to entries of unit mean square, as a tower's inputs have
        self.register_buffer("texts", torch.from_numpy(texts), persistent=False)
        whole = self.read(scipy_csr(interactions))
        self.register_buffer("sums", whole.sums, persistent=False)
        self.register_buffer("count", whole.count, persistent=False)
        self.map = nn.Linear(width, start.shape[1], bias=False)
        self.map.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(start.T) / self.scale).float())

    def read(self, observed: Tensor) -> HistorySums:
        """Return the sums of the histories in a CSR matrix (r, n_items) of ones and zeros."""
        return HistorySums(observed @ self.texts, observed @ torch.ones(observed.shape[1], 1, device=observed.device))

    def whole(self, rows: Tensor | None) -> HistorySums:
        """Return the complete histories of `rows` (all users when None): for use after training, never in a step."""
        return HistorySums(self.sums, self.count) if rows is None else HistorySums(self.sums[rows], self.count[rows])

    def forward(self, read: HistorySums) -> Tensor:
        """Return vectors (r, dim)."""
        direction = nn.functional.normalize(read.sums, dim=1, eps=MIN_LENGTH) * (
            read.count / (read.count + HISTORY_SHRINKAGE)
        )
        return self.map(direction * self.scale)
