"""Remove a user: every row that carries the id, in every file of the workspace, then the tables made from them.

In: a user id. Out: files and stores without it. The user is listed as erased first (`reclm.storage.erasures`), so that
everything written from then on, also by running services, leaves the user out. Parquet files lose the user's rows and
are replaced whole; answers and vectors that were made for the user alone go too. The warehouse is deleted, and the
caller builds it again from what is left, so that no freed block keeps a trace. Weights of networks are those of many
users and stay until the next training, which no longer sees the user. A run that was cut short is completed by doing it
again. Files that were delivered to the inbox are the sender's: they are not changed but named.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import InputError
from reclm.progress import track
from reclm.storage import audit
from reclm.storage.erasures import Erasures, drop_rows, is_listed, remember, users_of
from reclm.storage.files import read_json, write_atomically, write_json, write_table
from reclm.storage.schemas import PROFILE_FILES
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

MASK = "[erased]"
MESSAGE_FILES = ("runs/*.json", "landing/inbox.json", "landing/dataset.json", "artifacts/health/*/manifest.json")
MESSAGE_FIELDS = ("error", "about", "why", "notes", "staged")
"""Fields with messages in MESSAGE_FILES: of a run, on a refused file, on a batch, of a health artifact."""
MESSAGE_COLUMNS = {
    "landing/rejected/*.parquet": ("reason", "line"),
    "artifacts/health/*/checks.parquet": ("advice",),
}
"""{files: their columns with messages}."""


def remove_user(settings: Settings, user_id: str) -> dict[str, int]:
    """Remove a user from every file and from the online store. Returns the number of removed rows by folder.

    Call it in a block of `runs.no_stage_running`, and build the warehouse afterwards (`stages.forget`). Raises
    InputError when no row anywhere carries the id (and records nothing), so that a mistyped id is noticed.
    """
    from reclm.ingest.collected import land_collected

    workspace = settings.paths
    if not is_listed(workspace, user_id):
        land_collected(settings)  # what services have logged may be of this user too
        if not any(user_id in users_of(file) for _, file in _tables(workspace)):
            raise InputError(f"no row in {workspace.root} carries user id {user_id!r}; check the spelling")
    return _remove(settings, remember(workspace, [user_id]), {user_id})


def remove_again(settings: Settings) -> dict[str, int]:
    """Remove whoever was erased and is in the workspace again: after a back-up was restored. Returns as `remove_user`.

    Call it as `remove_user`.
    """
    workspace = settings.paths
    erased = remember(workspace, [])
    found = {user_id for _, file in _tables(workspace) for user_id in erased.among(users_of(file))}
    return _remove(settings, erased, found) if found else {}


def _tables(workspace: Workspace) -> list[tuple[str, Path]]:
    """Return (folder, file) of every parquet file in which users may have rows."""
    places = [workspace.landing, workspace.artifacts, workspace.root / "warehouse", workspace.feast]
    return [
        (place.name, file) for place in places for file in sorted(place.rglob("*.parquet")) if not file.is_symlink()
    ]


def _remove(settings: Settings, erased: Erasures, user_ids: set[str]) -> dict[str, int]:
    from reclm.features.online_writer import forget_users, rewrite_server_files
    from reclm.ingest.collected import land_collected

    workspace = settings.paths
    shutil.rmtree(workspace.artifacts / ".partial", ignore_errors=True)
    land_collected(settings)  # logged before the users were listed; landing leaves them out
    removed = {workspace.feast.name: forget_users(settings, user_ids)}
    rewrite_server_files(settings)
    removed["answers"] = _remove_answers(workspace, user_ids)
    others = [(folder, file) for folder, file in _tables(workspace) if folder != workspace.feast.name]
    for folder, file in track(others, "forgetting"):
        removed[folder] = removed.get(folder, 0) + drop_rows(file, user_ids)
    _mask_texts(workspace, user_ids)
    for place in (workspace.report.parent, workspace.external / "manual", workspace.build_database.parent / "dbt"):
        shutil.rmtree(place, ignore_errors=True)  # an example user, tables by hand, logs: `reclm` writes them again
    for half_written in workspace.root.rglob(".*.tmp"):
        if not half_written.is_relative_to(workspace.root / "serve"):
            half_written.unlink(missing_ok=True)  # half-written by killed processes; no stage runs now
    for database in (workspace.build_database, workspace.build_database.with_suffix(".duckdb.wal")):
        database.unlink(missing_ok=True)
    audit.record(workspace, "forget", users=sorted(map(erased.digest, user_ids)), removed=removed)
    return removed


def _remove_answers(workspace: Workspace, user_ids: set[str]) -> int:
    """Remove a language model's answers, and vectors, that no profile but those of these users was made from."""
    from reclm.text.encoder import text_hash

    of_them: dict[str, set[str]] = {"prompt_hash": set(), "text_hash": set()}
    of_others: dict[str, set[str]] = {"prompt_hash": set(), "text_hash": set()}
    for kind, file in (
        (kind, file) for kind, name in PROFILE_FILES.items() for file in _artifact_files(workspace, name)
    ):
        for row in _rows(file, [f"{kind}_id", "prompt_hash", "profile"]):
            seen = of_them if kind == "user" and row["user_id"] in user_ids else of_others
            seen["prompt_hash"].add(row["prompt_hash"])
            seen["text_hash"].add(text_hash(row["profile"] or ""))
    return sum(
        _drop(file, column, of_them[column] - of_others[column])
        for column, names in (("prompt_hash", "generations-*.parquet"), ("text_hash", "vectors-*.parquet"))
        for file in _artifact_files(workspace, names)
    )


def _artifact_files(workspace: Workspace, names: str) -> list[Path]:
    return sorted(workspace.artifacts.glob(f"*/*/{names}"))


def _rows(file: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=columns).to_pylist()


def _drop(file: Path, column: str, values: set[str]) -> int:
    """Rewrite a parquet file without the rows whose `column` is one of `values`; return how many rows went."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    kept = table.filter(pc.invert(pc.is_in(table[column], value_set=pa.array(sorted(values), table[column].type))))
    if kept.num_rows < table.num_rows:
        write_table(file, kept)
    return int(table.num_rows - kept.num_rows)


def _mask_texts(workspace: Workspace, user_ids: set[str]) -> None:
    """Put MASK in place of the ids in messages, which may quote a line of the log, and in Airflow's logs."""
    mask = masking(user_ids)
    for pattern in MESSAGE_FILES:
        for file in workspace.root.glob(pattern):
            content = read_json(file)
            if content != (masked := _masked(content, mask)):
                write_json(file, masked)
    for pattern, columns in MESSAGE_COLUMNS.items():
        for file in workspace.root.glob(pattern):
            _mask_table(file, columns, mask)
    for log in (workspace.root / "airflow").rglob("*.log"):
        text = log.read_text(errors="replace")
        if text != mask(text):
            write_atomically(log, mask(text))


def masking(user_ids: Iterable[str]) -> Callable[[str], str]:
    """Return a function that puts MASK in place of these ids in a text, where they stand as a word."""
    alternatives = "|".join(re.escape(one) for one in sorted(user_ids, key=len, reverse=True))
    word = re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])") if alternatives else None
    return lambda text: word.sub(MASK, text) if word else text


def _masked(content: Any, mask: Callable[[str], str], *, is_message: bool = False) -> Any:
    """Return JSON content with masked MESSAGE_FIELDS; other fields are names and versions, by which files are found."""
    if isinstance(content, dict):
        return {
            key: _masked(value, mask, is_message=is_message or key in MESSAGE_FIELDS) for key, value in content.items()
        }
    if isinstance(content, list):
        return [_masked(value, mask, is_message=is_message) for value in content]
    return mask(content) if is_message and isinstance(content, str) else content


def _mask_table(file: Path, columns: Iterable[str], mask: Callable[[str], str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    rows = table.to_pylist()
    masked = [row | {name: mask(row[name]) for name in columns if row[name] is not None} for row in rows]
    if masked != rows:
        write_table(file, pa.Table.from_pylist(masked, schema=table.schema))
