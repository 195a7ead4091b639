"""What fitting a backbone leaves behind: user and item vectors, id vectors, network parameters, and what was selected.

These are plain data, so that models, storage and serving can share them without knowing each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.features import Matrix
from reclm.backbones.fold_in import FoldIn
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting

CurveRow = dict[str, Any]
"""One row of a loss or validation curve: epoch, loss, setting, metric, value."""
Options = Mapping[str, float]
"""Hyperparameters that validation chose, by name."""


@dataclass(frozen=True)
class Vectors:
    """Final vectors: `users` (n_users, width), `items` (n_items, width). The last column is 1 and the item's bias.

    Of a linear model, whose user vectors are histories, `users` is that last column alone; ask `Backbone.user_vectors`.

    `unseen` (n_items, width) are the vectors that the items would have without any interaction: from their texts and
    profiles alone. New items are added by learning from these. None where a model has no texts and no profiles.
    """

    users: Matrix
    items: Matrix
    unseen: Matrix | None = None


class ColdStart(NamedTuple):
    """How a network's cold items get their vectors: partly from kernel ridge regression, the rest from their tower.

    `kernel_share` is the weight of the kernel ridge prediction, 0 to 1. The kernel compares item texts, and with
    `reads_profiles` item profiles too. `shift` raises all cold items beside the warm ones, in standard deviations of
    the warm items' mean scores. See `cold_start.py`.
    """

    kernel_share: float = 0.0
    reads_profiles: bool = True
    shift: float = 0.0


class TriedColdStart(NamedTuple):
    """A cold start that validation tried, with its Recall@20 and NDCG@20."""

    cold_start: ColdStart
    recall: float
    ndcg: float

    @property
    def value(self) -> float:
        """What validation compares."""
        return self.recall + self.ndcg


@dataclass(frozen=True)
class Selection:
    """What validation chose for a model: the result of `Backbone.select` and the input of `Backbone.refit`.

    `epochs` holds the number of epochs for each evaluation setting; a model that is not trained in epochs tries several
    `options` instead, and `epochs` holds the number of the best trial. `options` holds the chosen hyperparameters by
    name for each setting, and `cold_start` how cold items get their vectors in each; both lack the settings in which a
    model has no such choice. `curve` has one row per epoch (or trial), setting and validation metric. `tried` are the
    cold starts that were compared where warm and cold items are ranked together.
    """

    epochs: Mapping[EvaluationSetting, int]
    cold_start: Mapping[EvaluationSetting, ColdStart] = field(default_factory=dict)
    curve: Sequence[CurveRow] = ()
    options: Mapping[EvaluationSetting, Options] = field(default_factory=dict)
    tried: Sequence[TriedColdStart] = ()

    @classmethod
    def of_epochs(cls, epochs: int, cold_start: ColdStart | None = None) -> Selection:
        """Return a selection made by hand: the same epochs and the same cold start in every evaluation setting."""
        chosen = {} if cold_start is None else dict.fromkeys(EVALUATION_SETTINGS, cold_start)
        return cls(dict.fromkeys(EVALUATION_SETTINGS, epochs), chosen)

    def validation(self, metric: str) -> dict[EvaluationSetting, float | None]:
        """Return the metric at the chosen epoch of each setting; None where no validation task had that setting."""
        measured = {(row["setting"], row["metric"], row["epoch"]): row["value"] for row in reversed(self.curve)}
        return {setting: measured.get((setting, metric, epoch)) for setting, epoch in self.epochs.items()}


def curve_rows(
    epoch: int, setting: EvaluationSetting, measured: TriedColdStart, loss: float = float("nan")
) -> list[CurveRow]:
    """Return the rows of a curve for what was measured in one setting at one epoch."""
    return [
        {"epoch": epoch, "loss": loss, "setting": setting, "metric": metric, "value": getattr(measured, metric)}
        for metric in ("recall", "ndcg")
    ]


@dataclass
class Fitted:
    """All that fitting leaves behind. `known` is (n_users, n_items); id vectors are NaN where an entity has none.

    `description` holds variant, seed, snapshot, and what was selected. `networks` maps parameter names to arrays; none
    of them has a row that belongs to one user or item. `fold_in` gives vectors to users who come later; None until
    `Backbone.learn_to_fold_in`.
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
