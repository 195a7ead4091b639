"""Import any log that has a user and an item column.

In: a folder or one file, as CSV, TSV, parquet or JSON lines. Out: a plan of batches. The log is the file named
`data.interactions`, else the files whose name begins like a log's, else the only file left. Item and user tables are
optional. Columns are found by the settings or by their usual names (`mapping.py`); every item column that has no other
role becomes part of the item's text. A log without times cannot be cut by time: its rows are drawn into train, valid
and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.files import KINDS, LogFile, stem_of, suffix_of, tables_in
from reclm.ingest.landing import Batch, Plan, SplitMode
from reclm.ingest.mapping import as_text, categories, find_column, joined_text
from reclm.progress import say
from reclm.settings.data import DataSettings
from reclm.settings.tree import Settings

LOG_NAMES = "interactions events ratings reviews log clicks views orders purchases transactions plays behaviors"
ITEM_NAMES = "items products movies articles books songs tracks catalog catalogue news games"
USER_NAMES = "users customers members people"


@dataclass(frozen=True)
class LogFiles:
    """The files of each table."""

    interactions: list[Path]
    items: list[Path]
    users: list[Path]


def find_files(data: DataSettings, source: Path, *, log_needed: bool = True) -> LogFiles:
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
    if not log and log_needed:
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise InputError(
            f"{folder} holds no log that can be told: looked for {', '.join(LOG_NAMES.split()[:4])} … with one of "
            f"{', '.join(KINDS)}, found {present}. Set data.interactions to the file's name"
        )
    return LogFiles(log, [p for p in items if p not in log], [p for p in users if p not in log])


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


def log_batch(data: DataSettings, file: LogFile, extra: dict[str, str] | None = None) -> Batch:
    """Return the log's batch; `extra` adds landing columns of a pre-assigned layout."""
    weight = find_column(file, "weight", data.weight_column)
    return Batch(
        "interactions",
        file,
        {
            "user_id": as_text(file, find_column(file, "user", data.user_column, required=True)),
            "item_id": as_text(file, find_column(file, "item", data.item_column, required=True)),
            "event_ts": as_text(file, find_column(file, "timestamp", data.timestamp_column)),
            "weight": as_text(file, weight),
            "event_type": as_text(file, find_column(file, "event", data.event_column)),
        }
        | (extra or {}),
        min_weight=data.min_weight if weight else None,
    )


def item_batch(
    data: DataSettings,
    file: LogFile,
    extra: dict[str, str] | None = None,
    *,
    flags: Sequence[str] = (),
    words: bool = False,
) -> Batch:
    """Return the item table's batch; `flags` are columns without text, `words` allows blank-separated categories."""
    named = data.item_column if data.item_column in file.columns else ""
    item = find_column(file, "item", named, required=True, also=("id",))
    title = find_column(file, "title", data.title_column)
    category = find_column(file, "categories", data.categories_column)
    created = find_column(file, "created", data.created_column)
    taken = {item, title, category, created, *flags}
    texts = [_text_column(file, name) for name in data.text_columns] or [c for c in file.columns if c not in taken]
    return Batch(
        "items",
        file,
        {
            "item_id": as_text(file, item),
            "title": as_text(file, title),
            "text": joined_text(texts),
            "categories": categories(file, category, words=words),
            "created_ts": as_text(file, created),
        }
        | (extra or {}),
    )


def _text_column(file: LogFile, name: str) -> str:
    if name in file.columns:
        return name
    raise InputError(f"{file.path} has no column {name!r}; set data.text_columns to any of: {', '.join(file.columns)}")


def user_batch(data: DataSettings, file: LogFile) -> Batch:
    named = data.user_column if data.user_column in file.columns else ""
    user = find_column(file, "user", named, required=True, also=("id",))
    text = joined_text([column for column in file.columns if column != user])
    return Batch("users", file, {"user_id": as_text(file, user), "text": text})


def _drawn_split(settings: Settings, file: LogFile) -> str:
    data = settings.data
    user = as_text(file, find_column(file, "user", data.user_column, required=True))
    return drawn_split(settings, user, as_text(file, find_column(file, "item", data.item_column, required=True)))


def drawn_split(settings: Settings, user: str, item: str) -> str:
    """Return SQL for the split of a row without times: by hash, so that a pair keeps its split in later deliveries."""
    split = settings.split
    key = f"concat_ws(chr(31), '{settings.seed}', {user}, {item})"
    draw = f"('0x' || left(sha256({key}), 8))::bigint / 4294967296.0"
    seen = split.train_share + split.valid_share
    return f"case when {draw} < {split.train_share} then 'train' when {draw} < {seen} then 'valid' else 'test' end"


def plan(settings: Settings, source: Path) -> Plan:
    """Plan the batches of interactions, and of items and users where there are such tables."""
    data, files = settings.data, find_files(settings.data, source)
    logs = [LogFile(path) for path in files.interactions]
    has_clock = any(find_column(file, "timestamp", data.timestamp_column) for file in logs)
    if not has_clock:
        say(
            f"{logs[0].name} has no time column among {', '.join(logs[0].columns)}: its rows are drawn into train, "
            "valid and test by chance; set data.timestamp_column if one of them is the time"
        )
    return Plan(
        "temporal" if has_clock else "assigned",
        [log_batch(data, file, {} if has_clock else {"split": _drawn_split(settings, file)}) for file in logs]
        + [item_batch(data, LogFile(path)) for path in files.items]
        + [user_batch(data, LogFile(path)) for path in files.users],
    )


def plan_additions(settings: Settings, source: Path, split_mode: SplitMode) -> Plan:
    """Plan the batches of items and users alone, for a data set whose log has landed before."""
    files = find_files(settings.data, source, log_needed=False)
    return Plan(
        split_mode,
        [item_batch(settings.data, LogFile(path)) for path in files.items]
        + [user_batch(settings.data, LogFile(path)) for path in files.users],
    )
