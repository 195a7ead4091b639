"""Find delivered files that hold a user: they are not rewritten here, because they are the sender's.

In: the inbox and user ids. Out: the files, and those that cannot be searched. A table with a column for the user is
read, whatever its format; any other file is uncompressed and searched for the id as a word, in UTF-8 and UTF-16.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import duckdb

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.errors import ErasureError, InputError
from reclm.ingest.cells import id_text
from reclm.ingest.encoding import DAMAGE, compression_of, opened
from reclm.ingest.files import suffix_of
from reclm.ingest.looks import samples
from reclm.ingest.mapping import find_roles
from reclm.ingest.tables import open_file
from reclm.storage.erasures import erased_users

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.erasures import Erasures

PARQUET = b"PAR1"
READ_BYTES = 1 << 24
LONGEST_WORD = 4 * (MAX_ID_CHARACTERS + 2)
"""Bytes of the longest id with a character on either side, in any of the encodings searched."""


def require_no_delivery(settings: Settings, user_id: str | None) -> None:
    """Raise ErasureError when files of the inbox hold an erased user; None: as far as their tables tell."""
    with erased_users(settings.paths) as erased:
        pass  # nothing is written: whoever erases next, and services behind them, need not wait for the search
    found, unsearchable = deliveries_with(settings, erased, user_id or "")
    if found or unsearchable:
        kinds = {"still hold the id": found, "may hold it, and cannot be searched": unsearchable}
        raise ErasureError(
            "the user is erased, but "
            + "; ".join(
                f"{len(files)} delivered files {what}: {_names(files)}" for what, files in kinds.items() if files
            )
            + ". Rows that could be read have landed, and nothing reads these files again: delete them, or have them "
            "delivered without the user, then run the same command again"
        )


def _names(files: list[Path]) -> str:
    return ", ".join(map(str, files[:10])) + (" …" if len(files) > 10 else "")


def deliveries_with(settings: Settings, erased: Erasures, user_id: str = "") -> tuple[list[Path], list[Path]]:
    """Return the files of the inbox that hold an erased user, and those that are damaged, each by name.

    Files that are no table can only be searched for `user_id`; without it they are left out.
    """
    inbox = settings.paths.root / settings.schedule.inbox
    found, unsearchable = [], []
    for file in sorted(path for path in inbox.rglob("*") if path.is_file()):
        try:
            if _holds(settings, file, erased, user_id):
                found.append(file)
        except InputError:
            unsearchable.append(file)
    return found, unsearchable


def _holds(settings: Settings, file: Path, erased: Erasures, user_id: str) -> bool:
    try:
        users = _users_of_table(settings, file)
    except (InputError, duckdb.Error):
        users = None
    if users is not None:
        return bool(erased.among(users))
    return bool(user_id) and _holds_word(file, user_id)


def _users_of_table(settings: Settings, file: Path) -> set[str] | None:
    """Return the distinct user ids of a table; None where no column is known to hold them."""
    if suffix_of(file) is None:
        return None
    table = open_file(settings, file)
    column = find_roles(table, {"user": settings.data.user_column})["user"]
    if not column:
        return None
    with duckdb.connect() as connection:
        user_id, _ = id_text(table, column, samples(table, [column])[column])
        query = f"select distinct {user_id} from {table.relation('rejects')}"
        users = {row[0] for row in connection.execute(query).fetchall() if row[0] is not None}
        rejected = connection.execute("select 1 from duckdb_tables() where table_name = 'rejects'").fetchall()
        unreadable: list[Any] = connection.execute("from rejects limit 1").fetchall() if rejected else []
    return None if unreadable else {*users, *table.columns}  # a file without a header has its first row there


def _holds_word(file: Path, user_id: str) -> bool:
    """Return whether the id stands anywhere in a file. Raises InputError when it is damaged."""
    with file.open("rb") as start:
        is_parquet = start.read(len(PARQUET)) == PARQUET
    try:
        if is_parquet:
            return _holds_cell(file, user_id)
        if compression_of(file) == "zip":
            with zipfile.ZipFile(file) as archive:
                return any(_contains(archive.open(name), user_id) for name in archive.namelist())
        with opened(file) as content:
            return _contains(content, user_id)
    except (*DAMAGE, duckdb.Error, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{file} cannot be searched: {error}") from None


def _holds_cell(file: Path, user_id: str) -> bool:
    """Return whether the id stands in any column of a parquet file, whose pages are compressed."""
    word = rf"(^|[^\w-]){re.escape(user_id)}($|[^\w-])"
    query = "select 1 from read_parquet($1) as line where regexp_matches(line::varchar, $2) limit 1"
    with duckdb.connect() as connection:
        return bool(connection.execute(query, [str(file), word]).fetchall())


def _contains(content: IO[bytes], user_id: str) -> bool:
    words = [
        rb"(?<![\w-])%b(?![\w-])" % re.escape(user_id.encode()),
        rb"(?<![\w-]\x00)%b(?![\w-]\x00)" % re.escape(user_id.encode("utf-16-le")),
        rb"(?<!\x00[\w-])%b(?!\x00[\w-])" % re.escape(user_id.encode("utf-16-be")),
    ]
    word = re.compile(b"|".join(words))
    rest = b""
    while block := content.read(READ_BYTES):
        if word.search(rest + block):
            return True
        rest = block[-LONGEST_WORD:]
    return False
