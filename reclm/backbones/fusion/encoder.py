"""Encode users or items: id embedding, plus a tower for each kind of feature, plus the history of a user."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reclm.backbones.fusion.history import HistoryEncoder, HistorySums
from reclm.backbones.fusion.inputs import TowerInput
from reclm.backbones.fusion.recipe import HIDDEN_SHARE
from reclm.backbones.fusion.tower import Tower
from reclm.settings.recommenders import FusionSettings


class EntityEncoder(nn.Module):
    """Initial vectors of all users, or of all items: the sum of what is known of each.

    `known` (n,) marks the entities that have an id embedding; the others share one learned vector in its place.
    `history` is set for users whose items have texts.
    """

    known: Tensor

    def __init__(
        self, known: NDArray[np.bool_], inputs: dict[str, TowerInput], dim: int, settings: FusionSettings, scale: float
    ) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.all_known = bool(known.all())
        self.ids = nn.Parameter(torch.randn(len(known), dim) * scale)
        self.unknown = nn.Parameter(torch.zeros(dim))
        self.towers = nn.ModuleDict(
            {kind: Tower(part, dim, settings, HIDDEN_SHARE[kind]) for kind, part in inputs.items()}
        )
        self.history: HistoryEncoder | None = None

    def forward(
        self, rows: Tensor | None, withheld: Tensor | None = None, history: HistorySums | None = None
    ) -> Tensor:
        """Return the vectors (r, dim) of `rows` (all when None).

        `withheld` (n,) marks entities to treat as unseen. `history` is the part of the histories to read; all of it
        when None, which raises ValueError in a training step, because the step predicts a part of it.
        """
        has_id = self.known if withheld is None else self.known & ~withheld
        ids, has_id = (self.ids, has_id) if rows is None else (self.ids[rows], has_id[rows])
        all_known = withheld is None and self.all_known
        vectors = ids if all_known else torch.where(has_id.unsqueeze(1), ids, self.unknown)
        for tower in self.towers.values():
            vectors = vectors + tower(rows)
        if self.history is not None:
            if self.training and history is None:
                raise ValueError("a training step must say which part of the histories it observes")
            vectors = vectors + self.history(self.history.whole(rows) if history is None else history)
        return vectors
