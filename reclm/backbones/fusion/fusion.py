"""Fuse ids, item texts, histories and profiles into the initial user and item vectors of a network.

In: the training data of one snapshot and a variant. Out: a module whose outputs are the vectors that every network
starts from, and item biases. A vector is the sum of what is known of an entity: its id embedding (warm ones only), the
content tower over an item's text, the encoded history of a user, a tower over its profile (RecLM, arXiv 2412.19302,
section 3.1). While training, the ids of a random share of items are withheld (Volkovs et al., "DropoutNet", NIPS 2017),
so that their towers learn to serve unseen items. User ids are not withheld: users who come later are folded in
(`fold_in.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reclm.backbones.features import Matrix
from reclm.backbones.fusion.encoder import EntityEncoder
from reclm.backbones.fusion.inputs import content_features, existing, profiles_of, whitened, with_flags
from reclm.backbones.fusion.matched_start import EncodedText, start_matched
from reclm.backbones.fusion.popularity import split_popularity
from reclm.backbones.fusion.recipe import INITIAL_SCALE
from reclm.dataset import TrainingData, Variant
from reclm.settings.recommenders import FusionSettings


class Fusion(nn.Module):
    """Initial vectors of users (n_users, dim) and items (n_items, dim), and item biases (n_items,).

    A warm item's bias starts at the log of its popularity, split into what a ridge regression predicts from its content
    (or its profile, where there is no content) and the rest, which belongs to its id. So a cold item starts at its
    predicted popularity. `score_scale` is the factor by which the network multiplies scores.
    """

    bias_features: Tensor

    def __init__(
        self,
        data: TrainingData,
        variant: Variant,
        dim: int,
        settings: FusionSettings,
        seed: int,
        score_scale: float = 1.0,
    ) -> None:
        super().__init__()
        warm_users = np.asarray(data.interactions.getnnz(axis=1) > 0).ravel()
        user_profile, item_profile = profiles_of(data, variant, seed)
        content, item_profiles = content_features(data), whitened(item_profile, data.warm_items)
        user_profiles = whitened(user_profile, warm_users)
        item_inputs = existing(content=with_flags(content), item_profile=with_flags(item_profiles))
        user_inputs = existing(user_profile=with_flags(user_profiles))
        user_text, history = None, None
        if user_profile is not None and user_profiles and user_profiles[0].shape[1]:
            width = user_profiles[0].shape[1]
            user_text = EncodedText(user_inputs, "user_profile", user_profile, warm_users, width)
        if data.item_content is not None and content[-1].shape[1]:
            item_text = EncodedText(item_inputs, "content", data.item_content, data.warm_items, content[-1].shape[1])
            spread = settings.matched_spread / score_scale
            history = start_matched(item_text, user_text, data.interactions, dim, spread)
        scale = INITIAL_SCALE * score_scale**-0.5
        self.users = EntityEncoder(warm_users, user_inputs, dim, settings, scale)
        self.items = EntityEncoder(data.warm_items, item_inputs, dim, settings, scale)
        self.users.history = history
        self.withheld_share = settings.id_dropout if item_inputs else 0.0
        known = item_inputs.get("content", item_inputs.get("item_profile"))
        self._start_bias(data, np.zeros((len(data.item_ids), 1), dtype=np.float32) if known is None else known.rows)

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each user or item."""
        return [self.users.ids, self.items.ids, self.own_bias]

    def weights(self) -> list[nn.Parameter]:
        """Return the parameters that all users or items share."""
        own = {id(table) for table in self.tables()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def _start_bias(self, data: TrainingData, features: Matrix) -> None:
        weights, rest = split_popularity(data, features)
        self.register_buffer("bias_features", torch.from_numpy(features), persistent=False)
        self.bias_weights = nn.Parameter(torch.from_numpy(weights))
        self.own_bias = nn.Parameter(torch.from_numpy(rest))

    def bias(self, rows: Tensor | None, withheld: Tensor | None = None) -> Tensor:
        """Return the item biases (r,) of `rows` (all when None); `withheld` (n,) marks items to treat as unseen."""
        has_id = self.items.known if withheld is None else self.items.known & ~withheld
        own, features = torch.where(has_id, self.own_bias, 0.0), self.bias_features
        if rows is not None:
            own, features = own[rows], features[rows]
        return features @ self.bias_weights + own
