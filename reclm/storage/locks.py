"""File locks: one piece of work at a time in a workspace, also between processes; a waiting process says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reclm.progress import say


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Hold the file `lock` while the block runs. When another process holds it, print `busy` and wait."""
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        say(f"{busy}; waiting for it to end")
        held.acquire()
    try:
        yield
    finally:
        held.release()
