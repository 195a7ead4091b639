"""Killed by `kill -9` at random moments, a whole run and the delivery of an item end as undisturbed ones do."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from integration import pipeline

KILLS = int(os.environ.get("RECLM_TEST_KILLS", "2"))
SHOP = (
    "demo.users=80",
    "demo.items=80",
    "demo.interactions=1500",
    "train.models=als",
    "train.factors=8",
    "features.neighbours=5",
    "profiles.engine=extractive",
    "embedding.max_tokens=32",
    "evaluation.bootstrap=50",
    "runtime.threads=1",
)
FLAGS = [word for setting in SHOP for word in ("--set", setting)]
DELIVERY = "from reclm.schedule import tasks; print(tasks.cold_items({'settings': dict(p.split('=') for p in %r)}))"
NEW_ITEM = "item_id,title,text,categories\nnew-1,Trail kettle,A light kettle for tea on long walks,Outdoor\n"

pytestmark = pytest.mark.full


def _start(command: list[str], workspace: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=pipeline.environment() | {"RECLM_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"},
        cwd=workspace.parent,
        stdout=subprocess.DEVNULL,
        stderr=(workspace.parent / f"{workspace.name}.log").open("ab"),
        start_new_session=True,
    )


def _end(command: list[str], workspace: Path) -> float:
    began = time.monotonic()
    assert _start(command, workspace).wait(timeout=900) == 0, (workspace.parent / f"{workspace.name}.log").read_text()
    return time.monotonic() - began


def _kill(command: list[str], workspace: Path, seconds: float, *, whole_group: bool) -> bool:
    """Start, kill after `seconds`: the process alone, or its children too. Return whether it was still at work."""
    process = _start(command, workspace)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def _run(workspace: Path) -> list[str]:
    return pipeline.command("demo", "--workspace", str(workspace), *FLAGS)


def _deliver() -> list[str]:
    return [sys.executable, "-c", DELIVERY % (SHOP,)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A workspace after an undisturbed run, and how long the run took."""
    workspace = tmp_path_factory.mktemp("whole").resolve() / "shop"
    return workspace, _end(_run(workspace), workspace)


class TestARun:
    def test_that_is_killed_and_started_again_ends_with_the_undisturbed_tables(
        self, whole: tuple[Path, float], tmp_path: Path
    ) -> None:
        undisturbed, seconds = whole
        expected, draw, struck = pipeline.tables(undisturbed), random.Random(17), 0
        for number in range(KILLS):
            workspace = tmp_path / f"killed{number}"
            moment = draw.uniform(0.05, 0.95) * seconds
            struck += _kill(_run(workspace), workspace, moment, whole_group=number % 2 == 0)
            _end(_run(workspace), workspace)
            found = pipeline.tables(workspace)
            assert found.keys() == expected.keys()
            assert [name for name in expected if found[name] != expected[name]] == [], f"killed after {moment:.1f} s"
            shutil.rmtree(workspace)
        assert struck


class TestADeliveredItem:
    def test_that_is_killed_and_delivered_again_ends_with_the_undisturbed_tables(
        self, whole: tuple[Path, float], tmp_path: Path
    ) -> None:
        draw, struck = random.Random(18), 0

        def delivered(name: str) -> Path:
            workspace = tmp_path / name / "shop"
            shutil.copytree(whole[0], workspace, symlinks=True)
            (workspace / "inbox").mkdir(exist_ok=True)
            file = workspace / "inbox" / "items-2026-01-31.csv"
            file.write_text(NEW_ITEM)
            os.utime(file, (time.time() - 3600,) * 2)  # delivered an hour ago: not still being written
            return workspace

        undisturbed = delivered("undisturbed")
        seconds = _end(_deliver(), undisturbed)
        expected = pipeline.tables(undisturbed)
        assert any("new-1" in row for row in expected["dim_items"])
        for number in range(KILLS):
            workspace = delivered(f"killed{number}")
            moment = draw.uniform(0.05, 0.95) * seconds
            struck += _kill(_deliver(), workspace, moment, whole_group=number % 2 == 0)
            _end(_deliver(), workspace)
            found = pipeline.tables(workspace)
            assert [name for name in expected if found[name] != expected[name]] == [], f"killed after {moment:.1f} s"
            shutil.rmtree(workspace.parent)
        assert struck
