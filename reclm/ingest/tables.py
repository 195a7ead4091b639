"""Tell which files of a folder are the log, the item table and the user table.

In: a folder or one file. Out: the files of each table. The log is what `data.interactions` names, else the files whose
name begins like a log's, else those with such a word in their name, else the only table left, else all that are left
when they have the same columns. Item and user tables are optional. A table may be a folder of parts, as Spark and Hive
write them; a folder named `key=value` gives its files that column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from reclm.errors import InputError
from reclm.ingest.dialect import sample
from reclm.ingest.files import KINDS, LogFile, stem_of, suffix_of
from reclm.ingest.nested import with_entries
from reclm.ingest.scratch import READING
from reclm.settings.data import DataSettings
from reclm.settings.tree import Settings

Role = Literal["interactions", "items", "users"]
LOG_NAMES = "interactions events ratings reviews log clicks views orders purchases transactions plays behaviors"
ITEM_NAMES = "items products movies articles books songs tracks catalog catalogue news games"
USER_NAMES = "users customers members people"
ITEM_WORDS = f"{ITEM_NAMES} business places meta metadata"
COMMON_SUFFIXES = (".txt", ".dat", ".data", ".zip")
"""Suffixes of tables and of much else: such a file is a table by its name or its content."""
PROSE = re.compile(r"(read_?me|licen[cs]e|notes?|changelog|changes|citation|requirements)\b", re.IGNORECASE)
"""Names of files that are never a table, though their lines may have as many commas as those of one."""
MOST_OF_A_TABLE = 0.6
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """A file of a table: its name within the folder given to ingest, and the columns that its folders name."""

    path: Path
    label: str
    partition: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """One file, or a folder of parts. `stem` is its lower-case name without the suffix."""

    path: Path
    stem: str
    parts: tuple[Part, ...]

    @property
    def words(self) -> list[str]:
        return re.findall(r"[a-z]+", self.stem)


@dataclass(frozen=True)
class Tables:
    """The files of each table."""

    interactions: list[LogFile]
    items: list[LogFile]
    users: list[LogFile]


def is_data(path: Path) -> bool:
    """Return False for what file systems, Spark and Delta keep beside data: hidden files, `_SUCCESS`, checksums."""
    return not path.name.startswith((".", "_")) and path.suffix != ".crc"


def tables_in(folder: Path) -> list[Path]:
    """Return the files of a folder whose suffix means a table, by name. Raises InputError when there is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder with a log in it, or the log itself")
    return sorted(path for path in folder.iterdir() if path.is_file() and is_data(path) and _is_surely_a_table(path))


def find_tables(settings: Settings, source: Path, *, log_needed: bool = True) -> Tables:
    """Find and open the files of each table.

    Raises InputError when a log is needed and missing, or a file that the settings name is missing.
    """
    data = settings.data
    folder = source if source.is_dir() else source.parent
    if source.is_file() and not suffix_of(source):
        raise InputError(
            f"{source} has none of the suffixes that can be read: {', '.join(KINDS)}; convert or rename it"
        )
    tables = [] if source.is_file() else list(_tables_of(folder))
    logs = [table for table in tables if table.words and _is_word(table.words[-1], LOG_NAMES)]
    others = [table for table in tables if table not in logs]
    items = _named(folder, data.items, "items") or _beginning(others, ITEM_NAMES)
    users = _named(folder, data.users, "users") or _beginning(others, USER_NAMES)
    rest = [table for table in tables if table not in items and table not in users]
    log = _named(folder, data.interactions, "interactions")
    if source.is_file():
        log = log or [_file(source)]
    log = log or _beginning(rest, LOG_NAMES) or _with_word(rest, LOG_NAMES)
    rest = [table for table in rest if table not in log]
    items = items or _with_word(rest, ITEM_WORDS)
    users = users or _with_word([table for table in rest if table not in items], USER_NAMES)
    rest = [table for table in rest if table not in items and table not in users]
    log = log or _only(settings, rest)
    if not log and log_needed:
        raise _no_log(settings, folder, rest)
    items, users = ([table for table in found if table not in log] for found in (items, users))
    opened = [with_entries(data, file) for file in _opened(settings, log, is_log=True)]
    return Tables(opened, _opened(settings, items), _opened(settings, users))


def tables_of(folder: Path) -> list[Table]:
    """Return every table of a folder, by name, whatever it holds."""
    return list(_tables_of(folder))


def role_of(data: DataSettings, table: Table) -> Role | None:
    """Return what a table is by the settings or by its own name, whatever lies beside it; None when neither tells."""
    named: dict[Role, str] = {"interactions": data.interactions, "items": data.items, "users": data.users}
    for role, name in named.items():
        if name and Path(name).name == table.path.name:
            return role
    if table.words and _is_word(table.words[-1], LOG_NAMES):
        return "interactions"
    rules: list[tuple[Role, list[Table]]] = [
        ("items", _beginning([table], ITEM_NAMES)),
        ("users", _beginning([table], USER_NAMES)),
        ("interactions", _beginning([table], LOG_NAMES) or _with_word([table], LOG_NAMES)),
        ("items", _with_word([table], ITEM_WORDS)),
        ("users", _with_word([table], USER_NAMES)),
    ]
    return next((role for role, found in rules if found), None)


def open_part(settings: Settings, part: Part, role: Role) -> LogFile:
    """Open one file of a table. Raises InputError when it is empty or gone."""
    (file,) = _opened(settings, [Table(part.path, "", (part,))], is_log=role == "interactions")
    return with_entries(settings.data, file) if role == "interactions" else file


def left_out(settings: Settings, source: Path, tables: Tables) -> dict[str, LogFile | None]:
    """Return {name: file} of what else a folder holds; None for what is no table that can be read."""
    used = {file.path for files in (tables.interactions, tables.items, tables.users) for file in files}
    found: dict[str, LogFile | None] = {}
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if not is_data(path) or path in used or any(path in other.parents for other in used):
            continue
        found[path.name if path.is_file() else f"{path.name}/"] = None
        if path.is_file() and _is_surely_a_table(path) and path.stat().st_size:
            file = open_file(settings, path)
            try:
                found[path.name] = file if file.columns else None
            except InputError:
                continue
    return found


def open_file(settings: Settings, path: Path, **given: object) -> LogFile:
    """Return a file that is read as the settings say."""
    data = settings.data
    file = LogFile(
        path,
        delimiter=data.delimiter,
        quote=data.quote,
        escape=data.escape,
        encoding=data.encoding,
        scratch=settings.paths.landing / READING,
    )
    return replace(file, **given)  # type: ignore[arg-type]


def _opened(settings: Settings, tables: Sequence[Table], *, is_log: bool = False) -> list[LogFile]:
    """Open the parts of tables; empty ones are left out where there are others."""
    parts = [part for table in tables for part in table.parts]
    parts = [part for part in parts if part.path.is_file() and part.path.stat().st_size] or parts[:1]
    given = {"names": settings.data.columns, "header": settings.data.header} if is_log else {}
    return [open_file(settings, part.path, label=part.label, partition=part.partition, **given) for part in parts]


def _tables_of(folder: Path) -> Iterator[Table]:
    keyed: list[Part] = []
    for path in sorted(folder.iterdir()):
        if not is_data(path):
            continue
        if path.is_file() and suffix_of(path):
            table = _file(path)
            if _is_surely_a_table(path) or _is_named_like_a_table(table) or _is_a_table_by_content(path):
                yield table
        elif path.is_dir() and "=" in path.name:
            keyed += _parts(folder, path)
        elif path.is_dir():
            table = Table(path, stem_of(path), tuple(_parts(folder, path)))
            if table.parts and (_is_named_like_a_table(table) or _is_written_in_parts(path)):
                yield table
    if keyed:
        yield Table(folder, folder.name.lower(), tuple(keyed))


def _file(path: Path) -> Table:
    return Table(path, stem_of(path), (Part(path, path.name),))


def _parts(folder: Path, inside: Path) -> list[Part]:
    files = sorted(path for path in inside.rglob("*") if path.is_file() and suffix_of(path))
    inner = [(path, path.relative_to(folder)) for path in files]
    return [
        Part(path, str(label), _partition(label.parts[:-1]))
        for path, label in inner
        if all(is_data(Path(name)) for name in label.parts)
    ]


def _partition(folders: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the columns that folders name; a year, a month and a day also make a date."""
    pairs = [tuple(map(unquote, name.split("=", 1))) for name in folders if "=" in name]
    keys = {key: value for key, value in pairs if value != NO_VALUE}
    by_name = {key.lower(): value for key, value in keys.items()}
    if {"year", "month", "day"} <= set(by_name):
        keys.setdefault("date", "-".join(by_name[key].zfill(2) for key in ("year", "month", "day")))
    return tuple(keys.items())


def _is_written_in_parts(folder: Path) -> bool:
    return any("=" in path.name or re.match(r"part\b|part_|_SUCCESS$", path.name) for path in folder.iterdir())


def _is_surely_a_table(path: Path) -> bool:
    suffix = suffix_of(path)
    return suffix is not None and not suffix.startswith(COMMON_SUFFIXES)


def _is_a_table_by_content(path: Path) -> bool:
    """Return whether a file holds objects, or lines of as many fields, rather than prose."""
    if PROSE.match(path.name):
        return False
    try:
        file = LogFile(path)
        if file.kind != "csv":
            return True
        widths = [len(fields) for _, fields in file.dialect.rows(sample(file.text.start))]
    except InputError:
        return False
    return len(widths) > 1 and max(widths) > 1 and widths.count(max(widths)) > MOST_OF_A_TABLE * len(widths)


def _is_named_like_a_table(table: Table) -> bool:
    names = f"{LOG_NAMES} {ITEM_WORDS} {USER_NAMES}"
    return bool(table.stem.startswith(tuple(names.split())) or _with_word([table], names))


def _is_word(word: str, names: str) -> bool:
    return word in names.split() or f"{word}s" in names.split()


def _named(folder: Path, name: str, table: str) -> list[Table]:
    if not name:
        return []
    path = Path(name) if Path(name).is_absolute() else folder / name
    if not path.exists() and Path(name).is_file():
        path = Path(name)
    if path.is_dir():
        parts = _parts(folder if folder in path.parents else path, path)
        if parts:
            return [Table(path, stem_of(path), tuple(parts))]
    if not path.is_file():
        present = ", ".join(sorted(p.name for p in folder.iterdir() if is_data(p))[:20]) or "nothing"
        raise InputError(f"{path} does not exist; data.{table} must name a file of {folder} (there: {present})")
    return [_file(path)]


def _beginning(tables: Sequence[Table], names: str) -> list[Table]:
    """Find all tables whose name begins with the first of `names` that any table's name begins with."""
    for name in names.split():
        found = [table for table in tables if table.stem.startswith(name)]
        if found:
            return found
    return []


def _with_word(tables: Sequence[Table], names: str) -> list[Table]:
    """Find all tables with the first of `names`, or its singular, among the words of their name."""
    for name in names.split():
        found = [table for table in tables if any(_is_word(word, name) for word in table.words)]
        if found:
            return found
    return []


def _only(settings: Settings, tables: list[Table]) -> list[Table]:
    """Return the only table, or all when they have the same columns: exports of one log."""
    if len(tables) < 2:
        return tables
    try:
        columns = {tuple(file.columns) for file in _opened(settings, tables, is_log=True)}
    except InputError:
        return []
    return tables if len(columns) == 1 else []


def _no_log(settings: Settings, folder: Path, tables: Sequence[Table]) -> InputError:
    """Return the error for a folder without a log: what is wrong with the one candidate that cannot be read, if any."""
    for file in _opened(settings, tables, is_log=True) if tables else []:
        try:
            file.types  # noqa: B018
        except InputError as error:
            return error
    present = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    return InputError(
        f"{folder} holds no log that can be told: looked for {', '.join(LOG_NAMES.split()[:4])} … with one of "
        f"{', '.join(KINDS)}, found {present}. Set data.interactions to the file's name"
    )
