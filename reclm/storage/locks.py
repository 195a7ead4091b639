"""File locks: one piece of work at a time in a workspace, also between processes.

In: the file of a lock. Out: a block that runs alone. The system releases the lock of a process that dies. Who holds a
lock stands in a JSON file beside it (process, machine, since when), so that those who wait can say for whom, and
give up after a while with a process to look for.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reclm.errors import WorkspaceError
from reclm.progress import say
from reclm.storage.files import read_json

TIMEOUT = 2 * 3600.0
"""Seconds to wait for a lock, where no setting says (`runtime.lock_minutes`)."""
POLL = 0.05
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

    def acquire(seconds: float) -> bool:
        try:
            held.acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    if not acquire(0):
        _wait(acquire, lock, busy, timeout)
    try:
        _holder_file(lock).write_text(json.dumps(_about_me()))  # of use only while this process lives: plainly
        yield
    finally:
        _holder_file(lock).unlink(missing_ok=True)
        held.release()


@contextmanager
def shared(lock: Path, busy: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the file `lock` together with others that share it; meanwhile nobody holds it by `exclusive`.

    When somebody does, or waits to, print `busy` and wait, as `alone` does.
    """
    with ExitStack() as held:
        with _flock(_gate(lock), busy, timeout):
            held.enter_context(_flock(lock, busy, timeout))
        yield


@contextmanager
def exclusive(lock: Path, busy: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the file `lock` when nobody shares it any more. Who wants to share it waits from now on."""
    with alone(_gate(lock), busy, timeout), alone(lock, busy, timeout):
        yield


def _gate(lock: Path) -> Path:
    """Return the file that lets those who want to share a lock wait behind those who want it for themselves."""
    return lock.with_name(f"{lock.stem}-gate.lock")


@contextmanager
def if_free(lock: Path) -> Iterator[bool]:
    """Hold the file `lock` while the block runs where no other process holds it; yield whether it is held."""
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()


def holder(lock: Path) -> str:
    """Say who holds a lock: process, machine and since when."""
    try:
        about = read_json(_holder_file(lock))
    except WorkspaceError:  # it has only just got the lock, or is giving it back
        return "another process"
    return f"process {about['pid']} on {about['host']}, since {about['since']}"


def _wait(acquire: Callable[[float], bool], lock: Path, busy: str, timeout: float) -> None:
    """Call `acquire(seconds)` until it has the lock. Raises WorkspaceError after `timeout` seconds."""
    begun = time.monotonic()
    while True:
        say(f"{busy} ({holder(lock)}); waiting for it to end")
        left = timeout - (time.monotonic() - begun)
        if acquire(max(0.0, min(REMINDER, left))):
            return
        if left <= REMINDER:
            raise WorkspaceError(
                f"{busy} ({holder(lock)}), and has not ended in {timeout / 60:g} minutes; end that process if it "
                f"hangs, or wait longer with runtime.lock_minutes, then run this again (lock {lock})"
            )


def _about_me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder_file(lock: Path) -> Path:
    return lock.with_suffix(".json")


@contextmanager
def _flock(lock: Path, busy: str, timeout: float) -> Iterator[None]:
    """Hold a shared lock of a file: the same system lock as `alone`, which filelock has in its exclusive form only."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(POLL)
            else:
                return True

    try:
        if not acquire(0):
            _wait(acquire, lock, busy, timeout)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # also where a child process has inherited the file
        os.close(file)
