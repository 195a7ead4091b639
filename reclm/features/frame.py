"""Load the training data of a snapshot.

In: a snapshot. Out: its interactions and features as one index-aligned `TrainingData`. Interactions come from the
warehouse, features from Feast. The feature service `training_v1` joins point-in-time: for each entity it takes the
latest row with `as_of` at or before the snapshot's. A later profile cannot reach a model that is evaluated on later
interactions.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from reclm.dataset import Snapshot, TrainingData
from reclm.errors import WorkspaceError
from reclm.features import history, store
from reclm.features.publish import require_published
from reclm.settings.tree import Settings
from reclm.warehouse.reading import connect, snapshot_as_of

if TYPE_CHECKING:
    import duckdb

SERVICE = "training_v1"

INTERACTIONS = """
with strongest as (
  select
    feedback.user_id,
    feedback.item_id,
    max(feedback.weight) as weight,
  from fct_feedback as feedback
  inner join int_snapshots as snapshots
    on snapshots.snapshot = $snapshot
    and if(snapshots.ts_is_synthetic, snapshots.snapshot = 'serve', feedback.event_ts < snapshots.as_of)
  where feedback.weight > 0
  group by feedback.user_id, feedback.item_id
)

select
  users.user_index,
  items.item_index,
  coalesce(strongest.weight, 1.0) as weight,
from fct_known_interactions as known
inner join dim_users as users on known.user_id = users.user_id
inner join dim_items as items on known.item_id = items.item_id
left join strongest on strongest.user_id = known.user_id and strongest.item_id = known.item_id
where known.snapshot = $snapshot
"""


def load_training_data(settings: Settings, snapshot: Snapshot, version: str = "") -> TrainingData:
    """Load everything known at a snapshot: users in text order, items by item_index, features float32 (n, dim).

    A feature matrix has a row of NaN for an entity without that feature, and is None when the data set has none at
    all. With `version`, an earlier published version that a model was trained on (the parent `features` in its
    manifest), the data are those of then. Raises WorkspaceError when the published features are not those of the
    current build, when all rows of a view are later than the snapshot, or when the version was not kept.
    """
    if version:
        known, as_of = history.load(settings.paths, version, snapshot)
        feast = store.open_version(settings, version)
    else:
        require_published(settings)
        known, as_of = load_known(settings, snapshot), snapshot_as_of(settings, snapshot)
        feast = store.open_store(settings)
    user_ids, item_ids = known.user_ids.tolist(), known.item_ids.tolist()
    frame = _historical(feast, user_ids, item_ids, as_of)
    file = store.offline_path(settings.paths) / (version or "current")

    def matrix(view: str, ids: list[str]) -> NDArray[np.float32] | None:
        found = _matrix(frame, view, feast.join_keys[view][0], ids)
        if found is None:
            _refuse_unknown(file / f"{view}.parquet", view, as_of)
        return found

    return replace(
        known,
        item_content=matrix("item_content", item_ids),
        item_profile=matrix("item_profile", item_ids),
        user_profile=matrix("user_profile", user_ids),
    )


def load_known(settings: Settings, snapshot: Snapshot) -> TrainingData:
    """Load the ids, interactions and item texts of a snapshot from the warehouse alone, without features."""
    connection = connect(settings)
    try:
        user_ids = _column(connection, "select user_id from dim_users order by user_index")
        items = _arrow(connection, "select item_id, coalesce(full_text, '') as text from dim_items order by item_index")
        pairs = _arrow(connection, INTERACTIONS, {"snapshot": snapshot})
    finally:
        connection.close()
    item_ids = items["item_id"].to_pylist()
    positions = tuple(pairs[column].to_numpy() for column in ("user_index", "item_index"))
    weights = sparse.csr_matrix(
        (pairs["weight"].to_numpy().astype(np.float32), positions), shape=(len(user_ids), len(item_ids))
    )
    interactions = weights.copy()
    interactions.data[:] = 1.0
    return TrainingData(
        snapshot=snapshot,
        user_ids=np.array(user_ids, dtype=np.str_),
        item_ids=np.array(item_ids, dtype=np.str_),
        interactions=interactions,
        texts=items["text"].to_pylist(),
        weights=None if (weights.data == 1.0).all() else weights,
    )


def _arrow(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None) -> pa.Table:
    return connection.sql(query, params=parameters or {}).to_arrow_table()


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return _arrow(connection, query).column(0).to_pylist()


def _historical(opened: store.Store, user_ids: list[str], item_ids: list[str], as_of: datetime) -> pa.Table:
    """Join the features of all users and all items point-in-time at one moment.

    The entity frame pairs user i with item i, so that one join returns both; the pairs mean nothing. The shorter
    column is filled with '', an id that publishing refuses.
    """
    import pandas as pd

    length = max(len(user_ids), len(item_ids))
    entities = pd.DataFrame(
        {
            "user_id": user_ids + [""] * (length - len(user_ids)),
            "item_id": item_ids + [""] * (length - len(item_ids)),
            "event_timestamp": pd.Series([as_of] * length, dtype="datetime64[us, UTC]"),
        }
    )
    with warnings.catch_warnings():
        # Feast turns on every DeprecationWarning, and ibis still calls DuckDB by an old name.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
        service = opened.services[SERVICE]
        job = opened.feast.get_historical_features(entities, features=service, full_feature_names=True)
        return job.to_arrow()


def _matrix(frame: pa.Table, view: str, key: str, ids: list[str]) -> NDArray[np.float32] | None:
    """Return the embeddings of a view in the order of `ids`, float32 (len(ids), dim), NaN where there is none.

    None when no id has one.
    """
    vectors = frame[f"{view}__embedding"].combine_chunks()
    present = pc.is_valid(vectors)
    positions = pc.index_in(frame[key].combine_chunks().filter(present), pa.array(ids, pa.string()))
    if len(positions) == 0:
        return None
    numbers = vectors.filter(present).flatten().to_numpy()
    matrix = np.full((len(ids), len(numbers) // len(positions)), math.nan, dtype=np.float32)
    matrix[positions.to_numpy()] = numbers.reshape(len(positions), -1)
    return matrix


def _refuse_unknown(file: Path, view: str, as_of: datetime) -> None:
    """Raise WorkspaceError when a view has rows, but none as early as the snapshot."""
    earliest = pc.min(pq.read_table(file, columns=["as_of"])["as_of"]).as_py()
    if earliest is not None and earliest > as_of:
        raise WorkspaceError(
            f"view {view} has no rows as of {as_of.isoformat()}; its earliest row is of {earliest.isoformat()}; "
            "run `reclm profile` and `reclm publish` so that every snapshot is covered"
        )
