"""Make one list of two rankings, so that each user compares two models: team-draft interleaving.

In: the rankings of champion and challenger, best first. Out: one list, and for each place the arm whose item it is. In
each round a coin decides which arm picks first; each picks its best item that is not in the list yet (Radlinski,
Kurup & Joachims 2008, CIKM, section 4.2). The arm whose items are clicked more wins the list. A model that ranks
no better than the other wins half of the lists that have a winner.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

from reclm.trials.assignment import CHALLENGER, CHAMPION, Arm
from reclm.trials.exploration import random_of

Item = TypeVar("Item", bound=Hashable)


def team_draft(champion: Sequence[Item], challenger: Sequence[Item], k: int, request_id: str) -> list[tuple[Item, Arm]]:
    """Return the first `k` picks, fewer where both rankings end: (item, the arm that picked it).

    The coins depend on the request's id alone.
    """
    random = random_of("team draft", request_id)
    rankings: dict[Arm, Sequence[Item]] = {CHAMPION: champion, CHALLENGER: challenger}
    places: dict[Arm, int] = {CHAMPION: 0, CHALLENGER: 0}
    picked: dict[Item, Arm] = {}
    while len(picked) < k:
        before = len(picked)
        first, second = (CHAMPION, CHALLENGER) if random.random() < 0.5 else (CHALLENGER, CHAMPION)
        for arm in (first, second):
            ranking = rankings[arm]
            while places[arm] < len(ranking) and ranking[places[arm]] in picked:
                places[arm] += 1
            if places[arm] < len(ranking):
                picked[ranking[places[arm]]] = arm
        if len(picked) == before:
            break
    return list(picked.items())[:k]
