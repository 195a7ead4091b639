"""Find delivered files that hold a user: they are not rewritten here, because they are the sender's.

In: the inbox and user ids. Out: the files. A table with a column for the user is read, whatever its format; of any
other file the bytes are searched for the id as a word.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import duckdb

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.errors import ErasureError, InputError
from reclm.ingest.cells import id_text
from reclm.ingest.files import suffix_of
from reclm.ingest.looks import samples
from reclm.ingest.mapping import find_roles
from reclm.ingest.tables import open_file
from reclm.storage.erasures import erased_users

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.erasures import Erasures

COMPRESSED: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
READ_BYTES = 1 << 24
LONGEST_ID = 4 * MAX_ID_CHARACTERS


def require_no_delivery(settings: Settings, user_id: str | None) -> None:
    """Raise ErasureError when files of the inbox hold an erased user; None: as far as their tables tell."""
    with erased_users(settings.paths) as erased:
        pass  # nothing is written: whoever erases next, and services behind them, need not wait for the search
    found = deliveries_with(settings, erased, user_id or "")
    if found:
        names = ", ".join(str(file) for file in found[:10]) + (" …" if len(found) > 10 else "")
        raise ErasureError(
            f"the user is erased, but {len(found)} delivered files still hold the id: {names}. Their rows have landed, "
            "and nothing reads them again: delete them, or have them delivered without the user, then run the same "
            "command again"
        )


def deliveries_with(settings: Settings, erased: Erasures, user_id: str = "") -> list[Path]:
    """Return the files of the inbox that hold an erased user, by name.

    Files that are no table can only be searched for `user_id`; without it they are left out.
    """
    inbox = settings.paths.root / settings.schedule.inbox
    return [file for file in sorted(inbox.rglob("*")) if file.is_file() and _holds(settings, file, erased, user_id)]


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
    word = re.compile(rb"(?<![\w-])" + re.escape(user_id.encode()) + rb"(?![\w-])")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return any(_contains(archive.open(name), word) for name in archive.namelist())
    with COMPRESSED.get(file.suffix, Path.open)(file, "rb") as content:  # type: ignore[call-arg]
        return _contains(content, word)


def _contains(content: IO[bytes], word: re.Pattern[bytes]) -> bool:
    rest = b""
    while block := content.read(READ_BYTES):
        if word.search(rest + block):
            return True
        rest = block[-LONGEST_ID:]
    return False
