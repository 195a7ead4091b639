"""What a process that waits for a lock says, and when it gives up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reclm.errors import WorkspaceError
from reclm.settings.loading import load
from reclm.storage import locks
from reclm.storage.locks import alone

HOLD = """
import sys
from pathlib import Path
from reclm.storage.locks import alone
with alone(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(lock: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(lock)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(locks, "say", lines.append)
    return lines


class TestWaiting:
    def test_names_the_process_that_holds_the_lock_and_gives_up_with_a_remedy(
        self, tmp_path: Path, said: list[str]
    ) -> None:
        lock = tmp_path / "run.lock"
        with held_by_another(lock) as other, pytest.raises(WorkspaceError) as error, alone(lock, "a run works", 0.05):
            pytest.fail("two had the lock")
        assert said[0].startswith(f"a run works (process {other.pid} on ")
        assert said[0].endswith("; waiting for it to end")
        for part in (f"process {other.pid}", "since 20", "runtime.lock_minutes", str(lock)):
            assert part in str(error.value)

    def test_is_said_again_from_time_to_time(
        self, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "REMINDER", 0.02)
        lock = tmp_path / "run.lock"
        with held_by_another(lock), pytest.raises(WorkspaceError), alone(lock, "a run works", 0.1):
            pytest.fail("two had the lock")
        assert len(said) > 2

    def test_ends_when_the_holder_is_killed(self, tmp_path: Path, said: list[str]) -> None:
        lock = tmp_path / "run.lock"
        with held_by_another(lock):
            pass
        assert json.loads((tmp_path / "run.json").read_text())["pid"] != os.getpid()
        with alone(lock, "a run works", 0.0):
            assert json.loads((tmp_path / "run.json").read_text())["pid"] == os.getpid()
        assert said == []

    def test_leaves_no_holder_behind(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), alone(tmp_path / "run.lock", "busy"):
            raise KeyboardInterrupt
        assert not (tmp_path / "run.json").exists()


def test_the_time_out_is_a_setting(tmp_path: Path) -> None:
    chosen = load(["runtime.lock_minutes=0.5"], workspace=tmp_path, environment={})
    assert chosen.paths.lock_timeout == 30
