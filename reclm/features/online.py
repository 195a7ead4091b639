"""The online store: ids come in, what is known of them now goes out, in one look-up a request.

The reads here are all that `reclm recommend` and the service use. The rest of the module is for the one writer: which
rows are held, write rows, delete rows, whose Redis database it is. Feast has no call that deletes a row, so deleting
speaks to SQLite or Redis in Feast's own key encoding.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.errors import PublishError, WorkspaceError
from reclm.features.store import (
    Side,
    Store,
    applied_path,
    apply_definitions,
    model_versions,
    offline_path,
    online_name,
    redis_address,
    remove_other_versions,
    vector_file,
    write_parquet,
    writing,
)
from reclm.progress import track
from reclm.settings import Settings
from reclm.workspace import read_json

if TYPE_CHECKING:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

Key = tuple[str, ...]

CHUNK = 2000
_UNREAD = ("as_of_us", "row_hash")  # asked for besides, or of no use to a reader
PROJECT = "reclm"  # as feature_store.yaml says; part of every table and key
OWNER_KEY = "reclm:workspace"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Held(NamedTuple):
    """What the online store says of a row it holds."""

    as_of_us: int
    row_hash: str


class Rows(NamedTuple):
    """Some features of some keys of a view."""

    view: str
    keys: Sequence[Key]
    features: list[str]


@dataclass(frozen=True)
class Profile:
    """A profile as published: its text, its embedding float32 (dim,) or None, and where it comes from."""

    text: str
    embedding: NDArray[np.float32] | None
    quality: float | None
    engine: str
    flag: str
    as_of: datetime


@dataclass(frozen=True)
class UserFeatures:
    """All that is known online of a user. `vector` is the fused vector float32 (dim,) of the model version asked for."""

    user_id: str
    profile: Profile | None
    n_interactions: int | None
    n_categories: int | None
    days_since_last: float | None
    activity: str | None
    activity_as_of: datetime | None
    vector: NDArray[np.float32] | None
    vector_as_of: datetime | None


@dataclass(frozen=True)
class ItemFeatures:
    """All that is known online of an item. `content` and `vector` are float32 (dim,)."""

    item_id: str
    title: str | None
    content: NDArray[np.float32] | None
    content_as_of: datetime | None
    profile: Profile | None
    n_interactions: int | None
    n_users_recent: int | None
    popularity_rank: int | None
    coldness: str | None
    activity_as_of: datetime | None
    vector: NDArray[np.float32] | None
    vector_as_of: datetime | None


def read_user(store: Store, user_id: str, model_version: str = "") -> UserFeatures | None:
    """One user by feature service `serving_v1`, in one look-up; None when nothing is published of them.

    Without a model version the fused vector is left out.
    """
    return read_users(store, [user_id], model_version)[0]


def read_users(store: Store, user_ids: Sequence[str], model_version: str = "") -> list[UserFeatures | None]:
    """The same of some users, in one look-up for all of them, in their order."""
    wanted: list[Rows] = []
    for view in store.services["serving_v1"].feature_view_projections:
        versioned = "model_version" in store.join_keys[view.name]
        keys = [(one, model_version) if versioned else (one,) for one in user_ids]
        wanted.append(Rows(view.name, keys, [one.name for one in view.features if one.name not in _UNREAD]))
    rows: list[dict[str, Any]] = [{} for _ in user_ids]
    for part, answers in zip(wanted, _several(store, wanted), strict=True):
        for row, found in zip(rows, answers, strict=True):
            row.update({f"{part.view}__{name}": _value(found and found[name]) for name in part.features})
            row[f"{part.view}__as_of_us"] = _value(found and found["as_of_us"])
    return [_user(*pair) for pair in zip(user_ids, rows, strict=True)]


def _several(store: Store, wanted: Sequence[Rows]) -> list[list[dict[str, Any] | None]]:
    """`rows_of` several views. Of Redis all is asked at once: Feast would go there and back for each view."""
    if store.settings.feast.online_store != "redis":
        return [rows_of(store, one.view, one.keys, one.features) for one in wanted]
    from feast.infra.online_stores.helpers import _mmh3

    held: Any = store.feast.provider.online_store
    pipeline = held._get_client(store.feast.config.online_store).pipeline(transaction=False)
    for one in wanted:
        fields = [_mmh3(f"{one.view}:{name}") for name in ("as_of_us", *one.features)]
        for key in one.keys:
            pipeline.hmget(_encoded(store, one.view, key) + PROJECT.encode(), fields)
    answers = iter(pipeline.execute())
    return [[_parsed(("as_of_us", *one.features), next(answers)) for _ in one.keys] for one in wanted]


def _parsed(names: Sequence[str], cells: Sequence[bytes | None]) -> dict[str, Any] | None:
    """The row of one key, None where Redis does not hold it."""
    from feast.protos.feast.types.Value_pb2 import Value

    if cells[0] is None:
        return None
    return {name: None if cell is None else Value.FromString(cell) for name, cell in zip(names, cells, strict=True)}


def _value(value: Any) -> Any:
    """What a Feast value holds; None for nothing."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None:
        return None
    held = getattr(value, kind)
    return held.val if kind.endswith("_list_val") else held


def _user(user_id: str, row: dict[str, Any]) -> UserFeatures | None:
    features = UserFeatures(
        user_id=user_id,
        profile=_profile(row, "user_profile"),
        n_interactions=row["user_activity__n_interactions"],
        n_categories=row["user_activity__n_categories"],
        days_since_last=row["user_activity__days_since_last"],
        activity=row["user_activity__activity"],
        activity_as_of=_instant(row["user_activity__as_of_us"]),
        vector=_vector(row["user_fused__vector"]),
        vector_as_of=_instant(row["user_fused__as_of_us"]),
    )
    known = (features.profile, features.activity_as_of, features.vector_as_of)
    return None if all(part is None for part in known) else features


def read_items(store: Store, item_ids: Sequence[str], model_version: str = "") -> dict[str, ItemFeatures]:
    """Some items by feature service `catalogue_v1`, by id; an item of which nothing is published is left out."""
    if not item_ids:
        return {}
    rows = _read(store, "catalogue_v1", {"item_id": list(item_ids), "model_version": [model_version] * len(item_ids)})
    found: dict[str, ItemFeatures] = {}
    for item_id, row in zip(item_ids, rows, strict=True):
        features = ItemFeatures(
            item_id=item_id,
            title=row["item_content__title"],
            content=_vector(row["item_content__embedding"]),
            content_as_of=_instant(row["item_content__as_of_us"]),
            profile=_profile(row, "item_profile"),
            n_interactions=row["item_activity__n_interactions"],
            n_users_recent=row["item_activity__n_users_recent"],
            popularity_rank=row["item_activity__popularity_rank"],
            coldness=row["item_activity__coldness"],
            activity_as_of=_instant(row["item_activity__as_of_us"]),
            vector=_vector(row["item_fused__vector"]),
            vector_as_of=_instant(row["item_fused__as_of_us"]),
        )
        known = (features.content_as_of, features.profile, features.activity_as_of, features.vector_as_of)
        if any(part is not None for part in known):
            found[item_id] = features
    return found


def read_fused(store: Store, side: Side, ids: Sequence[str], model_version: str) -> NDArray[np.float32]:
    """Fused vectors of one model version, float32 (len(ids), dim); a row of NaN for an id without one.

    (len(ids), 0) when none of the ids has a vector of that version.
    """
    rows = rows_of(store, f"{side}_fused", [(one, model_version) for one in ids], ["vector"])
    vectors = [None if row is None else np.array(row["vector"].float_list_val.val, dtype=np.float32) for row in rows]
    width = next((len(vector) for vector in vectors if vector is not None), 0)
    matrix = np.full((len(ids), width), np.nan, dtype=np.float32)
    for position, vector in enumerate(vectors):
        if vector is not None:
            matrix[position] = vector
    return matrix


def held_rows(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, Held]:
    """What the online store holds of `keys` in a view; keys it does not know are absent."""
    return {"sqlite": _held_sqlite, "redis": _held_redis}[store.settings.feast.online_store](store, view, keys)


def write_rows(store: Store, view: str, table: pa.Table) -> None:
    """Puts every row online, replacing what is held of the same key. Writing a row twice is writing it once."""
    starts = range(0, table.num_rows, CHUNK)
    for start in track(starts, f"{view} online"):
        store.feast.write_to_online_store(view, df=table.slice(start, CHUNK).to_pandas())


def delete_rows(store: Store, view: str, keys: Sequence[Key]) -> int:
    """Removes `keys` from a view, on disk too. Returns how many of them were there."""
    if not keys:
        return 0
    encoded = [_encoded(store, view, key) for key in keys]
    return {"sqlite": _delete_sqlite, "redis": _delete_redis}[store.settings.feast.online_store](store, view, encoded)


def forget_user(settings: Settings, user_id: str) -> int:
    """Removes a person from every view, online and offline; returns how many rows went.

    What lies upstream (landing, artifacts, warehouse) is not this function's: publishing a build that still holds the
    user brings them back.
    """
    workspace = settings.paths
    if not applied_path(workspace).exists():
        return 0
    with writing(workspace):
        feast = apply_definitions(settings)
        versions = model_versions(workspace)
        removed = delete_rows(feast, "user_fused", [(user_id, version) for version in versions])
        removed += sum(delete_rows(feast, view, [(user_id,)]) for view in ("user_profile", "user_activity"))
        current = offline_path(workspace) / "current"
        files = [current.resolve() / f"{view}.parquet" for view in ("user_profile", "user_activity")]
        files += [vector_file(workspace, "user", version) for version in versions]
        removed += sum(_drop_user(file, user_id) for file in files if file.exists())
        remove_other_versions(workspace)
    return removed


def claim(settings: Settings) -> None:
    """Makes sure that the online store belongs to this workspace alone and answers.

    A file in the workspace does by nature; a Redis database is marked with the workspace's id. Raises PublishError
    when it carries another's: two data sets in one key space would overwrite each other's users.
    """
    if settings.feast.online_store != "redis":
        return
    owner = read_json(applied_path(settings.paths))["owner"]
    with redis_client(settings) as client:
        client.set(OWNER_KEY, owner, nx=True)
        held = client.get(OWNER_KEY).decode()
    if held != owner:
        raise PublishError(
            f"the Redis database {online_name(settings)} holds the features of another workspace; "
            "give this one a database of its own (feast.redis_url=…,db=1), or empty that one with `redis-cli flushdb`"
        )


def is_filled(settings: Settings, views: Sequence[str]) -> bool:
    """Whether the online store still holds rows of these views, so far as can be told at a glance.

    A Redis server that lost its memory has lost the workspace's mark too; a file may be gone, or new and empty.
    """
    if settings.feast.online_store == "redis":
        with redis_client(settings) as client:
            mark = client.get(OWNER_KEY)
        return bool(mark and mark.decode() == read_json(applied_path(settings.paths))["owner"])
    with closing(sqlite3.connect(settings.paths.feast / "online.db")) as connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
        return all(
            f"{PROJECT}_{view}" in tables and connection.execute(f'select 1 from "{PROJECT}_{view}" limit 1').fetchone()
            for view in views
        )


@contextmanager
def redis_client(settings: Settings) -> Iterator[Any]:
    """A client of the Redis server that Feast uses. Raises WorkspaceError when it does not answer."""
    from redis import Redis
    from redis.exceptions import RedisError

    host, port, given = redis_address(settings.feast.redis_url)
    try:
        with closing(
            Redis(
                host=host,
                port=port,
                db=int(given.get("db", 0)),
                username=given.get("username"),
                password=given.get("password"),
                ssl=given.get("ssl", "").lower() == "true",
            )
        ) as client:
            yield client
    except RedisError as error:
        remedy = "start the server, correct feast.redis_url, or set feast.online_store=sqlite"
        raise WorkspaceError(f"{online_name(settings)} does not answer ({error}); {remedy}") from None


def _read(store: Store, service: str, entities: dict[str, list[str]]) -> list[dict[str, Any]]:
    columns = store.feast.get_online_features(
        features=store.services[service], entity_rows=entities, full_feature_names=True
    ).to_dict()
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _profile(row: dict[str, Any], view: str) -> Profile | None:
    as_of = _instant(row[f"{view}__as_of_us"])
    if as_of is None:
        return None
    return Profile(
        text=row[f"{view}__profile"] or "",
        embedding=_vector(row[f"{view}__embedding"]),
        quality=row[f"{view}__quality"],
        engine=row[f"{view}__engine"] or "",
        flag=row[f"{view}__flag"] or "",
        as_of=as_of,
    )


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else EPOCH + timedelta(microseconds=microseconds)


def _vector(numbers: list[float] | None) -> NDArray[np.float32] | None:
    return np.array(numbers, dtype=np.float32) if numbers else None


def _entity_key(store: Store, view: str, key: Key) -> EntityKey:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=store.join_keys[view], entity_values=[Value(string_val=part) for part in key])


def _encoded(store: Store, view: str, key: Key) -> bytes:
    from feast.infra.key_encoding_utils import serialize_entity_key

    return serialize_entity_key(_entity_key(store, view, key), store.feast.config.entity_key_serialization_version)


def rows_of(store: Store, view: str, keys: Sequence[Key], features: list[str]) -> list[dict[str, Any] | None]:
    """Feature values (protobuf) of each key, or None where the view holds none of it.

    One level below Feast's get_online_features, which takes twice as long on many rows. Redis answers a key it does
    not know with empty values, so a row counts as held when it says its as_of.
    """
    rows: list[dict[str, Any] | None] = []
    for start in range(0, len(keys), CHUNK):
        entity_keys = [_entity_key(store, view, key) for key in keys[start : start + CHUNK]]
        wanted = ["as_of_us", *features]
        found = store.feast.provider.online_read(store.feast.config, store.views[view], entity_keys, wanted)
        rows.extend(values if values and values["as_of_us"].WhichOneof("val") else None for _, values in found)
    return rows


def _held_redis(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, Held]:
    rows = zip(keys, rows_of(store, view, keys, ["row_hash"]), strict=True)
    return {key: Held(row["as_of_us"].int64_val, row["row_hash"].string_val) for key, row in rows if row is not None}


def _held_sqlite(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, Held]:
    """Straight from the file: Feast's read would fetch the vectors of every row too, at ten times the cost."""
    from feast.protos.feast.types.Value_pb2 import Value

    held: dict[Key, Held] = {}
    with closing(_sqlite(store)) as connection:
        for start in range(0, len(keys), CHUNK):
            encoded = {_encoded(store, view, key): key for key in keys[start : start + CHUNK]}
            found = connection.execute(
                f"select stamp.entity_key, stamp.value, fingerprint.value from {_table(store, view)} as stamp "
                f"inner join {_table(store, view)} as fingerprint on fingerprint.entity_key = stamp.entity_key "
                "and fingerprint.feature_name = 'row_hash' where stamp.feature_name = 'as_of_us' "
                f"and stamp.entity_key in ({', '.join('?' * len(encoded))})",
                list(encoded),
            )
            for key, as_of_us, row_hash in found:
                held[encoded[key]] = Held(Value.FromString(as_of_us).int64_val, Value.FromString(row_hash).string_val)
    return held


def _sqlite(store: Store) -> sqlite3.Connection:
    return sqlite3.connect(store.feast.config.online_store.path, timeout=60)


def _table(store: Store, view: str) -> str:
    return f'"{PROJECT}_{view}"'


def _drop_user(file: Path, user_id: str) -> int:
    table = pq.read_table(file)
    kept = table.filter(pc.not_equal(table["user_id"], user_id))
    if kept.num_rows < table.num_rows:
        write_parquet(file, kept)
    return int(table.num_rows - kept.num_rows)


def _delete_sqlite(store: Store, view: str, encoded: list[bytes]) -> int:
    table = _table(store, view)
    with closing(_sqlite(store)) as connection:
        connection.execute("pragma secure_delete = on")
        with connection:
            deleted = sum(
                connection.execute(f"delete from {table} where entity_key = ?", (key,)).rowcount > 0 for key in encoded
            )
        connection.execute("pragma wal_checkpoint(truncate)")
    return deleted


def _delete_redis(store: Store, view: str, encoded: list[bytes]) -> int:
    from feast.infra.online_stores.helpers import _mmh3

    fields = [_mmh3(f"{view}:{feature.name}") for feature in store.views[view].features]
    with redis_client(store.settings) as client:
        pipeline = client.pipeline(transaction=False)
        for key in encoded:
            pipeline.hdel(key + PROJECT.encode(), *fields, f"_ts:{view}")
        return sum(count > 0 for count in pipeline.execute())
