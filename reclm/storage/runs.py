"""What has run, on what, when, and how it went: one JSON file a stage run in `<workspace>/runs/`.

A file without an end whose process is gone is a run that was killed; the stage's next run makes up for it.
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
from reclm.progress import say
from reclm.storage.files import read_json, write_json
from reclm.storage.workspace import Workspace

KEPT_RUNS = 10_000
"""The last bound, where nobody runs maintenance, which keeps `retention.runs`."""
AT_WORK = timedelta(days=1)
"""A record of a process that was killed may name a number which another program has by now; so long it is believed."""


@contextmanager
def recorded(workspace: Workspace, stage: str, **about: Any) -> Iterator[dict[str, Any]]:
    """Records one stage run. The block may add to the yielded dictionary (`version`, `reused`, counts)."""
    started = datetime.now(UTC)
    path = workspace.runs / f"{started.strftime('%Y%m%dT%H%M%S.%f')}-{stage}.json"
    record: dict[str, Any] = {"stage": stage, "started": started.isoformat(), "pid": os.getpid(), "status": "running"}
    outcome: dict[str, Any] = about | {"began": started.isoformat()}
    write_json(path, record | {"about": outcome})
    clock = time.monotonic()
    say(f"{stage} …")
    try:
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
        say(f"{stage}: {record['status']} in {seconds:.1f} s")
    for old in sorted(workspace.runs.glob("*.json"))[:-KEPT_RUNS]:
        old.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() if Path("/proc").exists() else True


def at_work(workspace: Workspace) -> str:
    """`stage train of process 12 is at work` of another process on this machine, '' when there is none."""
    for path in sorted(workspace.runs.glob("*.json"), reverse=True):
        record = read_json(path)
        if datetime.now(UTC) - datetime.fromisoformat(record["started"]) > AT_WORK:
            break
        if record["status"] == "running" and record["pid"] != os.getpid() and _alive(record["pid"]):
            return f"stage {record['stage']} of process {record['pid']} is at work"
    return ""


def history(workspace: Workspace) -> list[dict[str, Any]]:
    """Every recorded run, oldest first. Raises WorkspaceError when there is none."""
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
