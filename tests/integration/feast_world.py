"""Small hand-made marts, as dbt would leave them, and a small warehouse: what the feature tests publish and read."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.features import fused, online, store
from reclm.features.publish import publish
from reclm.settings.tree import Settings
from reclm.storage.files import write_json

T1, T2, T3 = (datetime(2000, 1, day, tzinfo=UTC) for day in (2, 3, 4))
DIMENSION = 384
TIME = pa.timestamp("us", tz="UTC")
VECTOR = pa.list_(pa.float32())
CLOCKS = [("as_of", TIME), ("created_at", TIME)]
PROFILE = [
    ("profile", pa.string()),
    ("embedding", VECTOR),
    ("quality", pa.float32()),
    ("engine", pa.string()),
    ("flag", pa.string()),
]
USER_COUNTS = [
    ("n_interactions", pa.int64()),
    ("n_categories", pa.int64()),
    ("last_interaction_us", pa.int64()),
    ("activity", pa.string()),
]
ITEM_COUNTS = [
    ("n_interactions", pa.int64()),
    ("n_users_recent", pa.int64()),
    ("popularity_rank", pa.int64()),
    ("coldness", pa.string()),
]
SCHEMAS = {
    "user_profile": pa.schema([("user_id", pa.string()), *CLOCKS, *PROFILE]),
    "item_profile": pa.schema([("item_id", pa.string()), *CLOCKS, *PROFILE]),
    "item_content": pa.schema([("item_id", pa.string()), *CLOCKS, ("title", pa.string()), ("embedding", VECTOR)]),
    "user_activity": pa.schema([("user_id", pa.string()), *CLOCKS, *USER_COUNTS]),
    "item_activity": pa.schema([("item_id", pa.string()), *CLOCKS, *ITEM_COUNTS]),
}
USERS = ["u1", "u 2", "ü'3", "4"]
ITEMS = ["i1", "i2", "i3"]
VIEWS = tuple(SCHEMAS)

Row = dict[str, Any]
Marts = dict[str, list[Row]]

_build = itertools.count()


def vector(*seed: object) -> NDArray[np.float32]:
    """A unit vector that is the same for the same words."""
    drawn = np.random.default_rng(list(repr(seed).encode())).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def profile_row(column: str, one: str, as_of: datetime) -> Row:
    text = f"User identity: {one}; User interests: {as_of.date()}"
    about = {"profile": text, "embedding": vector("profile", one, as_of), "quality": 0.5, "engine": "extractive"}
    return {column: one, "as_of": as_of, "created_at": as_of, **about, "flag": ""}


def marts(*moments: datetime) -> Marts:
    """Every user and item at every moment (T1 and T2 unless said)."""
    rows: Marts = {view: [] for view in VIEWS}
    for as_of in moments or (T1, T2):
        clocks = {"as_of": as_of, "created_at": as_of}
        for number, user in enumerate(USERS):
            rows["user_profile"].append(profile_row("user_id", user, as_of))
            about = {"n_interactions": number, "n_categories": 1, "last_interaction_us": 1, "activity": "1-3"}
            rows["user_activity"].append({"user_id": user, **clocks, **about})
        for number, item in enumerate(ITEMS):
            rows["item_profile"].append(profile_row("item_id", item, as_of))
            content = {"title": f"Title of {item}", "embedding": vector("content", item, as_of)}
            rows["item_content"].append({"item_id": item, **clocks, **content})
            popularity = {"n_users_recent": 1, "popularity_rank": number + 1, "coldness": "1-3"}
            rows["item_activity"].append({"item_id": item, **clocks, "n_interactions": number, **popularity})
    return copy.deepcopy(rows)


def row_of(rows: Marts, view: str, one: str, as_of: datetime) -> Row:
    """The row of one id at one moment, to be changed in place."""
    key = "user_id" if view.startswith("user") else "item_id"
    return next(row for row in rows[view] if row[key] == one and row["as_of"] == as_of)


def at(rows: Marts, as_of: datetime) -> Marts:
    """The same features as a build of another moment would have them."""
    return {view: [row | {"as_of": as_of, "created_at": as_of} for row in mart] for view, mart in rows.items()}


def write_marts(settings: Settings, rows: Marts, schemas: dict[str, pa.Schema] | None = None) -> None:
    """Leaves the rows where a good build leaves them, and points the workspace at it."""
    workspace = settings.paths
    root = workspace.external / f"build-{next(_build)}"
    root.mkdir(parents=True)
    for view in VIEWS:
        table = pa.Table.from_pylist(rows[view], schema=(schemas or {}).get(view, SCHEMAS[view]))
        pq.write_table(table, root / f"feast_{view}.parquet")
    marts = {file.stem: file.relative_to(workspace.root).as_posix() for file in root.iterdir()}
    write_json(workspace.current_build, {"build_id": root.name, "fingerprint": root.name, "marts": marts})


def write_warehouse(
    settings: Settings,
    users: list[str],
    items: list[str],
    known: list[tuple[str, str, str]],
    moments: tuple[datetime, datetime] = (T1, T2),
) -> None:
    """The tables the training frame reads; `known` are (snapshot, user_id, item_id), `moments` those of snapshots."""
    file = settings.paths.warehouse
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table dim_users (user_id varchar, user_index bigint)")
        connection.execute("create table dim_items (item_id varchar, item_index bigint, full_text varchar)")
        connection.execute("create table int_snapshots (snapshot varchar, as_of timestamptz, ts_is_synthetic boolean)")
        connection.execute("create table fct_known_interactions (snapshot varchar, user_id varchar, item_id varchar)")
        feedback = "user_id varchar, item_id varchar, event_ts timestamptz, weight double"
        connection.execute(f"create table fct_feedback ({feedback})")
        connection.execute("insert into int_snapshots values ('select', ?, false), ('final', ?, false)", list(moments))
        connection.executemany(
            "insert into dim_users values (?, ?)", [[user, index] for index, user in enumerate(sorted(users))]
        )
        texts = [None if index == 0 else f"Text of {item}" for index, item in enumerate(items)]
        rows = [[item, index, texts[index]] for index, item in enumerate(items)]
        connection.executemany("insert into dim_items values (?, ?, ?)", rows[::-1])
        connection.executemany("insert into fct_known_interactions values (?, ?, ?)", known)


def snapshot_of_files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder and its bytes; Feast's own bookkeeping and SQLite's log aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".json")
    }


def redis_client(port: int) -> Any:
    """A client of the database that the tests use."""
    from redis import Redis

    return Redis(host="127.0.0.1", port=port, db=3)


def publish_marts(settings: Settings, rows: Marts, **options: Any) -> dict[str, Any]:
    write_marts(settings, rows)
    return publish(settings, **options)


def read_user(settings: Settings, user_id: str, model_version: str = "") -> online.UserFeatures | None:
    return online.read_user(store.open_store(settings), user_id, model_version)


def read_profile(settings: Settings, user_id: str) -> online.Profile:
    features = read_user(settings, user_id)
    assert features is not None
    assert features.profile is not None
    return features.profile


def read_everything(settings: Settings) -> tuple[list[Any], list[Any]]:
    """All that readers see, online and offline, in a form that can be compared."""
    feast = store.open_store(settings)
    users = [repr(online.read_user(feast, user)) for user in USERS]
    items = [repr(item) for item in online.read_items(feast, ITEMS).values()]
    current = store.offline_path(settings.paths) / "current"
    tables = [pq.read_table(current / f"{view}.parquet").to_pylist() for view in VIEWS]
    return users + items, tables


def vectors(kind: str, version: str, ids: list[str], dim: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([vector(kind, version, one)[:dim] for one in ids])


def publish_vectors(settings: Settings, version: str, as_of: datetime = T2, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "user_ids": np.array(USERS),
        "user_vectors": vectors("user", version, USERS),
        "item_ids": np.array(ITEMS),
        "item_vectors": vectors("item", version, ITEMS),
        "as_of": as_of,
    }
    return fused.publish_fused(settings, version, **(arguments | changes))
