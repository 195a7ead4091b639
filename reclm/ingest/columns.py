"""Import any log that has a user and an item column.

In: a folder or one file, as CSV, TSV, parquet or JSON lines, whose tables `tables.py` tells apart. Out: a plan of
batches. Columns are found by the settings or by their usual names (`mapping.py`); every item column that has no other
role becomes part of the item's text. A log without times cannot be cut by time: its rows are drawn into train, valid
and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.files import LogFile
from reclm.ingest.landing import Batch, Plan, SplitMode
from reclm.ingest.mapping import as_text, categories, find_column, joined_text
from reclm.ingest.tables import find_tables
from reclm.progress import say
from reclm.settings.data import DataSettings
from reclm.settings.tree import Settings


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


def has_clock(data: DataSettings, file: LogFile) -> bool:
    """Return whether a log has a time column."""
    return bool(find_column(file, "timestamp", data.timestamp_column))


def log_batch_of(settings: Settings, file: LogFile, split_mode: SplitMode) -> Batch:
    """Return the batch of a log that is split by time, or by chance."""
    extra = {} if split_mode == "temporal" else {"split": _drawn_split(settings, file)}
    return log_batch(settings.data, file, extra)


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
    data, tables = settings.data, find_tables(settings, source)
    logs = tables.interactions
    split_mode: SplitMode = "temporal" if any(has_clock(data, file) for file in logs) else "assigned"
    if split_mode == "assigned":
        say(
            f"{logs[0].name} has no time column among {', '.join(logs[0].columns)}: its rows are drawn into train, "
            "valid and test by chance; set data.timestamp_column if one of them is the time"
        )
    return Plan(
        split_mode,
        [log_batch_of(settings, file, split_mode) for file in logs]
        + [item_batch(data, file) for file in tables.items]
        + [user_batch(data, file) for file in tables.users],
    )


def plan_additions(settings: Settings, source: Path, split_mode: SplitMode) -> Plan:
    """Plan the batches of items and users alone, for a data set whose log has landed before."""
    tables = find_tables(settings, source, log_needed=False)
    return Plan(
        split_mode,
        [item_batch(settings.data, file) for file in tables.items]
        + [user_batch(settings.data, file) for file in tables.users],
    )
