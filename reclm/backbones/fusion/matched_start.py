"""Start training with texts matched: the same words get the same vector on the user and on the item side.

Item texts, histories of them and user profiles are read by one text encoder, so they can be compared before anything is
learned. A log of a few interactions a user cannot teach that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.features import Matrix, landmarks, present, unit_length
from reclm.backbones.fusion.history import HistoryEncoder
from reclm.backbones.fusion.inputs import TowerInput
from reclm.backbones.fusion.recipe import HISTORY_WIDTH, MIN_SPREAD, PROFILE_SPREAD, SPREAD_SAMPLE


@dataclass(frozen=True)
class EncodedText:
    """Encoder vectors `rows` (n, d), NaN where missing, of the texts that the tower `kind` of `inputs` reads.

    The tower's last block of features is these vectors, whitened to `width` columns. `warm` (n,) marks entities with
    interactions.
    """

    inputs: dict[str, TowerInput]
    kind: str
    rows: Matrix
    warm: NDArray[np.bool_]
    width: int

    def centred(self) -> NDArray[np.float64]:
        """Return the rows at unit length, less the mean of the warm ones; zeros where missing."""
        rows, exists = unit_length(self.rows).astype(np.float64), present(self.rows)
        fitted = exists & self.warm
        mean = rows[fitted].mean(axis=0) if fitted.any() else np.zeros(rows.shape[1])
        return np.where(exists[:, None], rows - mean, 0.0)

    def start_at(self, target: NDArray[np.float64]) -> None:
        """Start the tower with the linear map of its last block that is nearest to `target` (n, dim).

        Other towers of the same entities start at zero, so as not to disturb it.
        """
        features = self.inputs[self.kind]
        flag = features.rows.shape[1] - 1
        block = slice(flag - self.width, flag)
        fitted = present(self.rows) & self.warm
        weights, *_ = np.linalg.lstsq(features.rows[fitted, block].astype(np.float64), target[fitted], rcond=1e-6)
        start = np.zeros((features.rows.shape[1], target.shape[1]), dtype=np.float32)
        start[block] = weights
        self.inputs[self.kind] = replace(features, start=start)
        for kind, other in self.inputs.items():
            if other.start is None:
                zeros = np.zeros((other.rows.shape[1], target.shape[1]), dtype=np.float32)
                self.inputs[kind] = replace(other, start=zeros)


def start_matched(
    items: EncodedText, users: EncodedText | None, interactions: sparse.csr_matrix, dim: int, spread: float
) -> HistoryEncoder | None:
    """Return the history encoder, started with the same projection of texts as the towers, which it starts as well.

    The projection is on the `dim` leading directions of the warm items' texts. `spread` is the standard deviation of
    the scores that long histories start with; profiles, where a step shows them, start with PROFILE_SPREAD of it. With
    0 towers start at random and the history map at zero. Returns None where all texts are alike. Raises ValueError
    where user and item texts come from different encoders, because these cannot match.
    """
    if users is not None and users.rows.shape[1] != items.rows.shape[1]:
        raise ValueError(f"profiles of {users.rows.shape[1]} and texts of {items.rows.shape[1]} columns: two encoders")
    rows = items.centred()
    directions = np.linalg.eigh(rows[items.warm].T @ rows[items.warm])[1][:, ::-1]
    basis = np.hstack([directions[:, :dim], np.zeros((rows.shape[1], max(dim - rows.shape[1], 0)))])
    item_vectors = rows[items.warm] @ basis
    sampled = _sample(interactions.getnnz(axis=1) > 0)
    histories = unit_length(interactions[sampled] @ rows)
    deviation = _deviation(histories[histories.any(axis=1)] @ basis, item_vectors)
    if deviation < MIN_SPREAD:
        return None
    gain = np.sqrt(spread / deviation)
    if spread:
        items.start_at(rows @ basis * gain)
    if spread and users is not None:
        user_vectors = users.centred() @ basis
        of_profiles = _deviation(user_vectors[_sample(users.warm & present(users.rows))], item_vectors)
        users.start_at(user_vectors * PROFILE_SPREAD * spread / gain / max(of_profiles, MIN_SPREAD))
    wide = directions[:, :HISTORY_WIDTH]
    return HistoryEncoder((rows @ wide).astype(np.float32), (wide.T @ basis * gain).astype(np.float32), interactions)


def _sample(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """At most SPREAD_SAMPLE positions of True, evenly spread over them."""
    return landmarks(np.flatnonzero(rows).astype(np.int64), SPREAD_SAMPLE)


def _deviation(users: NDArray[np.floating], items: NDArray[np.float64]) -> float:
    return float((users @ items.T).std()) if len(users) and len(items) else 0.0
