"""Index-aligned arrays of one snapshot of a data set, which training and evaluation share.

A *snapshot* holds what is known at one as-of. `select` holds the train slice, less a share of items treated as cold;
models are selected on it. `final` holds train and valid; models are refitted on it, and evaluation reads the test slice
once. `serve` holds everything that is known; the champion is fitted once more on it, and is then served. An *evaluation
setting* says which items are candidates: warm ones (`full_shot`), cold ones (`zero_shot`), or both together (`mixed`),
which is what is served. Row `u` of every user array belongs to `user_ids[u]`, row `i` of every item array to
`item_ids[i]`; `item_ids` is in the order of `item_index`, which breaks ties in a ranking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # settings read the names below, and a command's --help must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray
    from scipy import sparse

MAX_ID_CHARACTERS = 512
"""Longest id of a user or item; dbt sets rows with longer ones apart (`id_too_long`), the service refuses them."""
EntityKind = Literal["user", "item"]
Snapshot = Literal["select", "final", "serve"]
EvaluationSetting = Literal["full_shot", "zero_shot", "mixed"]
Variant = Literal["base", "augment", "shuffled"]

ENTITY_KINDS: tuple[EntityKind, ...] = ("user", "item")
SNAPSHOTS: tuple[Snapshot, ...] = ("select", "final", "serve")
EVALUATION_SETTINGS: tuple[EvaluationSetting, ...] = ("full_shot", "zero_shot", "mixed")
VARIANTS: tuple[Variant, ...] = ("base", "augment", "shuffled")
SERVED: EvaluationSetting = "mixed"
"""The evaluation setting whose vectors are published and asked: warm and cold items ranked together."""


@dataclass(frozen=True)
class TrainingData:
    """Everything that a model may learn from at one snapshot.

    `interactions` is (n_users, n_items), 1.0 where the user interacted with the item before the cut-off. `weights` has
    the same entries, each the weight of the strongest event behind it, 1 without a type of event; None: all are 1.
    The feature matrices are float32 (n_rows, dim), a row of NaN where a user or item has no such feature, or None where
    the data set has none at all. `warm_items` is True for items with at least one known interaction.
    `texts[i]` is item i's title, categories and text in one string ('' when it has none).
    """

    snapshot: Snapshot
    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    interactions: sparse.csr_matrix
    texts: list[str]
    item_content: NDArray[np.float32] | None = None
    item_profile: NDArray[np.float32] | None = None
    user_profile: NDArray[np.float32] | None = None
    weights: sparse.csr_matrix | None = None

    @property
    def warm_items(self) -> NDArray[np.bool_]:
        import numpy as np

        return np.asarray(self.interactions.getnnz(axis=0) > 0).ravel()


@dataclass(frozen=True)
class EvaluationTask:
    """One ranking task at one snapshot: which of `candidates` does each user interact with after the cut-off?

    `truth` and `mask` are (n_users, n_items); masked items never appear in a user's list. `candidates` is a Boolean
    (n_items,). Users without entries in `truth` are left out.
    """

    snapshot: Snapshot
    setting: EvaluationSetting
    truth: sparse.csr_matrix
    mask: sparse.csr_matrix
    candidates: NDArray[np.bool_]

    @property
    def users(self) -> NDArray[np.int64]:
        """The positions of the users with truth, ascending."""
        import numpy as np

        return np.flatnonzero(np.diff(self.truth.indptr)).astype(np.int64)
