"""Compare, write and delete rows of the online store.

In: feature rows or keys. Out: changed rows in SQLite or Redis. Feast cannot delete a row, so deletion uses SQLite or
Redis directly, in Feast's own key encoding.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pyarrow as pa

from reclm.errors import PublishError, WorkspaceError
from reclm.features.online import BATCH_SIZE, PROJECT, Key, encoded_key, rows_of
from reclm.features.store import (
    Store,
    applied_path,
    apply_definitions,
    model_versions,
    offline_path,
    online_name,
    redis_address,
    writing,
)
from reclm.progress import track
from reclm.settings.tree import Settings
from reclm.storage.erasures import drop_rows
from reclm.storage.files import read_json

SERVER_SECONDS = 600.0
OWNER_KEY = "reclm:workspace"


class StoredRow(NamedTuple):
    """Hold the two stamps of a row in the online store."""

    as_of_us: int
    row_hash: str


def stored_rows(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, StoredRow]:
    """Read the stamps of `keys` in a view, as {key: stamps}; keys without a row are absent."""
    return {"sqlite": _stored_in_sqlite, "redis": _stored_in_redis}[store.settings.feast.online_store](
        store, view, keys
    )


def write_rows(store: Store, view: str, table: pa.Table) -> None:
    """Write every row online, replacing the row of the same key. Writing a row twice changes nothing."""
    starts = range(0, table.num_rows, BATCH_SIZE)
    for start in track(starts, f"{view} online"):
        store.feast.write_to_online_store(view, df=table.slice(start, BATCH_SIZE).to_pandas())


def delete_rows(store: Store, view: str, keys: Sequence[Key]) -> int:
    """Delete `keys` from a view, also from the disk; returns how many existed."""
    if not keys:
        return 0
    encoded = [encoded_key(store, view, key) for key in keys]
    return {"sqlite": _delete_sqlite, "redis": _delete_redis}[store.settings.feast.online_store](store, view, encoded)


def forget_users(settings: Settings, user_ids: set[str]) -> int:
    """Delete users from every view, online and offline; returns the number of deleted rows.

    Landing, artifacts and warehouse are not changed here: publishing a build that still contains the users brings the
    rows back.
    """
    workspace = settings.paths
    if not applied_path(workspace).exists():
        return 0
    with writing(workspace):
        feast = apply_definitions(settings)
        versions = model_versions(workspace)
        removed = delete_rows(feast, "user_fused", [(one, version) for one in user_ids for version in versions])
        views = ("user_profile", "user_activity", "user_recent")
        removed += sum(delete_rows(feast, view, [(one,) for one in user_ids]) for view in views)
        removed += sum(drop_rows(file, user_ids) for file in sorted(offline_path(workspace).rglob("*.parquet")))
    return removed


def rewrite_server_files(settings: Settings) -> None:
    """Have a Redis server write its files again, so that they no longer hold deleted rows; wait until it has.

    Raises WorkspaceError when the server refuses or fails. A SQLite file overwrites deleted rows by itself.
    """
    if settings.feast.online_store != "redis" or not applied_path(settings.paths).exists():
        return
    with redis_client(settings) as client:
        begin = []
        if client.info("persistence")["aof_enabled"]:
            begin.append((client.bgrewriteaof, "aof_last_bgrewrite_status"))
        if client.config_get("save").get("save"):
            begin.append((client.bgsave, "rdb_last_bgsave_status"))
        for write, outcome in begin:
            _when_idle(client)
            write()
            about = _when_idle(client)
            if about[outcome] != "ok":
                raise WorkspaceError(
                    f"{online_name(settings)} could not write its files again ({outcome} {about[outcome]}), and they "
                    "still hold deleted rows; read its log, then run this again"
                )


def _when_idle(client: Any) -> dict[str, Any]:
    """Wait until a Redis server writes none of its files; return what it says about them."""
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        about = dict(client.info("persistence"))
        writing = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        if not any(about[name] for name in writing):
            return about
        if time.monotonic() > deadline:
            raise WorkspaceError(f"Redis is still writing its files after {SERVER_SECONDS:g} seconds; run this again")
        time.sleep(0.05)


def claim_online_store(settings: Settings) -> None:
    """Make sure that the online store answers and belongs to this workspace only.

    A SQLite file is inside the workspace; a Redis database is marked with the workspace's id. Raises PublishError when
    it carries another id: two data sets in one database would overwrite each other's users.
    """
    if settings.feast.online_store != "redis":
        return
    owner = read_json(applied_path(settings.paths))["owner"]
    with redis_client(settings) as client:
        client.set(OWNER_KEY, owner, nx=True)
        stored = client.get(OWNER_KEY).decode()
    if stored != owner:
        host, port, options = redis_address(settings.feast.redis_url)
        raise PublishError(
            f"the Redis database {online_name(settings)} holds the features of another workspace or of this one before "
            "it was restored; give this one a database of its own (feast.redis_url=…,db=1), or, where nobody uses that "
            f"one, empty it with `redis-cli -h {host} -p {port} -n {options.get('db', 0)} flushdb`"
        )


def is_filled(settings: Settings, views: Sequence[str]) -> bool:
    """Return whether the online store seems to have rows of these views; a quick check.

    A Redis server that lost its data has lost the workspace's mark too; a SQLite file may be missing or empty.
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
    """Open a client of the Redis server that Feast uses. Raises WorkspaceError when it does not answer."""
    from redis import Redis
    from redis.exceptions import RedisError

    host, port, options = redis_address(settings.feast.redis_url)
    try:
        with closing(
            Redis(
                host=host,
                port=port,
                db=int(options.get("db", 0)),
                username=options.get("username"),
                password=options.get("password"),
                ssl=options.get("ssl", "").lower() == "true",
            )
        ) as client:
            yield client
    except RedisError as error:
        remedy = "start the server, correct feast.redis_url, or set feast.online_store=sqlite"
        raise WorkspaceError(f"{online_name(settings)} does not answer ({error}); {remedy}") from None


def _stored_in_redis(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, StoredRow]:
    rows = zip(keys, rows_of(store, view, keys, ["row_hash"]), strict=True)
    return {
        key: StoredRow(row["as_of_us"].int64_val, row["row_hash"].string_val) for key, row in rows if row is not None
    }


def _stored_in_sqlite(store: Store, view: str, keys: Sequence[Key]) -> dict[Key, StoredRow]:
    """Read the stamps from the file: Feast's read would also fetch all vectors and take ten times as long."""
    from feast.protos.feast.types.Value_pb2 import Value

    stored: dict[Key, StoredRow] = {}
    with closing(_sqlite(store)) as connection:
        for start in range(0, len(keys), BATCH_SIZE):
            encoded = {encoded_key(store, view, key): key for key in keys[start : start + BATCH_SIZE]}
            found = connection.execute(
                f"select stamp.entity_key, stamp.value, fingerprint.value from {_table(store, view)} as stamp "
                f"inner join {_table(store, view)} as fingerprint on fingerprint.entity_key = stamp.entity_key "
                "and fingerprint.feature_name = 'row_hash' where stamp.feature_name = 'as_of_us' "
                f"and stamp.entity_key in ({', '.join('?' * len(encoded))})",
                list(encoded),
            )
            for key, as_of_us, row_hash in found:
                stored[encoded[key]] = StoredRow(
                    Value.FromString(as_of_us).int64_val, Value.FromString(row_hash).string_val
                )
    return stored


def _sqlite(store: Store) -> sqlite3.Connection:
    return sqlite3.connect(store.feast.config.online_store.path, timeout=60)


def _table(store: Store, view: str) -> str:
    return f'"{PROJECT}_{view}"'


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
