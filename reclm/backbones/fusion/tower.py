"""A tower turns what is known of an entity, its text or its profile, into a vector."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reclm.backbones.fusion.inputs import TowerInput
from reclm.backbones.fusion.recipe import INITIAL_SCALE, MATCHED_SCALE
from reclm.settings.recommenders import FusionSettings


class Tower(nn.Module):
    """Features (n, width) to vectors (n, dim): one hidden layer beside a linear path.

    In training a random `hidden_share` of the rows is treated as missing. In use every row is the mean over that
    chance, as after dropout (Srivastava et al., JMLR 2014), because the rest of the model learned beside a tower that
    was present only so often.
    """

    features: Tensor
    missing: Tensor

    def __init__(self, features: TowerInput, dim: int, settings: FusionSettings, hidden_share: float) -> None:
        super().__init__()
        width = features.rows.shape[1]
        self.hidden_share = hidden_share
        self.register_buffer("features", torch.from_numpy(features.rows), persistent=False)
        self.register_buffer("missing", torch.from_numpy(features.missing), persistent=False)
        self.drop = nn.Dropout(settings.dropout)
        self.hidden = nn.Linear(width, settings.hidden)
        self.output = nn.Linear(settings.hidden, dim)
        self.direct = nn.Linear(width, dim, bias=False)
        scale = INITIAL_SCALE if features.start is None else MATCHED_SCALE
        nn.init.normal_(self.output.weight, std=scale * settings.hidden**-0.5)
        nn.init.zeros_(self.output.bias)
        if features.start is None:
            nn.init.normal_(self.direct.weight, std=INITIAL_SCALE * width**-0.5)
        else:
            self.direct.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(features.start.T)))

    def forward(self, rows: Tensor | None) -> Tensor:
        """Return the vectors (r, dim) of `rows` (all when None)."""
        features = self.features if rows is None else self.features[rows]
        if self.training and self.hidden_share:
            hidden = torch.rand(len(features), 1, device=features.device) < self.hidden_share
            features = torch.where(hidden, self.missing, features)
        vectors = self._vectors(features)
        if self.training or not self.hidden_share:
            return vectors
        return torch.lerp(vectors, self._vectors(self.missing), self.hidden_share)

    def _vectors(self, features: Tensor) -> Tensor:
        hidden = self.drop(nn.functional.gelu(self.hidden(features)))
        return self.output(hidden) + self.direct(features)
