"""Know what users did besides what the champion was fitted on: dislikes, a newer build, and the latest events.

In: the published warehouse (`fct_feedback`, `fct_known_interactions`), and the events of a user's features. Out:
positions of items. What a user disliked is not recommended to them, unless a request wants items that they had, too.
What they did since the champion was fitted moves their vector and is left out. The build is newer than the champion
until the day's model is promoted, and longer when that model is kept out or an older one is served again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from reclm.backbones.fitted import Fitted
    from reclm.features.online import UserFeatures
    from reclm.settings.tree import Settings

NO_ITEMS: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
DISLIKES = """
select feedback.user_id, candidates.position
from fct_feedback as feedback
inner join candidates on candidates.item_id = feedback.item_id
where feedback.weight < 0
group by all
order by all
"""
NEWER = """
select known.user_id, candidates.position
from fct_known_interactions as known
inner join candidates on candidates.item_id = known.item_id
left join fitted_users on fitted_users.user_id = known.user_id
anti join fitted_pairs
    on fitted_pairs.row_number = fitted_users.row_number and fitted_pairs.position = candidates.position
where known.snapshot = 'serve'
group by all
order by all
"""


class UserItems(NamedTuple):
    """Hold some items of each user: those of row `r = rows[user_id]` lie from `starts[r]` to `starts[r + 1]`."""

    rows: dict[str, int]
    starts: NDArray[np.int64]
    positions: NDArray[np.int64]

    def of(self, user_id: str | None) -> NDArray[np.int64]:
        """Return the positions of a user's items, ascending."""
        row = self.rows.get(user_id) if user_id is not None else None
        return NO_ITEMS if row is None else self.positions[self.starts[row] : self.starts[row + 1]]


NOTHING = UserItems({}, np.zeros(1, dtype=np.int64), NO_ITEMS)


def load_dislikes(settings: Settings, item_ids: NDArray[np.str_]) -> UserItems:
    """Load all dislikes of the candidates."""
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        connection.register("candidates", _candidates(item_ids))
        return _by_user(connection.sql(DISLIKES).to_arrow_table())


def load_newer(settings: Settings, version: str, fitted: Fitted) -> UserItems:
    """Load what the published build knows and the served model `version`, `fitted` on an earlier build, does not."""
    from reclm.storage import artifacts
    from reclm.warehouse.reading import connect, features_fingerprint

    parents = artifacts.load(settings.paths, "served", version).manifest["parents"]
    if parents["warehouse"] == features_fingerprint(settings.paths):
        return NOTHING
    pairs = fitted.known.tocoo()
    users = {"user_id": fitted.user_ids.tolist(), "row_number": np.arange(len(fitted.user_ids))}
    with closing(connect(settings)) as connection:
        connection.register("candidates", _candidates(fitted.item_ids))
        connection.register("fitted_users", pa.table(users))
        connection.register("fitted_pairs", pa.table({"row_number": pairs.row, "position": pairs.col}))
        return _by_user(connection.sql(NEWER).to_arrow_table())


def _candidates(item_ids: NDArray[np.str_]) -> pa.Table:
    return pa.table({"item_id": item_ids.tolist(), "position": np.arange(len(item_ids))})


def _by_user(found: pa.Table) -> UserItems:
    users = found["user_id"].combine_chunks().dictionary_encode()
    counts = np.bincount(users.indices.to_numpy(), minlength=len(users.dictionary))
    rows = {user_id: row for row, user_id in enumerate(users.dictionary.to_pylist())}
    return UserItems(rows, np.concatenate([[0], np.cumsum(counts)]), found["position"].to_numpy().astype(np.int64))


class Lately(NamedTuple):
    """Positions of the items that a user liked and disliked lately; the newest event of an item counts."""

    liked: NDArray[np.int64] = NO_ITEMS
    disliked: NDArray[np.int64] = NO_ITEMS


def lately(features: UserFeatures | None, position_of: Callable[[str], int | None]) -> Lately:
    """Return what the latest events of a user say, of the items that have a position: the candidates."""
    if features is None or not features.recent:
        return Lately()
    weights = {event.item_id: event.weight for event in features.recent}  # oldest first: the newest stays
    known = [(position_of(item_id), weight) for item_id, weight in weights.items()]
    liked = sorted(position for position, weight in known if position is not None and weight > 0)
    disliked = sorted(position for position, weight in known if position is not None and weight < 0)
    return Lately(np.array(liked, dtype=np.int64), np.array(disliked, dtype=np.int64))
