"""Locks that one holds alone or several hold together, and what a process says that waits for one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reclm.errors import WorkspaceError
from reclm.settings.loading import load
from reclm.storage import locks
from reclm.storage.locks import alone, exclusive, shared
from reclm.storage.runs import no_stage_running, recorded
from reclm.storage.workspace import Workspace

HOLD = """
import sys
from pathlib import Path
from reclm.storage.locks import alone, exclusive, shared
from reclm.storage.runs import no_stage_running, recorded
from reclm.storage.workspace import Workspace
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

    def test_of_a_holder_that_is_just_writing_its_name_says_another_process(
        self, tmp_path: Path, said: list[str]
    ) -> None:
        lock = tmp_path / "run.lock"
        with held_by_another(lock):
            (tmp_path / "run.json").write_text('{"pid": 1')
            with pytest.raises(WorkspaceError, match=r"a run works \(another process\)"), alone(lock, "a run works", 0):
                pytest.fail("two had the lock")

    def test_makes_nobody_wait_for_the_disk_and_writes_no_file_that_an_erasure_sweeps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("waited for the disk"))
        monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("wrote a file beside it first"))
        with alone(tmp_path / "run.lock", "a run works"):
            assert {path.name for path in tmp_path.iterdir()} == {"run.lock", "run.json"}

    def test_leaves_no_holder_behind(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), alone(tmp_path / "run.lock", "busy"):
            raise KeyboardInterrupt
        assert not (tmp_path / "run.json").exists()


def test_the_time_out_is_a_setting(tmp_path: Path) -> None:
    chosen = load(["runtime.lock_minutes=0.5"], workspace=tmp_path, environment={})
    assert chosen.paths.lock_timeout == 30


def is_free(lock: Path, kind: int) -> bool:
    """Whether a process without the lock would get it now."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class TestAStage:
    def test_runs_beside_others_and_keeps_an_erasure_waiting(self, tmp_path: Path) -> None:
        lock = Workspace(tmp_path).locks / "stages.lock"
        with recorded(Workspace(tmp_path), "train"):
            assert is_free(lock, fcntl.LOCK_SH)
            assert not is_free(lock, fcntl.LOCK_EX)
        assert is_free(lock, fcntl.LOCK_EX)

    def test_within_an_erasure_or_another_stage_does_not_wait_for_itself(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path)
        with recorded(workspace, "ablate"), recorded(workspace, "teach"):
            pass
        with no_stage_running(workspace):
            with recorded(workspace, "build"):
                pass
            assert not is_free(workspace.locks / "stages.lock", fcntl.LOCK_SH)
        assert is_free(workspace.locks / "stages.lock", fcntl.LOCK_EX)

    def test_begins_after_an_erasure_that_waits_already(self, tmp_path: Path, said: list[str]) -> None:
        lock, order = tmp_path / "stages.lock", []

        def erase() -> None:
            with exclusive(lock, "stages are at work"):
                order.append("erasure")

        def stage() -> None:
            with shared(lock, "stopped"):
                order.append("stage")

        with shared(lock, "stopped"):
            threads = [threading.Thread(target=erase), threading.Thread(target=stage)]
            threads[0].start()
            while not any(line.startswith("stages are at work") for line in said):
                pass
            threads[1].start()
            assert order == []
        for thread in threads:
            thread.join()
        assert order == ["erasure", "stage"]
