"""Read the evaluation tasks of a snapshot from the warehouse.

In: `fct_truth`, `fct_mask`, `fct_candidates`, `dim_users` and `dim_items`. Out: one `EvaluationTask` for each
evaluation setting, its rows and columns aligned with every model: users by `user_index`, items by `item_index`.
Evaluation also reads the ids, and the bands of users and items, from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, Snapshot
from reclm.settings.tree import Settings
from reclm.warehouse.reading import connect


@dataclass(frozen=True)
class Bands:
    """The band of every user and item, '' for none: `activity` and `density` (n_users,), `coldness` (n_items,)."""

    activity: NDArray[np.str_]
    density: NDArray[np.str_]
    coldness: NDArray[np.str_]


def load_tasks(settings: Settings, snapshot: Snapshot) -> list[EvaluationTask]:
    """Load the tasks of `snapshot` that have any truth, full-shot first; matrices are (n_users, n_items)."""
    with connect(settings) as connection:
        shape = _shape(connection)
        tasks = [_task(connection, snapshot, setting, shape) for setting in EVALUATION_SETTINGS]
    return [task for task in tasks if task.truth.nnz]


def load_ids(settings: Settings) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Load (user_ids, item_ids), in the order of every task's rows and columns."""
    with connect(settings) as connection:
        users = connection.execute("select user_id from dim_users order by user_index").fetchnumpy()["user_id"]
        items = connection.execute("select item_id from dim_items order by item_index").fetchnumpy()["item_id"]
    return np.asarray(users, np.str_), np.asarray(items, np.str_)


def count_items(settings: Settings) -> tuple[int, int]:
    """Count all items, and those with a text."""
    with connect(settings) as connection:
        query = "select count(*), count(*) filter (coalesce(full_text, '') <> '') from dim_items"
        every, with_text = connection.execute(query).fetchall()[0]
    return int(every), int(with_text)


def count_interactions(settings: Settings) -> int:
    """Count the interactions known at the snapshot `final`."""
    with connect(settings) as connection:
        query = "select count(*) from fct_known_interactions where snapshot = 'final'"
        return int(connection.execute(query).fetchall()[0][0])


def load_bands(settings: Settings, snapshot: Snapshot) -> Bands:
    """Load the activity and neighbourhood density of users and the coldness of items at `snapshot`."""
    with connect(settings) as connection:
        users = connection.execute(
            "select coalesce(s.activity, '') as activity, coalesce(s.density_band, '') as density from dim_users u "
            "left join fct_user_status s on s.user_id = u.user_id and s.snapshot = ? order by u.user_index",
            [snapshot],
        ).fetchnumpy()
        items = connection.execute(
            "select coalesce(s.coldness, '') as coldness from dim_items i "
            "left join fct_item_status s on s.item_id = i.item_id and s.snapshot = ? order by i.item_index",
            [snapshot],
        ).fetchnumpy()
    return Bands(*(np.asarray(c, np.str_) for c in (users["activity"], users["density"], items["coldness"])))


def _shape(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    row = connection.execute("select (select count(*) from dim_users), (select count(*) from dim_items)").fetchall()[0]
    return int(row[0]), int(row[1])


def _task(
    connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, setting: EvaluationSetting, shape: tuple[int, int]
) -> EvaluationTask:
    candidates = np.zeros(shape[1], dtype=np.bool_)
    positions = connection.execute(
        "select i.item_index from fct_candidates c join dim_items i using (item_id) "
        "where c.snapshot = ? and c.setting = ?",
        [snapshot, setting],
    ).fetchnumpy()["item_index"]
    candidates[np.asarray(positions, dtype=np.int64)] = True
    truth, mask = (_matrix(connection, table, snapshot, setting, shape) for table in ("fct_truth", "fct_mask"))
    return EvaluationTask(snapshot, setting, truth, mask, candidates)


def _matrix(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    snapshot: Snapshot,
    setting: EvaluationSetting,
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    pairs = connection.execute(
        f"select distinct u.user_index as row, i.item_index as col from {table} t "
        "join dim_users u using (user_id) join dim_items i using (item_id) "
        "where t.snapshot = ? and t.setting = ? order by row, col",
        [snapshot, setting],
    ).fetchnumpy()
    rows, columns = np.asarray(pairs["row"], np.int64), np.asarray(pairs["col"], np.int64)
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
