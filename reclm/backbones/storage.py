"""Write a fitted backbone into a folder and read it back.

The folder holds `users.parquet` and `items.parquet` (a row an id: its id vector, its final vector in each evaluation
setting, for users also the items they know; a setting with the vectors of the first one has no columns of its own),
`parameters.safetensors` (network weights, none of which belongs to one user), `fold_in.safetensors` (the map that gives
vectors to later users; absent where none was learned) and `config.json`. Every number that belongs to one user is in
that user's row, so that deleting the row forgets the user; reading works with rows that were deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse

from reclm.backbones.fitted import Fitted, Vectors
from reclm.backbones.fold_in import FoldIn
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting
from reclm.errors import ModelError
from reclm.settings.recommenders import FusionSettings, TrainSettings
from reclm.storage.files import read_json, write_json, write_table
from reclm.storage.schemas import backbone_schema

CONFIG, PARAMETERS, USERS, ITEMS = "config.json", "parameters.safetensors", "users.parquet", "items.parquet"
FOLD_IN = "fold_in.safetensors"


def write(fitted: Fitted, name: str, train: TrainSettings, fusion: FusionSettings, path: Path) -> None:
    """Write the fitted backbone called `name`, and the settings that it was made with, into the folder `path`."""
    path.mkdir(parents=True, exist_ok=True)
    known = fitted.known.tocsr()
    items_known = pa.ListArray.from_arrays(pa.array(known.indptr, pa.int32()), pa.array(known.indices, pa.int32()))
    for file, kind, ids, id_vectors in (
        (USERS, "user", fitted.user_ids, fitted.user_id_vectors),
        (ITEMS, "item", fitted.item_ids, fitted.item_id_vectors),
    ):
        matrices = {"id_vector": id_vectors}
        for setting, vectors in _own_vectors(fitted.vectors).items():
            matrices[f"{setting}_vector"] = getattr(vectors, f"{kind}s")
            if kind == "item" and vectors.unseen is not None:
                matrices[f"{setting}_unseen_vector"] = vectors.unseen
        columns: dict[str, Any] = {f"{kind}_id": ids.tolist(), "index": np.arange(len(ids))}
        columns |= {column: _lists(rows) for column, rows in matrices.items()}
        if kind == "user":
            columns["known_items"] = items_known
        schema = backbone_schema(kind, {column: rows.shape[1] for column, rows in matrices.items()})
        write_table(path / file, pa.table(columns, schema=schema))
    save_file({key: np.ascontiguousarray(value) for key, value in fitted.networks.items()}, path / PARAMETERS)
    if fitted.fold_in is not None:
        save_file(fitted.fold_in.arrays(), path / FOLD_IN)
    config = {
        "name": name,
        "train": train.model_dump(),
        "fusion": fusion.model_dump(),
        **fitted.description,
    }
    write_json(path / CONFIG, config)


def read(path: Path) -> tuple[str, TrainSettings, FusionSettings, Fitted]:
    """Read what `write` wrote: name, settings, and the fitted backbone. Raises ModelError naming a missing file."""
    for file in (CONFIG, PARAMETERS, USERS, ITEMS):
        if not (path / file).exists():
            raise ModelError(
                f"{path / file} does not exist, and every saved backbone has it; run `reclm train` to make one"
            )
    config = read_json(path / CONFIG)
    name, train, fusion = config.pop("name"), config.pop("train"), config.pop("fusion")
    users, items = (pq.read_table(path / file).sort_by("index") for file in (USERS, ITEMS))
    fitted = Fitted(
        user_ids=_ids(users, "user_id"),
        item_ids=_ids(items, "item_id"),
        known=_known(users, items),
        vectors=_all_vectors(users, items),
        user_id_vectors=_matrix(users, "id_vector"),
        item_id_vectors=_matrix(items, "id_vector"),
        description=config,
        networks=load_file(path / PARAMETERS),
        fold_in=FoldIn.of(load_file(path / FOLD_IN)) if (path / FOLD_IN).exists() else None,
    )
    return name, TrainSettings(**train), FusionSettings(**fusion), fitted


def _own_vectors(vectors: Mapping[EvaluationSetting, Vectors]) -> dict[EvaluationSetting, Vectors]:
    """The vectors of the first setting, and of those that do not share them."""
    first = EVALUATION_SETTINGS[0]
    return {s: v for s, v in vectors.items() if s == first or v is not vectors[first]}


def _all_vectors(users: pa.Table, items: pa.Table) -> dict[EvaluationSetting, Vectors]:
    """The vectors of each setting. One without columns of its own shares those of the first setting."""
    shared = _vectors(users, items, EVALUATION_SETTINGS[0])
    own = {s: _vectors(users, items, s) for s in EVALUATION_SETTINGS[1:] if f"{s}_vector" in items.column_names}
    return dict.fromkeys(EVALUATION_SETTINGS, shared) | own


def _vectors(users: pa.Table, items: pa.Table, setting: str) -> Vectors:
    unseen = f"{setting}_unseen_vector"
    return Vectors(
        _matrix(users, f"{setting}_vector"),
        np.asfortranarray(_matrix(items, f"{setting}_vector")),  # column order makes scoring one user twice as fast
        _matrix(items, unseen) if unseen in items.column_names else None,
    )


def _lists(rows: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).ravel(), pa.float32()), rows.shape[1])


def _matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    rows = table.column(column).combine_chunks()
    return rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), rows.type.list_size).astype(np.float32)


def _ids(table: pa.Table, column: str) -> NDArray[np.str_]:
    return np.asarray(table.column(column).to_pylist(), dtype=np.str_)


def _known(users: pa.Table, items: pa.Table) -> sparse.csr_matrix:
    """(n_users, n_items) over the rows that are there, from item positions of the time of saving."""
    lists = users.column("known_items").combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    old_positions = items.column("index").to_numpy()
    position = np.full(int(old_positions.max(initial=-1)) + 1, -1)
    position[old_positions] = np.arange(len(old_positions))
    rows, old_columns = np.repeat(np.arange(len(lists)), lengths), lists.flatten().to_numpy(zero_copy_only=False)
    columns = np.where(old_columns < len(position), position[np.minimum(old_columns, len(position) - 1)], -1)
    there = columns >= 0
    entries = (np.ones(int(there.sum()), dtype=np.float32), (rows[there], columns[there]))
    return sparse.csr_matrix(entries, shape=(users.num_rows, items.num_rows))
