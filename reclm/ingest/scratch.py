"""Keep the copies of input files that are needed while they are read.

In: a folder for copies. Out: a new folder within it, locked by the process that reads, and a function that removes it.
A folder whose lock is free was left by a process that was killed; `sweep` removes it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

READING = ".reading"
"""Folder of the copies within `landing`."""
LOCK = ".lock"


def folder_for_copies(root: Path | None) -> tuple[Path, Callable[[], None]]:
    """Make a folder within `root` (the system's temporary folder when None); return it and what removes it."""
    if root:
        root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="reclm-", dir=root))
    lock = FileLock(folder / LOCK)
    lock.acquire()

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release(force=True)

    return folder, remove


def sweep(root: Path) -> None:
    """Remove the folders of killed processes."""
    for lock in root.glob(f"reclm-*/{LOCK}"):  # a folder without a lock is just being made
        folder = lock.parent
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue
