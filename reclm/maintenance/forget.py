"""Removing a person: every row that carries their id, in every file of the workspace, then the tables made from them.

Landing and artifacts are parquet, so removal is one rule: a file with a `user_id` column loses the person's rows, and
is replaced whole. The warehouse is rebuilt from what is left, from an empty file, so that no freed block keeps a
trace. Networks trained on many people keep their weights until the next training, which no longer sees the person; a
salted digest in `landing/forgotten.json` keeps later deliveries of old logs from bringing them back. Vectors of
profile texts stay, keyed by a hash of the text: they carry no id, and several people may share one text.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import InputError
from reclm.progress import track
from reclm.storage.files import read_json, write_json, write_table
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

USER_COLUMNS = ("user_id",)


def digest(salt: str, user_id: str) -> str:
    """How a forgotten person is remembered: SHA-256 of salt and id, in hex."""
    return hashlib.sha256(f"{salt}{user_id}".encode()).hexdigest()


def _remember(workspace: Workspace, user_id: str) -> None:
    path = workspace.landing / "forgotten.json"
    content: dict[str, Any] = read_json(path) if path.exists() else {"salt": secrets.token_hex(16), "digests": []}
    content["digests"] = sorted({*content["digests"], digest(content["salt"], user_id)})
    write_json(path, content)


def _is_remembered(workspace: Workspace, user_id: str) -> bool:
    """True when forgetting this person has begun before: a run that was cut short is simply done again, to its end."""
    path = workspace.landing / "forgotten.json"
    content = read_json(path) if path.exists() else None
    return content is not None and digest(content["salt"], user_id) in content["digests"]


def drop_rows(file: Path, user_id: str) -> int:
    """Rewrites one parquet file without the person's rows, in one step. Returns how many rows went."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = [name for name in USER_COLUMNS if name in pq.read_schema(file).names]
    if not columns:
        return 0
    table = pq.read_table(file)
    keep = pa.array([True] * 0)
    for name in columns:
        differs = pc.fill_null(pc.not_equal(table[name].cast(pa.string()), user_id), True)
        keep = differs if len(keep) == 0 else pc.and_(keep, differs)
    kept = table.filter(keep)
    gone = table.num_rows - kept.num_rows
    if gone:
        write_table(file, kept)
    return int(gone)


def remove_user(settings: Settings, user_id: str) -> dict[str, int]:
    """Remove a user's rows from every file and from the online store. Returns the number of removed rows by folder.

    The warehouse that dbt builds in is deleted; the caller builds it again from what is left (`stages.forget`). Raises
    InputError when no row anywhere carries the id (and records nothing), so that a mistyped id is noticed.
    """
    from reclm.features.online_writer import forget_user
    from reclm.ingest.collected import land_collected

    workspace = settings.paths
    land_collected(settings)  # what services have logged may be of this user too
    places = [workspace.landing, workspace.artifacts, workspace.root / "warehouse", workspace.feast]
    files = [(place, file) for place in places for file in sorted(place.rglob("*.parquet")) if not file.is_symlink()]
    if not _is_remembered(workspace, user_id) and not any(_holds(file, user_id) for _, file in files):
        raise InputError(f"no row in {workspace.root} carries user id {user_id!r}; check the spelling")
    _remember(workspace, user_id)
    removed = {"online": forget_user(settings, user_id)}
    for place, file in track(files, "forgetting"):
        removed[place.name] = removed.get(place.name, 0) + drop_rows(file, user_id)
    shutil.rmtree(workspace.artifacts / ".partial", ignore_errors=True)
    shutil.rmtree(
        workspace.report.parent, ignore_errors=True
    )  # its example may be this user; `reclm report` writes it again
    for database in (workspace.build_database, workspace.build_database.with_suffix(".duckdb.wal")):
        database.unlink(missing_ok=True)
    return removed


def _holds(file: Path, user_id: str) -> bool:
    import duckdb

    with duckdb.connect() as connection:
        names = {row[0] for row in connection.execute("select name from parquet_schema(?)", [str(file)]).fetchall()}
        columns = [name for name in USER_COLUMNS if name in names]
        return any(
            connection.execute(
                f"select count(*) from read_parquet(?) where cast({name} as varchar) = ?", [str(file), user_id]
            ).fetchall()[0][0]
            for name in columns
        )
