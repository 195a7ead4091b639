"""Append-only log files that one process writes and another one takes away, with nothing lost or doubled.

In: lines. Out: files of lines in a folder, called segments. Each writing process has a segment of its own. Before every
write it locks the segment (`flock`; the system releases the lock of a killed process) and looks whether the file is
still in its place. `close_segments` takes the same lock and moves the file to the folder `closed`; the writer then
begins a new one. So a segment can be taken at any moment, whether its writer runs, has stopped or was killed. A last
line without a line end was cut by a kill and never reported as written: closing removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

SUFFIX = ".jsonl"
MAX_BYTES = 64 << 20
"""Size at which a writer begins another segment."""
READ_BYTES = 1 << 16


class SegmentWriter:
    """Append lines to a segment of `folder`; used by one thread. Durable ones are on the disk when `write` returns."""

    def __init__(self, folder: Path, *, durable: bool, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.durable, self.max_bytes = folder, durable, max_bytes
        self._file = -1
        self._path = folder

    def write(self, lines: bytes) -> None:
        """Append whole lines, all or none of them. Raises OSError when they could not be written."""
        while True:
            if self._file < 0:
                self._open()
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._is_in_place():
                break
            self.close()
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, lines)
            if self.durable:
                os.fsync(self._file)
        except OSError:
            self._cut(size)
            raise
        if size + len(lines) >= self.max_bytes:
            self.close()
        else:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """End the segment; the next `write` begins another one."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}{SUFFIX}"
        self._path = self.folder / name
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        if self.durable:
            _sync_folder(self.folder)

    def _is_in_place(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            return False

    def _cut(self, size: int) -> None:
        """Remove a line that failed; a segment that cannot be cut is left, and closing it removes its torn line."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, size)
        self.close()


def close_segments(folder: Path) -> list[Path]:
    """Close every segment of `folder` and return all closed ones, oldest first. One process may do so at a time.

    Closing waits for a write that is under way. Lines written later are in another segment.
    """
    closed = folder / "closed"
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _end_of_last_line(file)
            if whole < os.fstat(file).st_size:
                os.ftruncate(file, whole)
                os.fsync(file)
            if whole:
                closed.mkdir(exist_ok=True)
                path.rename(closed / path.name)
            else:
                path.unlink()
        finally:
            os.close(file)
    return sorted(closed.glob(f"*{SUFFIX}"))


def _end_of_last_line(file: int) -> int:
    """Return the position after the last line end, 0 when there is none."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(end - READ_BYTES, 0)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
