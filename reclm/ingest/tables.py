"""Tell which files of a folder are the log, the item table and the user table.

In: a folder or one file. Out: the files of each table. The log is the file named `data.interactions`, else the files
whose name begins like a log's, else the only file left. Item and user tables are optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.files import KINDS, LogFile, stem_of, suffix_of, tables_in
from reclm.settings.data import DataSettings

LOG_NAMES = "interactions events ratings reviews log clicks views orders purchases transactions plays behaviors"
ITEM_NAMES = "items products movies articles books songs tracks catalog catalogue news games"
USER_NAMES = "users customers members people"


@dataclass(frozen=True)
class Tables:
    """The files of each table."""

    interactions: list[LogFile]
    items: list[LogFile]
    users: list[LogFile]


def find_tables(data: DataSettings, source: Path, *, log_needed: bool = True) -> Tables:
    """Find the files of each table.

    Raises InputError when a log is needed and missing, or a file that the settings name is missing.
    """
    folder = source if source.is_dir() else source.parent
    if source.is_file() and not suffix_of(source):
        raise InputError(
            f"{source} has none of the suffixes that can be read: {', '.join(KINDS)}; convert or rename it"
        )
    tables = tables_in(folder) if source.is_dir() else ([] if source.is_file() else tables_in(source))
    items = _named(folder, data.items, "items") or _beginning(tables, ITEM_NAMES)
    users = _named(folder, data.users, "users") or _beginning(tables, USER_NAMES)
    rest = [path for path in tables if path not in items and path not in users]
    log = _named(folder, data.interactions, "interactions") or (
        [source] if source.is_file() else _beginning(rest, LOG_NAMES)
    )
    log = log or (rest if len(rest) == 1 else [])
    items, users = ([path for path in paths if path not in log] for paths in (items, users))
    if not log and log_needed:
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise InputError(
            f"{folder} holds no log that can be told: looked for {', '.join(LOG_NAMES.split()[:4])} … with one of "
            f"{', '.join(KINDS)}, found {present}. Set data.interactions to the file's name"
        )
    return Tables(*([LogFile(path) for path in paths] for paths in (log, items, users)))


def _named(folder: Path, name: str, table: str) -> list[Path]:
    if not name:
        return []
    path = Path(name) if Path(name).is_absolute() else folder / name
    if not path.is_file() and Path(name).is_file():
        path = Path(name)
    if not path.is_file():
        present = ", ".join(p.name for p in tables_in(folder)) or "none"
        raise InputError(f"{path} does not exist; data.{table} must name a file of {folder} (there: {present})")
    return [path]


def _beginning(tables: Sequence[Path], names: str) -> list[Path]:
    """Find all files whose name begins with the first of `names` that any file's name begins with."""
    for name in names.split():
        found = [path for path in tables if stem_of(path).startswith(name)]
        if found:
            return found
    return []
