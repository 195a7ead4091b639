"""Keep who changed what in a workspace: erasures, keys, promotions, challengers, hidden items, back-ups.

In: an action. Out: a line of `audit.jsonl`, on the disk before `record` returns. Lines are only ever appended, and each
one holds the SHA-256 of the line before it, so that a line that was changed or removed is noticed.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from reclm.errors import WorkspaceError
from reclm.storage.locks import alone
from reclm.storage.workspace import Workspace

TAIL_BYTES = 1 << 16
"""How much of the end of the file is read first; longer lines are read in further steps."""


def path_of(workspace: Workspace) -> Path:
    """Return the file of the records."""
    return workspace.root / "audit.jsonl"


def record(workspace: Workspace, action: str, *, by: str = "", **about: Any) -> None:
    """Append an action. `by` is who did it; left out: the user of this process. No user of the log may be named."""
    path = path_of(workspace)
    with alone(workspace.locks / "audit.lock", "another process records", workspace.lock_timeout):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        with os.fdopen(descriptor, "r+b") as file:
            last, torn = _tail(file)
            file.truncate(file.seek(0, os.SEEK_END) - len(torn))  # a line cut by a kill was never recorded
            file.seek(0, os.SEEK_END)
            entry = {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "by": by or _me(),
                "action": action,
                **about,
            }
            line = json.dumps(entry | {"before": _hash(last)}, default=str)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def entries(workspace: Workspace) -> list[dict[str, Any]]:
    """Return all actions, oldest first. Raises WorkspaceError naming the first line whose predecessor was changed."""
    path = path_of(workspace)
    found, before = [], b""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else (), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        if entry.get("before") != _hash(before):
            raise WorkspaceError(
                f"{path}, line {number} does not follow the line before it: a line was changed or removed since it was "
                "written; compare the file with a back-up"
            )
        found.append(entry)
        before = line
    return found


def _tail(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return the last whole line, and what stands after it."""
    size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
    while True:
        file.seek(max(size - length, 0))
        *whole, torn = file.read().split(b"\n")
        if len(whole) > 1 or length >= size:  # the first line may lack its beginning
            return (whole[-1] if whole else b""), torn
        length *= 2


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else ""


def _me() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
