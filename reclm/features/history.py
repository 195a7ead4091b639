"""Keep earlier published features, so that the training data of an earlier day can be made again.

In: what a model was trained on. Out: the same again, when newer features are in force. Published features change with
every build, and the tables of the warehouse with them. So training lays beside the features of a version what it took
from the warehouse: users, items and interactions of its snapshots. Versions that no model was trained on, as deliveries
of new items make them, are not kept; of the others the latest `feast.keep_versions` are.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from reclm.dataset import Snapshot, TrainingData
from reclm.errors import WorkspaceError
from reclm.features import store
from reclm.settings.tree import Settings
from reclm.storage.erasures import erased_users
from reclm.storage.files import read_json, write_json, write_table
from reclm.storage.workspace import Workspace
from reclm.warehouse.reading import features_fingerprint, snapshot_as_of


def keep(settings: Settings, parents: Mapping[str, str], data: TrainingData) -> None:
    """Keep the published version that `data` was read from, and all of `data` that is not a published feature.

    `parents` names that version, `features`, and the tables, `warehouse`. What is kept of the same tables already is
    not written again. Users who were erased since it was read are left out. Raises WorkspaceError when other features
    or tables are in force: `data` may be of either.
    """
    workspace = settings.paths
    with store.writing(workspace), erased_users(workspace) as erased:
        version, tables = read_json(workspace.feast / "published.json")["version"], features_fingerprint(workspace)
        if (version, tables) != (parents["features"], parents["warehouse"]):
            raise WorkspaceError(
                f"features were built or published anew while training read them: {parents['features']} of tables "
                f"{parents['warehouse']} have become {version} of {tables}; run the command again"
            )
        folder = _training_path(workspace, version) / data.snapshot
        mark = folder / "snapshot.json"
        if not mark.exists() or read_json(mark).get("warehouse") != tables:
            mark.unlink(missing_ok=True)
            write_table(folder / "users.parquet", erased.without(_user_rows(data)))
            write_table(folder / "items.parquet", pa.table({"item_id": data.item_ids.tolist(), "text": data.texts}))
        as_of = snapshot_as_of(settings, data.snapshot).isoformat()
        write_json(mark, {"as_of": as_of, "warehouse": tables, "kept_at": datetime.now(UTC).isoformat()})


def load(workspace: Workspace, version: str, snapshot: Snapshot) -> tuple[TrainingData, datetime]:
    """Return what was kept of a snapshot, without its features, and its as-of.

    Raises WorkspaceError, naming the versions there are, when it was not kept.
    """
    folder = _training_path(workspace, version) / snapshot
    if not (folder / "snapshot.json").exists():
        kept = ", ".join(versions(workspace)) or "none"
        raise WorkspaceError(
            f"no training data of snapshot {snapshot} and published version {version} were kept (kept are: {kept}); "
            "feast.keep_versions says how many are"
        )
    users, items = (pq.read_table(folder / f"{name}.parquet") for name in ("users", "items"))
    interactions = _matrix(users, len(items), None)
    return TrainingData(
        snapshot=snapshot,
        user_ids=np.array(users["user_id"].to_pylist(), dtype=np.str_),
        item_ids=np.array(items["item_id"].to_pylist(), dtype=np.str_),
        interactions=interactions,
        texts=items["text"].to_pylist(),
        weights=_matrix(users, len(items), "weights") if "weights" in users.column_names else None,
    ), datetime.fromisoformat(read_json(folder / "snapshot.json")["as_of"])


def versions(workspace: Workspace) -> list[str]:
    """List the published versions that models were trained on and that are kept, the latest first."""
    kept_at: dict[str, str] = {}
    for file in store.offline_path(workspace).glob("*/training/*/snapshot.json"):
        version = file.parents[2]
        if not version.is_symlink():
            kept_at[version.name] = max(kept_at.get(version.name, ""), read_json(file)["kept_at"])
    return sorted(kept_at, key=lambda version: kept_at[version], reverse=True)


def remove_others(workspace: Workspace, keep_versions: int) -> None:
    """Remove published versions but the current one and the latest `keep_versions` that models were trained on."""
    current = (store.offline_path(workspace) / "current").resolve().name
    earlier = [version for version in versions(workspace) if version != current]
    kept = {"fused", current, *earlier[:keep_versions]}
    for folder in store.offline_path(workspace).iterdir():
        if not folder.is_symlink() and folder.name not in kept:
            shutil.rmtree(folder)


def _training_path(workspace: Workspace, version: str) -> Path:
    return store.offline_path(workspace) / version / "training"


def _user_rows(data: TrainingData) -> pa.Table:
    """One row per user: the positions of their items and, where there are any, the weights."""
    matrix = data.interactions if data.weights is None else data.weights
    offsets = pa.array(matrix.indptr, pa.int32())
    columns = {
        "user_id": pa.array(data.user_ids.tolist(), pa.string()),
        "items": pa.ListArray.from_arrays(offsets, pa.array(matrix.indices, pa.int32())),
    }
    if data.weights is not None:
        columns["weights"] = pa.ListArray.from_arrays(offsets, pa.array(matrix.data, pa.float32()))
    return pa.table(columns)


def _matrix(users: pa.Table, n_items: int, weights: str | None) -> sparse.csr_matrix:
    items = users["items"].combine_chunks()
    indices = items.flatten().to_numpy()
    indptr = np.concatenate([[0], np.cumsum(items.value_lengths().to_numpy())])
    values = (
        np.ones(len(indices), np.float32) if weights is None else users[weights].combine_chunks().flatten().to_numpy()
    )
    return sparse.csr_matrix((values, indices, indptr), shape=(len(users), n_items))
