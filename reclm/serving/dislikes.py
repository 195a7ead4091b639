"""Know what users did besides what the champion was fitted on: dislikes, and the latest events.

In: the published warehouse (`fct_feedback`), and the events of a user's features. Out: positions of items. What a user
disliked is not recommended to them, unless a request wants items that they had, too. What they did lately moves their
vector and is left out, unless the champion knows it already: it then stands among their known items and counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
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


class Dislikes(NamedTuple):
    """Hold which items each user disliked: those of row `r = rows[user_id]` lie from `starts[r]` to `starts[r + 1]`."""

    rows: dict[str, int]
    starts: NDArray[np.int64]
    positions: NDArray[np.int64]

    def of(self, user_id: str | None) -> NDArray[np.int64]:
        """Return the positions of the items that a user disliked, ascending."""
        row = self.rows.get(user_id) if user_id is not None else None
        return NO_ITEMS if row is None else self.positions[self.starts[row] : self.starts[row + 1]]


def load_dislikes(settings: Settings, item_ids: NDArray[np.str_]) -> Dislikes:
    """Load all dislikes of the candidates; none from a warehouse of an earlier release, which recorded none."""
    from reclm.warehouse.reading import connect

    candidates = pa.table({"item_id": item_ids.tolist(), "position": np.arange(len(item_ids))})
    with closing(connect(settings)) as connection:
        if not connection.execute("select 1 from duckdb_tables() where table_name = 'fct_feedback'").fetchall():
            return Dislikes({}, np.zeros(1, dtype=np.int64), NO_ITEMS)
        connection.register("candidates", candidates)
        found = connection.sql(DISLIKES).to_arrow_table()
    users = found["user_id"].combine_chunks().dictionary_encode()
    counts = np.bincount(users.indices.to_numpy(), minlength=len(users.dictionary))
    rows = {user_id: row for row, user_id in enumerate(users.dictionary.to_pylist())}
    return Dislikes(rows, np.concatenate([[0], np.cumsum(counts)]), found["position"].to_numpy().astype(np.int64))


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
