"""Know which users were erased, so that nothing that is written later brings them back.

In: user ids. Out: which of them were erased. `landing/forgotten.json` lists keyed digests (HMAC-SHA256, RFC 2104) of
their ids. Whoever has a workspace or a copy of it cannot try out ids, because the key lies in another folder:
RECLM_ERASURES, by default `reclm` in the user's configuration folder. A second list lies beside the key, so that a
back-up made before an erasure is known to miss it.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.errors import WorkspaceError
from reclm.storage.files import read_json, write_json, write_table
from reclm.storage.locks import alone, exclusive, shared
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER_VARIABLE = "RECLM_ERASURES"
KEY_BYTES = 32
USER_COLUMN = "user_id"


@dataclass(frozen=True)
class Erasures:
    """The erased users of a workspace: `user_id in erasures`.

    A digest is the HMAC of SHA-256(salt, id). The salt also names the workspace. Without a key, digests are those of
    an earlier layout, SHA-256(salt, id) alone.
    """

    salt: str
    digests: frozenset[str] = frozenset()
    key: bytes = b""

    def __contains__(self, user_id: str) -> bool:
        return bool(self.digests) and self.digest(user_id) in self.digests

    def __bool__(self) -> bool:
        return bool(self.digests)

    def digest(self, user_id: str) -> str:
        """Return how a user is listed, in hex."""
        plain = hashlib.sha256(f"{self.salt}{user_id}".encode()).hexdigest()
        return _keyed(self.key, plain) if self.key else plain

    def among(self, user_ids: Iterable[str | None]) -> set[str]:
        """Return the erased ones of these users."""
        return {one for one in user_ids if one is not None and one in self} if self.digests else set()

    def without(self, table: pa.Table) -> pa.Table:
        """Return the rows of a table whose `user_id` was not erased; a table without that column as it is."""
        if not self.digests or USER_COLUMN not in table.column_names:
            return table
        return without_users(table, self.among(table[USER_COLUMN].unique().to_pylist()))


def folder() -> Path:
    """Return the folder of the key and of the second lists, outside every workspace."""
    configured = os.environ.get(FOLDER_VARIABLE)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(configured).expanduser() if configured else home / "reclm"


@contextmanager
def erased_users(workspace: Workspace) -> Iterator[Erasures]:
    """Yield the erased users; nobody is added to them while the block runs, so it can write what it has filtered.

    Raises WorkspaceError when the key is missing or another one, and when this workspace is a copy from before an
    erasure.
    """
    with shared(_lock(workspace), "a user is being erased", workspace.lock_timeout):
        erasures = _load(workspace)
        if missing := _listed_outside(erasures.salt) - erasures.digests:
            raise WorkspaceError(
                f"{workspace.root} holds {len(missing)} users who were erased after it was copied, or while `reclm "
                "forget` was cut short; run `reclm forget --again`"
            )
        yield erasures


def remember(workspace: Workspace, user_ids: Iterable[str]) -> Erasures:
    """List users as erased, here and beside the key; return all erased users. Waits for writes that have begun."""
    with exclusive(_lock(workspace), "files are being written", workspace.lock_timeout):
        before = _with_key(_load(workspace))
        digests = {before.digest(user_id) for user_id in user_ids}
        _list_outside(before.salt, digests)
        after = replace(before, digests=before.digests | digests | _listed_outside(before.salt))
        _write(workspace, after)
    return after


def is_listed(workspace: Workspace, user_id: str) -> bool:
    """Return whether the erasure of this user has begun, here or in a later state of this workspace."""
    erasures = _load(workspace)
    return erasures.digest(user_id) in erasures.digests | _listed_outside(erasures.salt)


def identify(workspace: Workspace) -> None:
    """Give a workspace the salt that names it, unless it has one; back-ups carry it."""
    if not _path(workspace).exists():
        with exclusive(_lock(workspace), "a user is being erased", workspace.lock_timeout):
            if not _path(workspace).exists():
                _write(workspace, Erasures(secrets.token_hex(16)))


def strike(workspace: Workspace, folder: Path) -> None:
    """Remove the rows of erased users from the parquet files under a folder that is about to be finished."""
    with erased_users(workspace) as erasures:
        for file in folder.rglob("*.parquet") if erasures else ():
            drop_rows(file, erasures.among(users_of(file)))


def users_of(file: Path) -> set[str]:
    """Return the distinct values of a parquet file's column `user_id`, as text; none where there is no such column."""
    import pyarrow.parquet as pq

    if USER_COLUMN not in pq.read_schema(file).names:
        return set()
    values = pq.read_table(file, columns=[USER_COLUMN])[USER_COLUMN].unique().to_pylist()
    return {str(value) for value in values if value is not None}


def drop_rows(file: Path, user_ids: set[str]) -> int:
    """Rewrite one parquet file without the rows of these users, in one step; return how many rows went."""
    import pyarrow.parquet as pq

    if not user_ids or USER_COLUMN not in pq.read_schema(file).names:
        return 0
    table = pq.read_table(file)
    kept = without_users(table, user_ids)
    if kept.num_rows < table.num_rows:
        write_table(file, kept)
    return int(table.num_rows - kept.num_rows)


def without_users(table: pa.Table, user_ids: set[str]) -> pa.Table:
    """Return the rows of a table whose `user_id` is none of these; rows without one stay."""
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pc.is_in(table[USER_COLUMN].cast(pa.string()), value_set=pa.array(sorted(user_ids), pa.string()))
    return table.filter(pc.invert(gone))


def _path(workspace: Workspace) -> Path:
    return workspace.landing / "forgotten.json"


def _lock(workspace: Workspace) -> Path:
    return workspace.locks / "erased.lock"


def _keyed(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), "sha256").hex()


def _load(workspace: Workspace) -> Erasures:
    path = _path(workspace)
    if (stamp := _stamp(path)) is None:
        return Erasures("")
    return _read(path, stamp, _key())


@lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, ...], key: bytes | None) -> Erasures:
    """Read the list of a workspace; one whose stamp has not changed is not read again."""
    content = read_json(path)
    listed = Erasures(content["salt"], frozenset(content["digests"]))
    if not content.get("key"):
        return listed if listed else replace(listed, key=key or b"")
    if key is None or _fingerprint(key) != content["key"]:
        raise WorkspaceError(
            f"{path} lists erased users under a key that {folder() / 'key'} {'does not hold' if key else 'lacks'}; "
            f"set {FOLDER_VARIABLE} to the folder of the right key"
        )
    return replace(listed, key=key)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change with the content of a file; None when it does not exist."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _write(workspace: Workspace, erasures: Erasures) -> None:
    key = _fingerprint(erasures.key) if erasures.key else ""
    write_json(_path(workspace), {"salt": erasures.salt, "key": key, "digests": sorted(erasures.digests)})


def _with_key(erasures: Erasures) -> Erasures:
    """Return the same users listed under the key; one is drawn where there is none yet."""
    if erasures.key:
        return erasures
    key = _key() or _draw_key()
    keyed = frozenset(_keyed(key, digest) for digest in erasures.digests)
    return Erasures(erasures.salt or secrets.token_hex(16), keyed, key)


def _key() -> bytes | None:
    path = folder() / "key"
    return bytes.fromhex(path.read_text().strip()) if path.exists() else None


def _draw_key() -> bytes:
    """Draw a key that only this user may read; another process may have drawn one at the same moment."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    drawn = place / f".key.{os.getpid()}.tmp"
    with os.fdopen(os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        (place / "key").hardlink_to(drawn)
    drawn.unlink()
    key = _key()
    assert key is not None
    return key


def _fingerprint(key: bytes) -> str:
    return _keyed(key, "the key of erased users")[:16]


def _outside(salt: str) -> Path:
    return folder() / f"{salt}.jsonl"


def _listed_outside(salt: str) -> frozenset[str]:
    path = _outside(salt)
    stamp = _stamp(path) if salt else None
    return _read_outside(path, stamp) if stamp else frozenset()


@lru_cache(maxsize=8)
def _read_outside(path: Path, stamp: tuple[int, ...]) -> frozenset[str]:
    """Read a list beside the key; one whose stamp has not changed is not read again."""
    digests = set()
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # a line cut by a kill was never listed
        try:
            digests.add(str(json.loads(line)["digest"]))
        except (ValueError, KeyError, TypeError):
            raise WorkspaceError(
                f"{path}, line {number} does not say who was erased: {line[:80]!r}; restore the file from a copy, or "
                "remove the line: forgotten.json of the workspace lists the user too"
            ) from None
    return frozenset(digests)


def _list_outside(salt: str, digests: set[str]) -> None:
    """Append who erased a user and when; the line is on the disk before anything is removed."""
    about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": getpass.getuser()}
    path = _outside(salt)
    with alone(path.with_suffix(".lock"), "a user of a copy of the workspace is being erased"):
        lines = [json.dumps(about | {"digest": digest}) for digest in sorted(digests - _listed_outside(salt))]
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # a line cut by a kill was never listed
            file.seek(0, os.SEEK_END)
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
