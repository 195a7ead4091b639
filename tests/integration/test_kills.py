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


@pytest.mark.parametrize("number", range(KILLS))
class TestARun:
    def test_that_is_killed_and_started_again_ends_with_the_undisturbed_tables(
        self, number: int, whole: tuple[Path, float], tmp_path: Path
    ) -> None:
        undisturbed, seconds = whole
        workspace = tmp_path / "killed"
        moment = random.Random(number).uniform(0.05, 0.95) * seconds
        while not _kill(_run(workspace), workspace, moment, whole_group=number % 2 == 0):  # it was faster this time
            shutil.rmtree(workspace)
            moment /= 2
        _end(_run(workspace), workspace)
        assert _differing(workspace, undisturbed) == [], f"killed after {moment:.1f} s"


@pytest.fixture(scope="module")
def delivered(whole: tuple[Path, float], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A workspace after an undisturbed delivery of an item, and how long the delivery took."""
    workspace = _waiting(whole[0], tmp_path_factory.mktemp("delivered").resolve() / "shop")
    return workspace, _end(_deliver(), workspace)


def _waiting(shop: Path, workspace: Path) -> Path:
    """A copy of a shop in whose inbox an item waits, delivered an hour ago: it is not still being written."""
    shutil.copytree(shop, workspace, symlinks=True)
    file = workspace / "inbox" / "items-2026-01-31.csv"
    file.parent.mkdir()
    file.write_text(NEW_ITEM)
    os.utime(file, (time.time() - 3600,) * 2)
    return workspace


@pytest.mark.parametrize("number", range(KILLS))
class TestADeliveredItem:
    def test_that_is_killed_and_delivered_again_ends_with_the_undisturbed_tables(
        self, number: int, whole: tuple[Path, float], delivered: tuple[Path, float], tmp_path: Path
    ) -> None:
        undisturbed, seconds = delivered
        assert any("new-1" in row for row in pipeline.tables(undisturbed)["dim_items"])
        workspace = _waiting(whole[0], tmp_path / "killed")
        moment = random.Random(1000 + number).uniform(0.05, 0.95) * seconds
        while not _kill(_deliver(), workspace, moment, whole_group=number % 2 == 0):
            shutil.rmtree(workspace)
            _waiting(whole[0], workspace)
            moment /= 2
        _end(_deliver(), workspace)
        assert _differing(workspace, undisturbed) == [], f"killed after {moment:.1f} s"


def _differing(workspace: Path, undisturbed: Path) -> list[str]:
    """The tables whose rows differ, or that one lacks. What the last build added is not compared: a whole build, such
    as the one after a kill, adds nothing to another."""
    found, expected = pipeline.tables(workspace), pipeline.tables(undisturbed)
    names = sorted((found.keys() | expected.keys()) - {"stg_delivered_items"})
    return [name for name in names if found.get(name) != expected.get(name)]
