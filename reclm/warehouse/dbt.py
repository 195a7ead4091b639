"""dbt as a child process: arguments go in, events come back as they happen, failures become one clear message.

A process of its own frees DuckDB's lock when it ends and keeps dbt's imports out of ours. The child watches its
standard input, which closes when the parent dies, so that a killed run leaves no writer behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.errors import BuildError
from reclm.progress import track
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import project

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def target_path(workspace: Workspace) -> Path:
    """Where dbt leaves its manifest, run results and documentation; its log lies beside, in `logs`."""
    return workspace.root / "warehouse" / "dbt" / "target"


def run_dbt(settings: Settings, external: Path, arguments: Sequence[str]) -> None:
    """Runs dbt in a child process to its end. Raises BuildError with what failed."""
    workspace, root = settings.paths, project()
    target = target_path(workspace)
    (target / "run_results.json").unlink(missing_ok=True)
    folders = {
        "--project-dir": root,
        "--profiles-dir": root,
        "--target-path": target,
        "--log-path": target.parent / "logs",
    }
    paths = [str(word) for pair in folders.items() for word in pair]
    logs = ("--log-format", "json", "--log-format-file", "text", "--log-level-file", "info")
    command = [sys.executable, "-m", "reclm.warehouse.dbt", *logs, *arguments, *paths]
    environment = {
        **os.environ,
        "RECLM_WORKSPACE": str(workspace.root),
        "RECLM_EXTERNAL_ROOT": str(external),
        "RECLM_RUNTIME__THREADS": str(settings.runtime.threads),
        "DO_NOT_TRACK": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # numpy sets these two as it is imported and then deletes them, unless they are there; models' threads import it
        "OPENBLAS_MAIN_FREE": "1",
        "GOTOBLAS_MAIN_FREE": "1",
    }
    errors: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as child:
        try:
            events = _events(child, errors)
            total = next(events, 0)
            for _ in track(events, f"dbt {arguments[0]}", total):
                pass
        except BaseException:
            child.terminate()
            raise
    (target / "graph.gpickle").unlink(missing_ok=True)  # dbt's own by-product; nothing at rest here is a pickle
    if child.returncode != 0:
        what = _failures(target / "run_results.json", errors)
        raise BuildError(f"dbt {arguments[0]} failed:\n{what}\nall of it: {target.parent / 'logs' / 'dbt.log'}")


def _events(child: subprocess.Popen[str], errors: list[str]) -> Iterator[int]:
    """First how many nodes dbt will run, then one number for each that ends. Collects error messages on the way."""
    announced = False
    assert child.stdout is not None
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            errors.append(line.rstrip())
            continue
        info, data = event["info"], event["data"]
        if info["level"] == "error":
            errors.append(str(info["msg"]))
        if info["name"] == "LogStartLine" and not announced:
            announced = True
            yield int(data["total"])
        if info["name"] == "NodeFinished":
            yield 1


def _failures(run_results: Path, errors: Sequence[str]) -> str:
    """What failed, one line a model or test, else dbt's own error messages."""
    failed = []
    if run_results.exists():
        for result in read_json(run_results)["results"]:
            if result["status"] in ("error", "fail", "runtime error"):
                name = result["unique_id"].removeprefix("model.reclm.").removeprefix("test.reclm.")
                message = " ".join(str(result["message"]).split())
                failed.append(f"  {name}: {message if len(message) < 700 else f'{message[:250]} … {message[-400:]}'}")
    return "\n".join(failed or errors[-20:])


def _child() -> None:
    """The child process: dbt, and an end when the parent ends, so that a killed run leaves no writer behind."""
    import threading

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from dbt.cli.main import cli

    cli(sys.argv[1:])


if __name__ == "__main__":
    _child()
