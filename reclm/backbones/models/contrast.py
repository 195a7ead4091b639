"""InfoNCE, the contrastive loss of SGL and SimGCL: each row should find itself in the other view among its batch.

Source: van den Oord et al., 2018; Wu et al., "Self-supervised graph learning for recommendation", SIGIR 2021, eq. 10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_ROWS = 2048  # rows contrasted at once: the cost grows with their square


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean loss over the rows of two views (b, d), at most MAX_ROWS evenly spread ones."""
    if len(first) > MAX_ROWS:
        rows = torch.linspace(0, len(first) - 1, MAX_ROWS, device=first.device).long()
        first, second = first[rows], second[rows]
    one, other = nn.functional.normalize(first, dim=1), nn.functional.normalize(second, dim=1)
    return nn.functional.cross_entropy(one @ other.T / temperature, torch.arange(len(one), device=one.device))
