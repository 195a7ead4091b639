"""Segments: log files that one process writes and another takes away."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reclm.storage import segments
from reclm.storage.segments import SegmentWriter, close_segments

KILLED = """
import os, signal, sys
from pathlib import Path
from reclm.storage.segments import SegmentWriter

writer = SegmentWriter(Path(sys.argv[1]), durable=True)
writer.write(b"one\\ntwo\\n")
os.write(writer._file, b"half a li")
os.kill(os.getpid(), signal.SIGKILL)
"""


def lines(paths: list[Path]) -> list[str]:
    return [line for path in paths for line in path.read_text().splitlines()]


class TestWriting:
    def test_lines_of_one_writer_are_in_one_segment_in_their_order(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path, durable=True)
        writer.write(b"one\n")
        writer.write(b"two\nthree\n")
        (closed,) = close_segments(tmp_path)
        assert closed.read_text() == "one\ntwo\nthree\n"

    def test_each_writer_has_a_segment_of_its_own(self, tmp_path: Path) -> None:
        first, second = SegmentWriter(tmp_path, durable=False), SegmentWriter(tmp_path, durable=False)
        first.write(b"one\n")
        second.write(b"two\n")
        assert len(close_segments(tmp_path)) == 2

    def test_a_full_segment_is_followed_by_another(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path, durable=False, max_bytes=8)
        for line in (b"one two\n", b"three\n", b"four\n", b"five\n"):
            writer.write(line)
        assert len(list(tmp_path.glob("*.jsonl"))) == 3

    def test_nothing_of_a_write_that_failed_stays_in_the_way_of_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(file: int, content: bytes) -> None:
            os.write(file, content[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

        writer = SegmentWriter(tmp_path, durable=True)
        writer.write(b"one\n")
        with monkeypatch.context() as patched:
            patched.setattr(segments, "_write_all", full)
            with pytest.raises(OSError, match="No space"):
                writer.write(b"two\n")
        writer.write(b"three\n")
        assert sorted(lines(close_segments(tmp_path))) == ["one", "three"]


class TestClosing:
    def test_a_writer_whose_segment_was_closed_goes_on_in_another(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path, durable=True)
        for number in range(5):
            writer.write(f"{number}\n".encode())
            close_segments(tmp_path)
        assert sorted(lines(close_segments(tmp_path))) == ["0", "1", "2", "3", "4"]

    def test_a_closed_segment_never_changes(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path, durable=True)
        writer.write(b"one\n")
        (closed,) = close_segments(tmp_path)
        writer.write(b"two\n")
        assert closed.read_text() == "one\n"

    def test_a_killed_writer_leaves_its_whole_lines(self, tmp_path: Path) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        assert done.returncode == -9
        assert lines(close_segments(tmp_path)) == ["one", "two"]

    def test_a_segment_without_a_whole_line_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b"half")
        (tmp_path / "b.jsonl").write_bytes(b"")
        assert close_segments(tmp_path) == []
        assert list(tmp_path.glob("*.jsonl")) == []

    def test_the_last_line_end_is_found_behind_a_long_torn_line(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b"one\n" + b"x" * (3 * segments.READ_BYTES))
        assert lines(close_segments(tmp_path)) == ["one"]

    def test_a_folder_that_no_service_ever_wrote_to_has_no_segments(self, tmp_path: Path) -> None:
        assert close_segments(tmp_path / "nothing") == []
