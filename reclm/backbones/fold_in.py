"""Give vectors to users on whom a backbone was not fitted, without training it again.

In: a user's history and profile. Out: a user vector in the space of a fitted backbone. It is predicted by a ridge
regression from the vectors of the history's items and from the profile's embedding; the regression learns from the
users on whom the backbone was fitted. Each of them is shown three times: with the whole history, with a few items of it
(as a new user has), and with the profile alone. For matrix factorisation the closed form is known as folding in (Hu,
Koren & Volinsky 2008, eq. 4); this one also works for graphs and networks, and for users without a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.features import Matrix

SHRINKAGE = 2.0
"""Interactions at which a history counts half. A larger value trusts short histories less."""
SHORT_HISTORY = 5
"""Items at most of the short histories that the regression learns from."""
MAX_USERS = 20_000
"""Users at most that the regression learns from: a limit on time."""
HELD_OUT_EVERY = 10
"""Every tenth of these users is held out to choose the penalty."""
PENALTIES = np.logspace(-1, 5, 13)
"""Ridge penalties tried, in units of the features' mean squares."""
SUMMARY_COLUMNS = 4  # a constant, whether there is a history, its weight, and the mean bias of its items
CHUNK = 4096


@dataclass(frozen=True)
class FoldIn:
    """The learned map: `weights` (features, width - 1) and the mean profile `centre` (dim,), empty without profiles."""

    weights: Matrix
    centre: Matrix

    def arrays(self) -> dict[str, Matrix]:
        """Return the arrays to store, by name."""
        return {"weights": self.weights, "centre": self.centre}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float32]]) -> FoldIn:
        """Return the map that was stored as `arrays`."""
        return cls(arrays["weights"], arrays["centre"])

    def vectors(self, items: Matrix, histories: sparse.csr_matrix, profiles: Matrix | None = None) -> Matrix:
        """Return the vectors (n, width) of users, from their histories and profiles.

        `histories` (n, n_items) holds ones; `profiles` is (n, dim), NaN where there is none; `items` (n_items, width)
        are the backbone's final vectors. The last column is 1, as in its user vectors.
        """
        return self._of(_features(*_summed(items, histories), profiles, self.centre))

    def vector(self, items: Matrix, history: NDArray[np.int64], profile: Matrix | None = None) -> Matrix:
        """Return the vector (width,) of one user, by the item positions of the history and a profile (dim,)."""
        sums = items[history].sum(axis=0, keepdims=True, dtype=np.float32)
        count = np.full((1, 1), len(history), dtype=np.float32)
        vector: Matrix = self._of(_features(sums, count, None if profile is None else profile[None], self.centre))[0]
        return vector

    def _of(self, features: Matrix) -> Matrix:
        rows = features @ self.weights
        return np.hstack([rows, np.ones((len(rows), 1), dtype=np.float32)]).astype(np.float32)


def learn(users: Matrix, items: Matrix, known: sparse.csr_matrix, profiles: Matrix | None, seed: int) -> FoldIn:
    """Learn to predict final `users` (n_users, width) from what is `known` (n_users, n_items) and their `profiles`."""
    random = np.random.default_rng([seed, 11])
    warm = np.flatnonzero(known.getnnz(axis=1))
    if len(warm) > MAX_USERS:
        warm = np.sort(random.choice(warm, MAX_USERS, replace=False))
    centre = np.zeros(0, dtype=np.float32)
    if profiles is not None:
        there = profiles[np.isfinite(profiles).all(axis=1)]
        centre = there.mean(axis=0) if len(there) else np.zeros(profiles.shape[1], dtype=np.float32)
    width = users.shape[1] - 1
    size = SUMMARY_COLUMNS + 2 * (items.shape[1] - 1) + (len(centre) + 1 if len(centre) else 0)
    gram, moment = np.zeros((2, size, size)), np.zeros((2, size, width))
    held = []
    for start in range(0, len(warm), CHUNK):
        some = warm[start : start + CHUNK]
        histories, targets = known[some].tocsr(), users[some, :-1]
        held_out = (np.arange(start, start + len(some)) % HELD_OUT_EVERY == 0).astype(int)
        for history, profile in _views(histories, None if profiles is None else profiles[some], random):
            rows = _features(*_summed(items, history), profile, centre).astype(np.float64)
            for part in (0, 1):
                mine = held_out == part
                gram[part] += rows[mine].T @ rows[mine]
                moment[part] += rows[mine].T @ targets[mine]
            held.append((rows[held_out == 1], targets[held_out == 1]))
    scale = np.sqrt(np.maximum(np.diag(gram[0]) / max(len(warm), 1), 1e-12))
    values, basis = np.linalg.eigh(gram[0] / np.outer(scale, scale))
    along = basis.T @ (moment[0] / scale[:, None])
    held_rows, held_targets = (np.concatenate([pair[part] for pair in held]) for part in (0, 1))

    def error(penalty: float) -> float:
        weights = (basis / (values.clip(0) + penalty)) @ along / scale[:, None]
        return float(np.square(held_rows @ weights - held_targets).mean()) if len(held_targets) else 0.0

    best = min(PENALTIES, key=error)
    both = (gram.sum(axis=0) / np.outer(scale, scale)) + best * np.eye(size)
    weights = np.linalg.solve(both, moment.sum(axis=0) / scale[:, None]) / scale[:, None]
    return FoldIn(weights.astype(np.float32), centre.astype(np.float32))


def _views(
    histories: sparse.csr_matrix, profiles: Matrix | None, random: np.random.Generator
) -> list[tuple[sparse.csr_matrix, Matrix | None]]:
    """The same users with their whole history, with a few items of it, and with their profile alone."""
    few, nothing = _short_histories(histories, random), sparse.csr_matrix(histories.shape, dtype=histories.dtype)
    views: list[tuple[sparse.csr_matrix, Matrix | None]] = [(histories, None), (few, None)]
    if profiles is not None:
        views += [(histories, profiles), (few, profiles), (nothing, profiles)]
    return views


def _short_histories(histories: sparse.csr_matrix, random: np.random.Generator) -> sparse.csr_matrix:
    """One to SHORT_HISTORY items, drawn, of each history."""
    lengths = np.diff(histories.indptr)
    wanted = np.minimum(random.integers(1, SHORT_HISTORY + 1, len(lengths)), lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((random.random(histories.nnz), owner))
    position = np.arange(histories.nnz) - np.repeat(histories.indptr[:-1], lengths)
    kept = order[position < wanted[owner]]
    entries = (np.ones(len(kept), dtype=np.float32), (owner[kept], histories.indices[kept]))
    return sparse.csr_matrix(entries, shape=histories.shape)


def _features(sums: Matrix, count: Matrix, profiles: Matrix | None, centre: Matrix) -> Matrix:
    """Features (n, f) of profiles and of histories, whose items have summed vectors (n, width) and a number (n, 1).

    They are a summary of the history, the mean and the direction of its items, and the profile's difference from the
    mean profile.
    """
    n = len(sums)
    weight_of_history = count / (count + SHRINKAGE)
    mean = sums / np.maximum(count, 1)
    length = np.linalg.norm(mean[:, :-1], axis=1, keepdims=True)
    direction = mean[:, :-1] / np.where(length > 0, length, 1)
    parts = [
        np.ones((n, 1)),
        count > 0,
        weight_of_history,
        mean[:, -1:] * weight_of_history,
        mean[:, :-1] * weight_of_history,
        direction * weight_of_history,
    ]
    if len(centre):
        rows = np.full((n, len(centre)), np.nan, dtype=np.float32) if profiles is None else profiles
        there = np.isfinite(rows).all(axis=1, keepdims=True)
        parts += [np.where(there, rows - centre, 0), there]
    return np.hstack(parts).astype(np.float32)


def _summed(items: Matrix, histories: sparse.csr_matrix) -> tuple[Matrix, Matrix]:
    """The summed vectors (n, width) of each history's items, and their number (n, 1)."""
    used = np.unique(histories.indices)  # histories are short, the table of items is not
    sums = np.asarray(histories[:, used] @ np.ascontiguousarray(items[used]), dtype=np.float32)
    return sums, np.diff(histories.indptr)[:, None].astype(np.float32)
