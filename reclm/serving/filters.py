"""Say which items a request leaves to choose from.

In: a request's filters. Out: a mask over the candidates, and what the filters name that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.serving.reranking import Rules

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex, Positions


@dataclass(frozen=True)
class RankingRequest:
    """Hold the user and the filters of one request; the lists are item ids, except `categories`.

    `categories` and `items` are filters: None filters nothing, an empty one matches nothing.
    """

    user_id: str | None = None
    history: Sequence[str] = ()
    k: int = 10
    categories: Sequence[str] | None = None
    created_after: datetime | None = None
    items: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    exclude_seen: bool = True
    items_list: str | None = None
    exclude_list: str | None = None
    rules: Rules = field(default_factory=Rules)

    @property
    def filtered(self) -> bool:
        """Return whether only some of the items may be recommended."""
        filters = (self.categories, self.items, self.created_after, self.items_list, self.exclude_list)
        return any(one is not None for one in filters)

    @property
    def is_plain(self) -> bool:
        """Return whether a user asks for the best of all items that are new to them, and says nothing else."""
        says_more = self.filtered or self.rules or len(self.history) or len(self.exclude)
        return self.user_id is not None and self.exclude_seen and not says_more


def positions_of(index: CandidateIndex, item_ids: Sequence[str]) -> tuple[Positions, tuple[str, ...]]:
    """Return (positions of the ids among the candidates, ascending and unique; ids that are no candidates)."""
    found = {item: index.item_position(item) for item in item_ids}
    positions = sorted({position for position in found.values() if position is not None})
    return np.array(positions, dtype=np.int64), tuple(item for item, position in found.items() if position is None)


class Unknown(NamedTuple):
    """Name what a request's filters name and nothing has."""

    items: Sequence[str] = ()
    categories: Sequence[str] = ()


def allowed_items(
    index: CandidateIndex, request: RankingRequest, listed: Sequence[NDArray[np.bool_]] = ()
) -> tuple[NDArray[np.bool_] | None, Unknown]:
    """Return (which items the filters leave (n_items,), None for all; what they name and nothing has).

    `listed` are the masks of named lists, each (n_items,).
    """
    masks, unknown = [*listed], Unknown()
    if request.categories is not None:
        rows = {name: index.catalogue.by_category.get(name.casefold()) for name in request.categories}
        unknown = unknown._replace(categories=[name for name, found in rows.items() if found is None])
        found = [positions for positions in rows.values() if positions is not None]
        masks.append(_mask(index, np.concatenate([np.zeros(0, dtype=np.int64), *found])))
    if request.created_after is not None:
        after = np.datetime64(request.created_after.astimezone(UTC).replace(tzinfo=None), "us")
        masks.append(index.catalogue.created > after)  # an unknown time (NaT) compares as false
    if request.items is not None:
        positions, unknown_items = positions_of(index, request.items)
        unknown = unknown._replace(items=unknown_items)
        masks.append(_mask(index, positions))
    return (np.logical_and.reduce(masks) if masks else None), unknown


def _mask(index: CandidateIndex, positions: Positions) -> NDArray[np.bool_]:
    mask = np.zeros(len(index.item_ids), dtype=bool)
    mask[positions] = True
    return mask


def why_empty(allowed: NDArray[np.bool_] | None) -> str:
    """Say why nothing can be recommended."""
    if allowed is not None and not allowed.any():
        return "no item passes the filters (categories, created_after, items, lists)"
    return "every item that passes the filters is one that the user knows or the request excludes"
