"""Show some requests a random list, so that the log tells what other models would have earned.

In: how many items a request's ranking has, and the share of requests to explore. Out: the list to show, and the
propensity of each of its items: the probability, before the draw, that it would be in the list. An exploring request
gets `k` of the `pool` best items in random order (the result randomisation of Joachims, Swaminathan & Schnabel 2017,
arXiv 1608.04468), any other the ranking itself, so the propensities are exact:

    propensity(item) = (1 - share) [item is among the k best] + share k / pool [item is among the pool best]

The draw depends on the request's id alone.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SHARE = 0.5
"""Above it more lists would be random than not, and an explored list could not be told by its propensities."""


class ShownList(NamedTuple):
    """A list as it is shown: `order` (k,) are indices into the ranking, `propensities` (k,) belong to its items."""

    order: NDArray[np.int64]
    propensities: NDArray[np.float64]


def explore(n_ranked: int, k: int, *, share: float, pool: int, request_id: str) -> ShownList:
    """Choose which of `n_ranked` items, best first, are shown in the `k` places of one request.

    With probability `share` the list is drawn from the best `pool` items (never fewer than `k`, never more than there
    are). With share 0 the list is the ranking and every propensity is 1.
    """
    k = min(k, n_ranked)
    ranking = np.arange(k)
    if not share or not k:
        return ShownList(ranking, np.ones(k))
    size = min(max(pool, k), n_ranked)
    if fraction_of("exploration", request_id) < share:
        order = random_of("explored list", request_id).choice(size, k, replace=False)
    else:
        order = ranking
    propensities = np.where(order < k, 1 - share, 0.0) + share * k / size
    return ShownList(order, propensities.astype(np.float64))


def fraction_of(purpose: str, key: str) -> float:
    """Return a number in [0, 1) that looks random and is the same for the same purpose and key on every machine."""
    return int.from_bytes(_digest(purpose, key)[:6], "big") / 2**48


def random_of(purpose: str, key: str) -> np.random.Generator:
    """Return the random generator of a purpose and a key."""
    return np.random.default_rng(int.from_bytes(_digest(purpose, key)[:16], "big"))


def _digest(purpose: str, key: str) -> bytes:
    return hashlib.sha256(f"{purpose}\0{key}".encode()).digest()


def is_explored(propensities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which lists were drawn at random, from the propensities of their items (n_lists, k).

    Such a list holds, almost surely, an item from below the ranking's first `k`, whose propensity is under one half.
    """
    return np.asarray((propensities < MAX_SHARE).any(axis=1))
