"""Publish the vectors of trained models.

In: the user and item vectors of one model version. Out: rows of the views `user_fused` and `item_fused`. Each model
version has its own parquet file per view and its own keys online, so versions never mix. Old versions stay until they
are dropped.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.dataset import ENTITY_KINDS, EntityKind
from reclm.errors import PublishError, WorkspaceError
from reclm.features import online, online_writer, store
from reclm.features.row_checks import ViewSchema, add_stamps, check_rows
from reclm.progress import detail
from reclm.settings.tree import Settings
from reclm.storage.files import write_table


def publish_fused(
    settings: Settings,
    model_version: str,
    user_ids: Sequence[str] | NDArray[np.str_],
    user_vectors: NDArray[np.float32],
    item_ids: Sequence[str] | NDArray[np.str_],
    item_vectors: NDArray[np.float32],
    as_of: datetime,
) -> dict[str, Any]:
    """Publish the vectors of one model version, offline and online; unchanged rows are not written again.

    `user_vectors` is float32 (n_users, dim), `item_vectors` (n_items, dim); a user's and an item's dot product is the
    score. Both may be empty: such a model publishes new items alone. `as_of` is that of the snapshot which the model
    was fitted on. Returns `{version, users, items, written}`. Raises PublishError before anything is written when a
    vector or id is not valid.
    """
    workspace = settings.paths
    _check_arguments(model_version, user_vectors, item_vectors)
    schemas = store.schemas(settings)
    tables = {
        "user": _table(schemas["user_fused"], model_version, user_ids, user_vectors, as_of),
        "item": _table(schemas["item_fused"], model_version, item_ids, item_vectors, as_of),
    }
    with store.writing(workspace):
        feast = store.apply_definitions(settings)
        online_writer.claim_online_store(settings)
        for kind in ENTITY_KINDS:
            write_table(store.vector_file(workspace, kind, model_version), tables[kind])
        written = sum(_write_changed(feast, f"{kind}_fused", tables[kind]) for kind in ENTITY_KINDS)
    detail(
        f"model {model_version}: {len(user_ids):,} user and {len(item_ids):,} item vectors published, {written:,} new"
    )
    return {"version": model_version, "users": len(user_ids), "items": len(item_ids), "written": written}


def publish_items(
    settings: Settings,
    model_version: str,
    item_ids: Sequence[str] | NDArray[np.str_],
    item_vectors: NDArray[np.float32],
    as_of: datetime,
) -> int:
    """Add items to a published model version; returns the number of rows written online.

    `item_vectors` is float32 (n_items, dim). Rows go online first, so an item in the offline file is online too. Raises
    WorkspaceError when that version is not published, PublishError for an invalid vector or id.
    """
    workspace = settings.paths
    _, stored = load_fused(settings, "item", model_version)
    _check_arguments(model_version, stored if len(stored) else item_vectors, item_vectors)
    table = _table(store.schemas(settings)["item_fused"], model_version, item_ids, item_vectors, as_of)
    with store.writing(workspace):
        feast = store.open_store(settings)
        online_writer.claim_online_store(settings)
        file = store.vector_file(workspace, "item", model_version)
        published = pq.read_table(file)
        new = pc.invert(pc.is_in(table["item_id"], published["item_id"].combine_chunks()))
        written = _write_changed(feast, "item_fused", table.filter(new))
        write_table(file, pa.concat_tables([published, table.filter(new).cast(published.schema)]))
    return written


def restore_online(settings: Settings, model_version: str) -> int:
    """Write the vectors of a published version online again when the store has lost them; returns the number of rows.

    A Redis server without a disk loses them when it restarts. Only the first and last row of each view are checked.
    """
    written = 0
    with store.writing(settings.paths):
        feast = store.open_store(settings)
        for kind in ENTITY_KINDS:
            file = store.vector_file(settings.paths, kind, model_version)
            table = pq.read_table(file) if file.exists() else None
            if table is None or not table.num_rows:
                continue
            ends = [(table[f"{kind}_id"][row].as_py(), model_version) for row in (0, table.num_rows - 1)]
            if len(online_writer.stored_rows(feast, f"{kind}_fused", ends)) < len(set(ends)):
                written += _write_changed(feast, f"{kind}_fused", table)
    return written


def load_fused(
    settings: Settings, kind: EntityKind, model_version: str
) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Load (ids (n,), vectors (n, dim)) of all users or all items of a model version from the offline file.

    Raises WorkspaceError when that version is not published.
    """
    file = store.vector_file(settings.paths, kind, model_version)
    if not file.exists():
        known = ", ".join(store.model_versions(settings.paths)) or "none"
        raise WorkspaceError(f"no {kind} vectors of model version {model_version} are published (there are: {known})")
    table = pq.read_table(file, columns=[f"{kind}_id", "vector"])
    ids = np.array(table[f"{kind}_id"].to_pylist(), dtype=np.str_)
    numbers = table["vector"].combine_chunks().flatten().to_numpy()
    return ids, numbers.reshape(len(ids), -1) if len(ids) else np.empty((0, 0), dtype=np.float32)


def drop_version(settings: Settings, model_version: str) -> int:
    """Remove a model version from both views; returns the number of online rows deleted, 0 for an unknown version."""
    workspace = settings.paths
    deleted = 0
    with store.writing(workspace):
        for kind in ENTITY_KINDS:
            file = store.vector_file(workspace, kind, model_version)
            if file.exists():  # online first: the file is the list of what is online
                ids = pq.read_table(file, columns=[f"{kind}_id"])[f"{kind}_id"].to_pylist()
                keys = [(one, model_version) for one in ids]
                deleted += online_writer.delete_rows(store.open_store(settings), f"{kind}_fused", keys)
                file.unlink()
    return deleted


def online_versions(settings: Settings) -> set[str]:
    """Return the model versions with item vectors in the SQLite online store, also those without an offline file.

    Empty for Redis, where it would need a scan of all keys.
    """
    file = settings.paths.feast / "online.db"
    if settings.feast.online_store != "sqlite" or not file.exists():
        return set()
    from feast.infra.key_encoding_utils import deserialize_entity_key

    table = f"{online.PROJECT}_item_fused"
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        if not connection.execute("select 1 from sqlite_master where name = ?", [table]).fetchone():
            return set()
        keys = connection.execute(f'select distinct entity_key from "{table}"').fetchall()
    entities = (deserialize_entity_key(key, 3) for (key,) in keys)
    return {dict(zip(one.join_keys, one.entity_values, strict=True))["model_version"].string_val for one in entities}


def _check_arguments(model_version: str, user_vectors: NDArray[np.float32], item_vectors: NDArray[np.float32]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model_version):
        raise PublishError(f"model version {model_version!r}: use letters, digits, '.', '_' and '-' only")
    for kind, vectors in (("user", user_vectors), ("item", item_vectors)):
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise PublishError(
                f"view {kind}_fused, column vector: the array is {vectors.dtype} of shape {vectors.shape}; "
                "give float32 of shape (rows, dim); nothing was published"
            )
    if user_vectors.shape[1] != item_vectors.shape[1]:
        raise PublishError(
            f"view item_fused, column vector: {item_vectors.shape[1]} numbers, but user vectors have "
            f"{user_vectors.shape[1]}; users and items of one model share a space; nothing was published"
        )


def _table(
    schema: ViewSchema,
    model_version: str,
    ids: Sequence[str] | NDArray[np.str_],
    vectors: NDArray[np.float32],
    as_of: datetime,
) -> pa.Table:
    count, dim = vectors.shape
    if len(ids) != count:
        raise PublishError(f"view {schema.name}: {len(ids)} ids but {count} vectors; nothing was published")
    if as_of.tzinfo is None:
        raise PublishError(
            f"view {schema.name}, column as_of: {as_of} has no time zone; give UTC; nothing was published"
        )
    clock = pa.timestamp("us", tz="UTC")
    table = pa.table(
        {
            schema.keys[0]: pa.array([str(one) for one in ids], pa.string()),
            "model_version": pa.array([model_version] * count, pa.string()),
            "as_of": pa.array([as_of.astimezone(UTC)] * count, clock),
            "created_at": pa.array([datetime.now(UTC)] * count, clock),
            "vector": pa.ListArray.from_arrays(
                pa.array(np.arange(count + 1, dtype=np.int32) * dim), pa.array(np.ascontiguousarray(vectors).ravel())
            ),
        }
    )
    return add_stamps(schema, check_rows(schema, table, dim)[0])


def _write_changed(feast: store.Store, view: str, table: pa.Table) -> int:
    """Write the rows that are missing or different in the online store; returns their number."""
    keys = list(zip(table[feast.views[view].join_keys[0]].to_pylist(), table["model_version"].to_pylist(), strict=True))
    stored = online_writer.stored_rows(feast, view, keys)
    hashes = table["row_hash"].to_pylist()
    changed = [row for row, key in enumerate(keys) if key not in stored or stored[key].row_hash != hashes[row]]
    online_writer.write_rows(feast, view, table.take(pa.array(changed, pa.int64())))
    return len(changed)
