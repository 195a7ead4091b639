"""Load what is known at one snapshot as arrays.

In: a connection to the warehouse. Out: a `SnapshotData`. It holds histories, item texts, neighbours and cold-start
bands. Only that snapshot's rows of `fct_known_interactions`, of the neighbour tables and of the status tables are read,
with `dim_items` for the texts, so a profile written from it cannot use anything later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.dataset import Snapshot
from reclm.errors import WorkspaceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_USERS = "(select user_id, user_index as position from dim_users)"
_ITEMS = "(select item_id, item_index as position from dim_items)"


@dataclass(frozen=True)
class Catalogue:
    """The items, in item order: `item_ids[i]` has `titles[i]`, `categories[i]` and `texts[i]`."""

    item_ids: list[str]
    titles: list[str]
    categories: list[list[str]]
    texts: list[str]


@dataclass(frozen=True)
class SnapshotData:
    """The data of one snapshot; user row u is `user_ids[u]` (sorted as text), item i is `catalogue.item_ids[i]`.

    `histories` is (n_users, n_items) of ones. `user_neighbours` (n_users, n_users) and `item_neighbours` (n_items,
    n_items; by text, rows of cold items only) hold similarities. `user_bands` and `item_bands` name the cold-start
    severity of each user and item.
    """

    snapshot: Snapshot
    as_of: datetime
    user_ids: list[str]
    catalogue: Catalogue
    histories: sparse.csr_matrix
    user_neighbours: sparse.csr_matrix
    item_neighbours: sparse.csr_matrix
    user_bands: NDArray[np.str_]
    item_bands: NDArray[np.str_]

    @property
    def history_lengths(self) -> NDArray[np.int64]:
        """Return (n_users,), the number of items in each user's history."""
        return np.diff(self.histories.indptr).astype(np.int64)

    @property
    def audience_sizes(self) -> NDArray[np.int64]:
        """Return (n_items,), the number of users who interacted with each item."""
        return self.histories.getnnz(axis=0).astype(np.int64)


def load_catalogue(connection: DuckDBPyConnection, max_text_length: int) -> Catalogue:
    """Load the items of `dim_items`, with at most `max_text_length` characters of each title and text."""
    rows = connection.execute(
        """
        select
            item_id,
            coalesce(left(title, $length), ''),
            list_filter(coalesce(categories, []), lambda category: category is not null),
            coalesce(left(text, $length), '')
        from dim_items
        order by item_index
        """,
        {"length": max_text_length},
    ).fetchall()
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
    return Catalogue(*columns)


def load_snapshot_data(connection: DuckDBPyConnection, snapshot: Snapshot, catalogue: Catalogue) -> SnapshotData:
    """Load what the warehouse knows at `snapshot`. Raises WorkspaceError when the warehouse has no such snapshot."""
    as_of = connection.execute("select as_of from int_snapshots where snapshot = $1", [snapshot]).fetchone()
    if as_of is None:
        raise WorkspaceError(f"the warehouse has no snapshot {snapshot!r}; run `reclm build`")
    user_ids = [row[0] for row in connection.execute("select user_id from dim_users order by user_index").fetchall()]
    n_users, n_items = len(user_ids), len(catalogue.item_ids)
    histories = _matrix(
        connection,
        f"""
        select users.position, items.position, 1.0
        from fct_known_interactions as known
        join {_USERS} as users using (user_id)
        join {_ITEMS} as items using (item_id)
        where known.snapshot = $1
        """,
        snapshot,
        (n_users, n_items),
    )
    histories.data[:] = 1
    return SnapshotData(
        snapshot=snapshot,
        as_of=as_of[0].astimezone(UTC),
        user_ids=user_ids,
        catalogue=catalogue,
        histories=histories,
        user_neighbours=_neighbours(connection, "user", _USERS, snapshot, n_users),
        item_neighbours=_neighbours(connection, "item", _ITEMS, snapshot, n_items, "and pairs.source = 'text'"),
        user_bands=_bands(connection, "user", "activity", _USERS, snapshot),
        item_bands=_bands(connection, "item", "coldness", _ITEMS, snapshot),
    )


def _neighbours(
    connection: DuckDBPyConnection, kind: str, entities: str, snapshot: Snapshot, size: int, condition: str = ""
) -> sparse.csr_matrix:
    return _matrix(
        connection,
        f"""
        select own.position, other.position, greatest(pairs.score, 0)
        from fct_{kind}_neighbours as pairs
        join {entities} as own on own.{kind}_id = pairs.{kind}_id
        join {entities} as other on other.{kind}_id = pairs.neighbour_id
        where pairs.snapshot = $1 and own.position != other.position {condition}
        """,
        snapshot,
        (size, size),
    )


def _matrix(
    connection: DuckDBPyConnection, query: str, snapshot: Snapshot, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Return the (row, column, value) triples of `query` as a float32 CSR matrix with sorted columns."""
    columns = connection.execute(f"select * from ({query}) as cells(r, c, v) order by r, c", [snapshot]).fetchnumpy()
    rows, cols, values = (np.ma.getdata(columns[name]) for name in ("r", "c", "v"))
    matrix = sparse.csr_matrix((values.astype(np.float32), (rows, cols)), shape=shape)
    matrix.sort_indices()
    return matrix


def _bands(
    connection: DuckDBPyConnection, kind: str, column: str, entities: str, snapshot: Snapshot
) -> NDArray[np.str_]:
    rows = connection.execute(
        f"""
        select coalesce(status.{column}, '0')
        from {entities} as entities
        left join fct_{kind}_status as status
            on status.{kind}_id = entities.{kind}_id and status.snapshot = $1
        order by entities.position
        """,
        [snapshot],
    ).fetchall()
    return np.array([row[0] for row in rows], dtype=np.str_)
