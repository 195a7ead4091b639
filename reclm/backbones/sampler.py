"""Draw training examples from the known interactions, whole batches at a time.

In: a matrix of interactions and a seed. Out: user batches for the softmax likelihood, (user, positive, negative)
triples for BPR (Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009), and candidate
items for large catalogues. Negatives are drawn exactly, not by trial: the r-th item that a user does not know is found
by one binary search, so a known item is never drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]


class InteractionSampler:
    """Seeded draws over `interactions` (n_users, n_items), whose stored columns are the items that each user knows.

    Only `users`, those with at least one known and one unknown item, are ever drawn.
    """

    def __init__(self, interactions: sparse.csr_matrix, seed: int) -> None:
        known = interactions.tocsr().astype(np.float32)
        known.sort_indices()
        self.n_users, self.n_items = known.shape
        self.indptr = known.indptr.astype(np.int64)
        self.items = known.indices.astype(np.int64)
        self.degrees = np.diff(self.indptr)
        self.users: Ints = np.flatnonzero((self.degrees > 0) & (self.degrees < self.n_items)).astype(np.int64)
        position_in_row = np.arange(len(self.items)) - np.repeat(self.indptr[:-1], self.degrees)
        rows = np.repeat(np.arange(self.n_users), self.degrees)
        # unknown items before a row's j-th known one, offset by the row: ascending over the whole matrix
        self._unknown_before = rows * self.n_items + (self.items - position_in_row)
        self.random = np.random.default_rng(seed)

    def positives(self, users: Ints) -> Ints:
        """Draw one known item for each of `users` (b,), uniformly; returns its CSR entry, an index of `items`."""
        offset = (self.random.random(len(users)) * self.degrees[users]).astype(np.int64)
        entries: Ints = self.indptr[users] + offset
        return entries

    def negatives(self, users: Ints) -> Ints:
        """Draw one item that each of `users` (b,) does not know, uniformly over all such items."""
        rank = (self.random.random(len(users)) * (self.n_items - self.degrees[users])).astype(np.int64)
        known_before = (
            np.searchsorted(self._unknown_before, users * self.n_items + rank, side="right") - self.indptr[users]
        )
        return rank + known_before

    def triples(self, batch_size: int) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Yield an epoch of (users, positives, negatives), each (b,): as many as interactions, users uniformly.

        A positive is a CSR entry, an index of `items`; a negative is an item.
        """
        n_samples = len(self.items)
        for start in range(0, n_samples, batch_size):
            size = min(batch_size, n_samples - start)
            users = self.users[self.random.integers(0, len(self.users), size)]
            yield users, self.positives(users), self.negatives(users)

    def user_batches(self, batch_size: int) -> Iterator[Ints]:
        """Yield an epoch of users in random order, each once, in batches of (b,)."""
        order = self.random.permutation(self.users)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def candidates(self, warm_items: Ints, limit: int) -> Ints:
        """Return at most `limit` of `warm_items`, ascending, drawn uniformly where there are more."""
        if len(warm_items) <= limit:
            return warm_items
        return np.sort(self.random.choice(warm_items, size=limit, replace=False))

    def known(self, users: Ints, candidates: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Return what users know, pair by pair: row in `users`, item, column in `candidates`, CSR entry; each
        (n_pairs,).

        The column is -1 where the item is not among the candidates.
        """
        lengths = self.degrees[users]
        rows = np.repeat(np.arange(len(users)), lengths)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries = np.repeat(self.indptr[users], lengths) + within
        column = np.full(self.n_items, -1, dtype=np.int64)
        column[candidates] = np.arange(len(candidates))
        items = self.items[entries]
        return rows, items, column[items], entries
