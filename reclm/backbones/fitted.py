"""What fitting a backbone leaves behind: user and item vectors, id vectors, network parameters, and what was selected.

These are plain data, so that models, storage and serving can share them without knowing each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.features import Matrix
from reclm.backbones.fold_in import FoldIn
from reclm.dataset import EvaluationSetting


@dataclass(frozen=True)
class Vectors:
    """Final vectors: `users` (n_users, width), `items` (n_items, width). The last column is 1 and the item's bias.

    `unseen` (n_items, width) are those that the items would have if nobody had touched them: what their texts and
    profiles alone say, from which the place of an item that comes later is learned. None where nothing is said.
    """

    users: Matrix
    items: Matrix
    unseen: Matrix | None = None


@dataclass
class Fitted:
    """All that fitting leaves behind. `known` is (n_users, n_items); id vectors are NaN where an entity has none.

    `networks` maps parameter names to arrays; none of them has a row that belongs to a user or an item. `fold_in` places
    people who come later; None until `learn_to_fold_in`.
    """

    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    known: sparse.csr_matrix
    vectors: dict[EvaluationSetting, Vectors]
    user_id_vectors: Matrix
    item_id_vectors: Matrix
    description: dict[str, Any]
    networks: dict[str, NDArray[Any]] = field(default_factory=dict)
    fold_in: FoldIn | None = None

    def __post_init__(self) -> None:
        self.user_position = {user: row for row, user in enumerate(self.user_ids.tolist())}
        self.item_position = {item: row for row, item in enumerate(self.item_ids.tolist())}


class ColdStart(NamedTuple):
    """Where cold items stand: the kernel's `share` of their vectors, and whether it reads all that is known of them or,
    without `profiles`, texts alone."""

    share: float = 0.0
    profiles: bool = True
