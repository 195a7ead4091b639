"""File locks that say what they wait for: one piece of work at a time in a workspace, whoever started it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reclm.progress import say


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Holds the file `lock` while the block runs. Where another process has it, says `busy` and waits."""
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
