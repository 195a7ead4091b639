"""File locks: one piece of work at a time in a workspace, also between processes.

In: the file of a lock. Out: a block that runs alone. The system releases the lock of a process that dies. Who holds a
lock stands in a JSON file beside it (process, machine, since when), so that those who wait can say for whom, and
give up after a while with a process to look for.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError
from reclm.progress import say
from reclm.storage.files import read_json, write_json

if TYPE_CHECKING:
    from filelock import FileLock

TIMEOUT = 2 * 3600.0
"""Seconds to wait for a lock, where no setting says (`runtime.lock_minutes`)."""
REMINDER = 600.0
"""Seconds between two lines of a process that waits."""


@contextmanager
def alone(lock: Path, busy: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the file `lock` while the block runs. When another process holds it, print `busy` and who, and wait.

    Raises WorkspaceError after `timeout` seconds, naming the holder and what to do.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        _wait(held, lock, busy, timeout)
    try:
        write_json(_holder_file(lock), _about_me())
        yield
    finally:
        _holder_file(lock).unlink(missing_ok=True)
        held.release()


def holder(lock: Path) -> str:
    """Say who holds a lock: process, machine and since when."""
    try:
        about = read_json(_holder_file(lock))
    except WorkspaceError:  # it has only just got the lock, or is giving it back
        return "another process"
    return f"process {about['pid']} on {about['host']}, since {about['since']}"


def _wait(held: FileLock, lock: Path, busy: str, timeout: float) -> None:
    from filelock import Timeout

    begun = time.monotonic()
    while True:
        say(f"{busy} ({holder(lock)}); waiting for it to end")
        left = timeout - (time.monotonic() - begun)
        try:
            held.acquire(timeout=max(0.0, min(REMINDER, left)))
        except Timeout:
            if left > REMINDER:
                continue
            raise WorkspaceError(
                f"{busy} ({holder(lock)}), and has not ended in {timeout / 60:g} minutes; end that process if it "
                f"hangs, or wait longer with runtime.lock_minutes, then run this again (lock {lock})"
            ) from None
        return


def _about_me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder_file(lock: Path) -> Path:
    return lock.with_suffix(".json")
