"""Record every run of a stage.

In: a stage and what it did. Out: one JSON file per run in `<workspace>/runs/`. A file without an end whose process is
gone is a run that was killed; the stage's next run makes up for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reclm.errors import WorkspaceError
from reclm.progress import live, say
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone, exclusive, shared
from reclm.storage.workspace import Workspace

KEPT_RUNS = 10_000
"""Older records are deleted beyond this number, even where `reclm maintain` never runs (it keeps `retention.runs`)."""
BELIEVED = timedelta(days=1)
"""A record says `running` for at most this long: later its process number may belong to another program."""
_held: set[Path] = set()
"""The locks of stages that this process holds."""
NAME_WIDTH, MADE_WIDTH = 11, 62


@contextmanager
def recorded(workspace: Workspace, stage: str, **about: Any) -> Iterator[dict[str, Any]]:
    """Record one stage run and print one line about it at its end.

    The block may add to the yielded dictionary: `version`, `reused`, counts, and `made`, the words of that line.
    """
    started = datetime.now(UTC)
    path = workspace.runs / f"{started.strftime('%Y%m%dT%H%M%S.%f')}-{stage}.json"
    record: dict[str, Any] = {"stage": stage, "started": started.isoformat(), "pid": os.getpid(), "status": "running"}
    outcome: dict[str, Any] = about | {"began": started.isoformat()}
    write_json(path, record | {"about": outcome})
    clock = time.monotonic()
    try:
        with _beside_others(workspace), live(stage):
            yield outcome
        record["status"] = "reused" if outcome.get("reused") else "done"
    except KeyboardInterrupt:
        record["status"] = "interrupted"
        raise
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        seconds = time.monotonic() - clock
        record |= {"seconds": round(seconds, 2), "ended": datetime.now(UTC).isoformat(), "about": outcome}
        write_json(path, record)
        say(summary(record))
    for old in sorted(workspace.runs.glob("*.json"))[:-KEPT_RUNS]:
        old.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Let one `run`, `ablate`, `maintain` or `forget` at a time work in a workspace; a second one waits and says so."""
    busy = f"another run is at work in {workspace.root}"
    with alone(workspace.locks / "run.lock", busy, workspace.lock_timeout):
        yield


@contextmanager
def no_stage_running(workspace: Workspace) -> Iterator[None]:
    """Wait until no stage runs, and let none begin while the block runs, except those that the block itself runs."""
    lock = _stages_lock(workspace)
    with exclusive(lock, at_work(workspace) or "stages are at work", workspace.lock_timeout):
        _held.add(lock)
        try:
            yield
        finally:
            _held.remove(lock)


@contextmanager
def _beside_others(workspace: Workspace) -> Iterator[None]:
    """Run as a stage: together with other stages, not with a block of `no_stage_running` in another process."""
    lock = _stages_lock(workspace)
    if lock in _held:  # a stage within a stage
        yield
        return
    with shared(lock, f"the stages of {workspace.root} are stopped for a while", workspace.lock_timeout):
        _held.add(lock)
        try:
            yield
        finally:
            _held.remove(lock)


def _stages_lock(workspace: Workspace) -> Path:
    return workspace.locks / "stages.lock"


def summary(record: dict[str, Any]) -> str:
    """Return the line that is printed about an ended run: stage, what it made, seconds."""
    name = f"{record['stage']:<{NAME_WIDTH}}"
    if record["status"] == "reused":
        return f"{name}reused"
    made = record["about"].get("made", "done") if record["status"] == "done" else record["status"]
    seconds = f"{record['seconds']:.0f}" if record["seconds"] >= 10 else f"{record['seconds']:.1f}"
    return f"{name}{made:<{MADE_WIDTH}} {seconds:>6} s"


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() if Path("/proc").exists() else True


def at_work(workspace: Workspace) -> str:
    """Describe the stage that another process on this machine is running, '' when there is none."""
    for path in sorted(workspace.runs.glob("*.json"), reverse=True):
        record = read_json(path)
        if datetime.now(UTC) - datetime.fromisoformat(record["started"]) > BELIEVED:
            break
        if record["status"] == "running" and record["pid"] != os.getpid() and _alive(record["pid"]):
            return f"stage {record['stage']} of process {record['pid']} is at work"
    return ""


def history(workspace: Workspace) -> list[dict[str, Any]]:
    """Return every recorded run, oldest first. Raises WorkspaceError when there is none."""
    records = []
    for path in sorted(workspace.runs.glob("*.json")) if workspace.runs.exists() else []:
        record = read_json(path)
        if record["status"] == "running" and not _alive(record["pid"]):
            record["status"] = "killed"
        records.append(record)
    if not records:
        raise WorkspaceError(
            f"nothing has run in {workspace.root} yet; `reclm demo` or `reclm run --data FOLDER` starts"
        )
    return records
