"""Import any log that has a user and an item column.

In: a folder or one file, as CSV, TSV, parquet or JSON lines, whose tables `tables.py` tells apart. Out: a plan of
batches. Columns are found by the settings, by their usual names (`mapping.py`) and by their values (`looks.py`,
`joins.py`); item columns of text without another role become the item's text. A log without times cannot be cut by
time: its rows are drawn into train, valid and test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.cells import (
    MOST_EVENT_TYPES,
    as_text,
    categories,
    event_text,
    event_types,
    id_text,
    joined_text,
    known_events,
    number_text,
    title_text,
)
from reclm.ingest.files import LogFile
from reclm.ingest.joins import (
    ITEM_ID_ALSO,
    Join,
    find_join,
    holds_keys_and_values,
    how_to_pivot,
    log_in_two_tables,
)
from reclm.ingest.landing import Batch, Plan, SplitMode
from reclm.ingest.looks import Look, look_of, samples
from reclm.ingest.mapping import candidates, find_roles, plain_name
from reclm.ingest.report import About
from reclm.ingest.tables import Tables, left_out
from reclm.progress import say
from reclm.settings.data import DataSettings
from reclm.settings.tree import Settings
from reclm.storage.files import read_json

LOG_ROLES = ("user", "item", "timestamp", "weight", "event")
ITEM_ROLES = ("item", "title", "categories", "created")
FLOAT_IDS = "every {role} in {column!r} is written like {example}: taken without the .0"


def log_roles(data: DataSettings, file: LogFile, item: str = "", *, required: bool = True) -> dict[str, str]:
    """Return {role: column or ''} of a log. `item` is the id column that other files make likely."""
    named = {role: getattr(data, f"{role}_column") for role in LOG_ROLES}
    return find_roles(file, named, ("user", "item") if required else (), prefer={"item": item})


def log_batch(
    data: DataSettings,
    file: LogFile,
    extra: dict[str, str] | None = None,
    *,
    item: str = "",
    event: str = "",
    written: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> Batch:
    """Return the log's batch; `extra` adds landing columns of a pre-assigned layout.

    `item` is the id column that other files make likely, `event` the column of the type of event in what landed before.
    `written` counts the types of event in all parts of the log; by default they are counted in `file`. `notes` are
    things to say about the log.
    """
    roles = log_roles(data, file, item)
    said = list(notes)
    meaning: dict[str, str] = {}
    if roles["event"]:
        written = event_types(file, roles["event"]) if written is None else written
        meaning = known_events(written, data.weight_of_event)
        sure = bool(data.event_column) or plain_name(roles["event"]) == "eventtype" or roles["event"] == event
        roles["event"], note = _event_role(roles["event"], written, meaning, sure=sure)
        said += [note] if note else []
    ids = {}
    for role in ("user", "item"):
        ids[role], about_ids = _id(file, role, roles[role])
        said += about_ids
    mapped = {
        "user_id": ids["user"],
        "item_id": ids["item"],
        "event_ts": as_text(file, roles["timestamp"]),
        "weight": number_text(file, roles["weight"], _values(file, roles["weight"])),
        "event_type": event_text(file, roles["event"], meaning) if roles["event"] else "null::varchar",
    }
    return Batch(
        "interactions",
        file,
        mapped | (extra or {}),
        min_weight=data.min_weight if roles["weight"] else None,
        about=About(roles, [c for c in file.columns if c not in roles.values() and c not in (extra or {})], said),
    )


def _event_role(column: str, written: Mapping[str, int], meaning: Mapping[str, str], *, sure: bool) -> tuple[str, str]:
    """Return the column of the type of event, '' when its values are none, and what to say about it.

    Where the column is `sure` to be one, rows of unknown types are set apart; else all of its types must be known.
    """
    unknown = [word for word in written if word not in meaning]
    renamed = [f"{word} is taken as {name}" for word, name in meaning.items() if word.lower() != name]
    if not unknown and (written or sure):
        return column, ", ".join(renamed)
    few = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
    states = ",".join(f"{word}=1" for word in unknown[:3])
    remedy = f"say what they weigh, for example --set data.event_weights={states}"
    if sure:
        at_least = "at least " if len(written) > MOST_EVENT_TYPES else ""
        n_rows = sum(written[word] for word in unknown)
        return (
            column,
            f"{at_least}{n_rows:,} rows have a type of event that is not known and are set apart: {few}; {remedy}",
        )
    if not written or len(written) > MOST_EVENT_TYPES or len(unknown) == len(written):
        return "", ""
    return "", f"{column!r} is not used as the type of event, since these are not known: {few}; {remedy}"


def _values(file: LogFile, column: str) -> list[str]:
    return samples(file, [column])[column] if column else []


def _id(file: LogFile, role: str, column: str) -> tuple[str, list[str]]:
    values = samples(file, [column])[column]
    sql, is_cut = id_text(file, column, values)
    return sql, [FLOAT_IDS.format(role=role, column=column, example=values[0])] if is_cut else []


def item_batch(
    data: DataSettings,
    file: LogFile,
    extra: dict[str, str] | None = None,
    *,
    flags: Sequence[str] = (),
    published: bool = False,
    item: str = "",
) -> Batch:
    """Return the item table's batch; `flags` are columns without text.

    The text of a `published` benchmark is every other column as it is written, numbers too, and its categories may be
    separated by blanks: figures of others were measured on that. `item` is the id column that other files make likely.
    """
    named = {role: getattr(data, f"{role}_column") for role in ITEM_ROLES}
    named["item"] = data.item_column if data.item_column in file.columns else ""
    roles = find_roles(file, named, ("item",), prefer={"item": item}, also={"item": ITEM_ID_ALSO})
    free = [column for column in file.columns if column not in roles.values() and column not in flags]
    looks: dict[str, Look] = dict.fromkeys(free, "text")
    if not published:
        looks = {column: look_of(values) for column, values in samples(file, free, thorough=True).items()}
    if roles["created"] and not named["created"]:
        values = samples(file, [roles["created"]], thorough=True)[roles["created"]]
        if look_of(values) not in ("dates", "numbers", "empty"):
            looks[roles["created"]], roles["created"] = "text", ""
    texts = [_text_column(file, name) for name in data.text_columns]
    texts = texts or [column for column, look in looks.items() if look in ("text", "empty")]
    sql, notes = _id(file, "item", roles["item"])
    unused = [column if look == "text" else f"{column} ({look})" for column, look in looks.items()]
    return Batch(
        "items",
        file,
        {
            "item_id": sql,
            "title": title_text(file, roles["title"], as_written=published),
            "text": joined_text(file, texts, as_written=published),
            "categories": categories(file, roles["categories"], words=published),
            "created_ts": as_text(file, roles["created"]),
        }
        | (extra or {}),
        about=About(
            roles | {"text": ", ".join(column for column in texts if looks.get(column) != "empty")},
            [name for column, name in zip(looks, unused, strict=True) if column not in texts],
            notes,
        ),
    )


def _text_column(file: LogFile, name: str) -> str:
    if name in file.columns:
        return name
    raise InputError(f"{file.path} has no column {name!r}; set data.text_columns to any of: {', '.join(file.columns)}")


def item_batch_of(settings: Settings, file: LogFile) -> Batch:
    """Return the batch of an item table that comes alone. Raises InputError for a table of keys and values."""
    if holds_keys_and_values(file):
        raise InputError(f"{file.path} cannot be the item table: {how_to_pivot(file)}")
    return item_batch(settings.data, file, item=earlier_item(settings, "items", file))


def user_batch(data: DataSettings, file: LogFile) -> Batch:
    """Return the user table's batch; every column of text is part of the user's text."""
    named = {"user": data.user_column if data.user_column in file.columns else ""}
    user = find_roles(file, named, ("user",), also={"user": ("id",)})["user"]
    free = [column for column in file.columns if column != user]
    looks = {column: look_of(values) for column, values in samples(file, free, thorough=True).items()}
    texts = [column for column, look in looks.items() if look in ("text", "empty")]
    sql, notes = _id(file, "user", user)
    unused = [f"{column} ({looks[column]})" for column in free if column not in texts]
    about = About({"user": user, "text": ", ".join(texts)}, unused, notes)
    return Batch("users", file, {"user_id": sql, "text": joined_text(file, texts)}, about=about)


def has_clock(data: DataSettings, file: LogFile) -> bool:
    """Return whether a log has a time column."""
    return bool(log_roles(data, file, required=False)["timestamp"])


def log_batch_of(settings: Settings, file: LogFile, split_mode: SplitMode) -> Batch:
    """Return the batch of a log that comes alone, split by time or by chance."""
    item = earlier_item(settings, "interactions", file)
    extra = {} if split_mode == "temporal" else {"split": _drawn_split(settings, file, item)}
    return log_batch(settings.data, file, extra, item=item, event=_earlier(settings, "interactions", "event"))


def _drawn_split(settings: Settings, file: LogFile, item: str) -> str:
    roles = log_roles(settings.data, file, item)
    return drawn_split(settings, _id(file, "user", roles["user"])[0], _id(file, "item", roles["item"])[0])


def drawn_split(settings: Settings, user: str, item: str) -> str:
    """Return SQL for the split of a row without times: by hash, so that a pair keeps its split in later deliveries."""
    split = settings.split
    key = f"concat_ws(chr(31), '{settings.seed}', {user}, {item})"
    draw = f"('0x' || left(sha256({key}), 8))::bigint / 4294967296.0"
    seen = split.train_share + split.valid_share
    return f"case when {draw} < {split.train_share} then 'train' when {draw} < {seen} then 'valid' else 'test' end"


def plan(settings: Settings, source: Path, tables: Tables) -> Plan:
    """Plan the batches of interactions, and of items and users where there are such tables.

    Raises InputError when the log has no user or no item, with the join that gives it one where another file can.
    """
    data = settings.data
    logs, others = tables.interactions, left_out(settings, source, tables)
    first = log_roles(data, logs[0], required=False)
    if not (first["user"] and first["item"]):
        candidates_for_a_join = [*logs[1:], *tables.items, *tables.users, *(file for file in others.values() if file)]
        if message := log_in_two_tables(logs[0], candidates_for_a_join):
            raise InputError(message)
    items, not_used = _item_tables(data, tables.items, others)
    join = _join(data, logs[0], items)
    item = join.log if join else earlier_item(settings, "interactions", logs[0])
    split_mode: SplitMode = "temporal" if any(has_clock(data, file) for file in logs) else "assigned"
    if split_mode == "assigned":
        say(
            f"{logs[0].name} has no time column among {', '.join(logs[0].columns)}: its rows are drawn into train, "
            "valid and test by chance; set data.timestamp_column if one of them is the time"
        )
    written = _events_of(data, logs, item)
    batches = [
        log_batch(
            data,
            file,
            {} if split_mode == "temporal" else {"split": _drawn_split(settings, file, item)},
            item=item,
            event=_earlier(settings, "interactions", "event"),
            written=written,
            notes=[join.note] if join and join.note and file is logs[0] else [],
        )
        for file in logs
    ]
    batches += [item_batch(data, file, item=join.items if join else "") for file in items]
    batches += [user_batch(data, file) for file in tables.users]
    return Plan(split_mode, batches, not_used=not_used)


def _item_tables(
    data: DataSettings, files: Sequence[LogFile], others: Mapping[str, LogFile | None]
) -> tuple[list[LogFile], dict[str, str]]:
    """Return the files that are item tables, and {file that is not used: why}. Raises InputError for a named one."""
    not_used: dict[str, str] = {}
    for name, file in [*((file.name, file) for file in files), *others.items()]:
        if file is None or not holds_keys_and_values(file):
            not_used |= {name: ""} if name in others else {}
        elif data.items and file in files:
            raise InputError(f"{file.path} cannot be the item table: {how_to_pivot(file)}")
        else:
            not_used[name] = "one property of an item a row: no item table"
    return [file for file in files if file.name not in not_used], not_used


def _join(data: DataSettings, log: LogFile, items: Sequence[LogFile]) -> Join | None:
    """Find the id columns by which log and item table join. None where there is nothing to join, or no id."""
    if not items:
        return None
    given = data.item_column
    ours = [given] if given in log.columns else candidates(log, "item")
    theirs = [given] if given in items[0].columns else candidates(items[0], "item", ITEM_ID_ALSO)
    return find_join(log, items[0], ours, theirs) if ours and theirs else None


def earlier_item(settings: Settings, table: str, file: LogFile) -> str:
    """Return the item column of what landed before, where this file has it as one of several: '' else."""
    found = _earlier(settings, table, "item")
    return found if found in candidates(file, "item", ITEM_ID_ALSO) else ""


def _earlier(settings: Settings, table: str, role: str) -> str:
    """Return the column of a role in the latest file of a table that landed before, '' when there is none."""
    path = settings.paths.dataset
    landed = read_json(path)["batches"] if path.exists() else []
    return next((e["roles"].get(role, "") for e in reversed(landed) if e["table"] == table and e.get("roles")), "")


def _events_of(data: DataSettings, logs: Sequence[LogFile], item: str) -> dict[str, int] | None:
    """Count the types of event in all parts of a log; None for one part, whose batch counts them."""
    if len(logs) == 1:
        return None
    total: dict[str, int] = {}
    for file in logs:
        column = log_roles(data, file, item)["event"]
        for word, count in (event_types(file, column) if column else {}).items():
            total[word] = total.get(word, 0) + count
    return total


def plan_additions(settings: Settings, source: Path, tables: Tables, split_mode: SplitMode) -> Plan:
    """Plan the batches of items and users alone, for a data set whose log has landed before."""
    items, not_used = _item_tables(settings.data, tables.items, left_out(settings, source, tables))
    return Plan(
        split_mode,
        [item_batch_of(settings, file) for file in items] + [user_batch(settings.data, file) for file in tables.users],
        not_used=not_used,
    )
