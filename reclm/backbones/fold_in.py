"""Vectors for people whom a backbone was not fitted on: a history and a profile come in, a user vector goes out.

Whatever the backbone, its users and items share a space, so where a person belongs in it can be told from where their items
lie: a ridge regression from the items of a history, and from the profile's embedding, to the vectors of the users that the
backbone was fitted on. Each of those teaches by all that they know, by a few of it (as one who has just come knows a few),
and by their profile alone. For matrix factorisation the closed form has a name of its own, folding in (Hu, Koren &
Volinsky 2008, eq. 4); this one also serves graphs and networks, and people without a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.features import Matrix

SHRINKAGE = 2.0  # in interactions: how many it takes until a history is half believed
FEW = 5  # items of the short histories that teach, at most
TEACHERS = 20_000  # users, at most
HELD_OUT = 10  # every tenth teacher chooses the penalty
PENALTIES = np.logspace(-1, 5, 13)
PLAIN = 4  # columns that speak of the history as a whole: a constant, whether there is one, how far believed, mean bias
CHUNK = 4096


@dataclass(frozen=True)
class FoldIn:
    """The learned map: `weights` (features, width - 1) and `centre` (profile dim,), the mean profile; () without profiles."""

    weights: Matrix
    centre: Matrix

    def arrays(self) -> dict[str, Matrix]:
        """What is to be stored, by name."""
        return {"weights": self.weights, "centre": self.centre}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float32]]) -> FoldIn:
        """The map that `arrays` stored."""
        return cls(arrays["weights"], arrays["centre"])

    def vectors(self, items: Matrix, histories: sparse.csr_matrix, profiles: Matrix | None = None) -> Matrix:
        """Vectors (n, width) of people with `histories` (n, n_items), ones, over the final `items` (n_items, width), and `profiles`
        (n, dim), NaN = none; the last column is 1, as the users' of a backbone."""
        return self._of(_features(*_summed(items, histories), profiles, self.centre))

    def vector(self, items: Matrix, history: NDArray[np.int64], profile: Matrix | None = None) -> Matrix:
        """The same of one person, (width,), by the positions in their history and a profile (dim,): what a service asks."""
        sums = items[history].sum(axis=0, keepdims=True, dtype=np.float32)
        count = np.full((1, 1), len(history), dtype=np.float32)
        vector: Matrix = self._of(_features(sums, count, None if profile is None else profile[None], self.centre))[0]
        return vector

    def _of(self, features: Matrix) -> Matrix:
        rows = features @ self.weights
        return np.hstack([rows, np.ones((len(rows), 1), dtype=np.float32)]).astype(np.float32)


def learn(users: Matrix, items: Matrix, known: sparse.csr_matrix, profiles: Matrix | None, seed: int) -> FoldIn:
    """The map that best tells final `users` (n_users, width) from what they `known` (n_users, n_items) and their `profiles`."""
    random = np.random.default_rng([seed, 11])
    warm = np.flatnonzero(known.getnnz(axis=1))
    if len(warm) > TEACHERS:
        warm = np.sort(random.choice(warm, TEACHERS, replace=False))
    centre = np.zeros(0, dtype=np.float32)
    if profiles is not None:
        there = profiles[np.isfinite(profiles).all(axis=1)]
        centre = there.mean(axis=0) if len(there) else np.zeros(profiles.shape[1], dtype=np.float32)
    width = users.shape[1] - 1
    size = PLAIN + 2 * (items.shape[1] - 1) + (len(centre) + 1 if len(centre) else 0)
    gram, moment = np.zeros((2, size, size)), np.zeros((2, size, width))
    held = []
    for start in range(0, len(warm), CHUNK):
        some = warm[start : start + CHUNK]
        histories, targets = known[some].tocsr(), users[some, :-1]
        asked = (np.arange(start, start + len(some)) % HELD_OUT == 0).astype(int)
        for history, profile in _lessons(histories, None if profiles is None else profiles[some], random):
            rows = _features(*_summed(items, history), profile, centre).astype(np.float64)
            for part in (0, 1):
                mine = asked == part
                gram[part] += rows[mine].T @ rows[mine]
                moment[part] += rows[mine].T @ targets[mine]
            held.append((rows[asked == 1], targets[asked == 1]))
    scale = np.sqrt(np.maximum(np.diag(gram[0]) / max(len(warm), 1), 1e-12))
    values, basis = np.linalg.eigh(gram[0] / np.outer(scale, scale))
    along = basis.T @ (moment[0] / scale[:, None])
    questions, answers = (np.concatenate([pair[part] for pair in held]) for part in (0, 1))

    def error(penalty: float) -> float:
        weights = (basis / (values.clip(0) + penalty)) @ along / scale[:, None]
        return float(np.square(questions @ weights - answers).mean()) if len(answers) else 0.0

    best = min(PENALTIES, key=error)
    both = (gram.sum(axis=0) / np.outer(scale, scale)) + best * np.eye(size)
    weights = np.linalg.solve(both, moment.sum(axis=0) / scale[:, None]) / scale[:, None]
    return FoldIn(weights.astype(np.float32), centre.astype(np.float32))


def _lessons(
    histories: sparse.csr_matrix, profiles: Matrix | None, random: np.random.Generator
) -> list[tuple[sparse.csr_matrix, Matrix | None]]:
    """The same people as one would meet them: all known of them, a few of their items, their profile alone."""
    few, nothing = _a_few(histories, random), sparse.csr_matrix(histories.shape, dtype=histories.dtype)
    lessons: list[tuple[sparse.csr_matrix, Matrix | None]] = [(histories, None), (few, None)]
    if profiles is not None:
        lessons += [(histories, profiles), (few, profiles), (nothing, profiles)]
    return lessons


def _a_few(histories: sparse.csr_matrix, random: np.random.Generator) -> sparse.csr_matrix:
    """One to FEW items, drawn, of each history."""
    lengths = np.diff(histories.indptr)
    wanted = np.minimum(random.integers(1, FEW + 1, len(lengths)), lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((random.random(histories.nnz), owner))
    place = np.arange(histories.nnz) - np.repeat(histories.indptr[:-1], lengths)
    kept = order[place < wanted[owner]]
    entries = (np.ones(len(kept), dtype=np.float32), (owner[kept], histories.indices[kept]))
    return sparse.csr_matrix(entries, shape=histories.shape)


def _features(sums: Matrix, count: Matrix, profiles: Matrix | None, centre: Matrix) -> Matrix:
    """(n, features), from the summed vectors of histories (n, width) and how many items each has (n, 1): the history as a
    whole, its items' mean and direction, and how the profile differs from the mean one."""
    n = len(sums)
    believed = count / (count + SHRINKAGE)
    mean = sums / np.maximum(count, 1)
    length = np.linalg.norm(mean[:, :-1], axis=1, keepdims=True)
    direction = mean[:, :-1] / np.where(length > 0, length, 1)
    parts = [
        np.ones((n, 1)),
        count > 0,
        believed,
        mean[:, -1:] * believed,
        mean[:, :-1] * believed,
        direction * believed,
    ]
    if len(centre):
        given = np.full((n, len(centre)), np.nan, dtype=np.float32) if profiles is None else profiles
        there = np.isfinite(given).all(axis=1, keepdims=True)
        parts += [np.where(there, given - centre, 0), there]
    return np.hstack(parts).astype(np.float32)


def _summed(items: Matrix, histories: sparse.csr_matrix) -> tuple[Matrix, Matrix]:
    """(n, width), (n, 1): the summed vectors of each history's items, and their number. A history is short, the table of
    items is not."""
    used = np.unique(histories.indices)
    sums = np.asarray(histories[:, used] @ np.ascontiguousarray(items[used]), dtype=np.float32)
    return sums, np.diff(histories.indptr)[:, None].astype(np.float32)
