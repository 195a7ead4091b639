"""Re-rank scored items as a shop asks: boosts, pins, a limit for each category, diversity.

In: the scores of all items for a user, and the rules of a request. Out: the items to recommend. Scores are boosted
first. Then items are chosen one after the other from the best ones (the pool), each time the open item with the largest
maximal marginal relevance (Carbonell & Goldstein 1998, "The use of MMR, diversity-based reranking"):

    (1 - diversity) * score - diversity * cosine to the most similar item chosen so far

with the pool's scores scaled to 0..1 and the cosine of item vectors. An item whose category is full is passed over.
Pinned items have their places; they count as chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex, Positions, Vector

POOL_EACH, POOL_MORE, POOL_GROWTH = 5, 50, 4  # items in the pool for each one wanted, besides; when caps need more


@dataclass(frozen=True)
class Rules:
    """Hold what a request and the settings ask of the ranked list; by default nothing.

    `pins` are (item id, position from 1; None: the first free one). `max_per_category` 0 is no limit. Boosts are in
    standard deviations of the user's scores, so that they mean the same for every model; those of an item are added up.
    """

    diversity: float = 0.0
    max_per_category: int = 0
    pins: Sequence[tuple[str, int | None]] = ()
    category_boosts: Sequence[tuple[str, float]] = ()
    item_boosts: Sequence[tuple[str, float]] = ()

    def __bool__(self) -> bool:
        return any((self.diversity, self.max_per_category, self.pins, self.category_boosts, self.item_boosts))


def pool_size(k: int) -> int:
    """Return how many of the best items the `k` recommended ones are chosen from."""
    return POOL_EACH * k + POOL_MORE


def rerank(
    index: CandidateIndex,
    scores: Vector,
    left_out: NDArray[np.bool_],
    pinned: Mapping[int, int | None],
    k: int,
    rules: Rules,
) -> tuple[Positions, Vector]:
    """Return (positions, boosted scores) of at most `k` items in the order to show.

    `scores` is (n_items,); items of `left_out` (n_items,) are not chosen; `pinned` maps item positions to places in the
    list, and holds for items of `left_out` too.
    """
    scores = _boosted(index, scores, left_out, rules)
    free = np.where(left_out, np.float32(-np.inf), scores)
    free[list(pinned)] = -np.inf
    places = _places(pinned, k)
    wanted, size = k - len(places), pool_size(k)
    while True:
        pool, relevance = index.top(free, size)
        chosen = _choose(index, pool, relevance, list(places.values()), wanted, rules)
        if len(chosen) == wanted or len(pool) < size:
            break
        size *= POOL_GROWTH
    rest = iter(chosen)
    order = [places[place] if place in places else next(rest, -1) for place in range(1, k + 1)]
    best = np.array([position for position in order if position >= 0], dtype=np.int64)
    return best, scores[best]


def _boosted(index: CandidateIndex, scores: Vector, left_out: NDArray[np.bool_], rules: Rules) -> Vector:
    if not rules.category_boosts and not rules.item_boosts:
        return scores
    boosts = np.zeros_like(scores)
    for name, boost in rules.category_boosts:
        boosts[index.catalogue.by_category.get(name.casefold(), [])] += boost
    for item_id, boost in rules.item_boosts:
        position = index.item_position(item_id)
        if position is not None:
            boosts[position] += boost
    spread = 0.0 if left_out.all() else float(scores[~left_out].std())
    boosted: Vector = scores + boosts * np.float32(spread or 1.0)
    return boosted


def _places(pinned: Mapping[int, int | None], k: int) -> dict[int, int]:
    """Return {place from 1: item position}; where two pins want a place, the later one gets the next free place."""
    places: dict[int, int] = {}
    for position, place in sorted(pinned.items(), key=lambda pin: pin[1] is None):
        place = place or 1
        while place in places:
            place += 1
        places[place] = position
    return {place: position for place, position in places.items() if place <= k}


def _choose(
    index: CandidateIndex, pool: Positions, relevance: Vector, pinned: Sequence[int], wanted: int, rules: Rules
) -> list[int]:
    """Choose up to `wanted` items of the pool, which is ordered by `relevance`, one after the other."""
    if not len(pool):
        return []
    low, high = float(relevance[-1]), float(relevance[0])
    relevance = (relevance - low) / ((high - low) or 1.0)
    directions = index.directions[pool] if rules.diversity else index.directions[:0]
    nearest = np.full(len(pool), -1.0, dtype=np.float32)
    open_items = np.ones(len(pool), dtype=bool)
    counts: Counter[str] = Counter()

    def account_for(position: int) -> None:
        if rules.diversity:
            np.maximum(nearest, directions @ index.directions[position], out=nearest)
        if rules.max_per_category:
            for name in {name.casefold() for name in index.catalogue.categories[position]}:
                counts[name] += 1
                if counts[name] >= rules.max_per_category:
                    open_items[np.isin(pool, index.catalogue.by_category[name])] = False

    for position in pinned:
        account_for(position)
    chosen: list[int] = []
    while len(chosen) < wanted:
        value = (1 - rules.diversity) * relevance - rules.diversity * nearest
        row = int(np.argmax(np.where(open_items, value, -np.inf)))  # the first of equal ones: the better score
        if not open_items[row]:
            break
        open_items[row] = False
        chosen.append(int(pool[row]))
        account_for(chosen[-1])
    return chosen


def pinned_positions(
    index: CandidateIndex, rules: Rules, allowed: NDArray[np.bool_] | None, excluded: Positions
) -> tuple[dict[int, int | None], tuple[str, ...]]:
    """Return ({item position: place} of the pins that filters and exclusions leave, ids that are no candidates)."""
    found = {item_id: index.item_position(item_id) for item_id, _ in rules.pins}
    unwanted = set(excluded.tolist())
    pinned = {
        position: place
        for item_id, place in rules.pins
        if (position := found[item_id]) is not None
        and position not in unwanted
        and (allowed is None or allowed[position])
    }
    return pinned, tuple(item_id for item_id, position in found.items() if position is None)
