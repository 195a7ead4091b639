"""Run dbt in a child process: arguments go in, progress is shown, and failures become one error message.

The child process releases DuckDB's lock when it ends and keeps dbt's imports out of this one. It watches its standard
input, which closes when the parent dies, so that a killed run leaves no writer behind.
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
from reclm.warehouse.sources import dbt_project

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def target_path(workspace: Workspace) -> Path:
    """Return the folder of dbt's manifest, run results and documentation; `logs` beside it has dbt's log."""
    return workspace.root / "warehouse" / "dbt" / "target"


def run_dbt(settings: Settings, external: Path, arguments: Sequence[str]) -> None:
    """Run dbt in a child process. Raises BuildError with the models and tests that failed."""
    workspace, root = settings.paths, dbt_project()
    target = target_path(workspace)
    (target / "run_results.json").unlink(missing_ok=True)
    folders = {
        "--project-dir": root,
        "--profiles-dir": root,
        "--target-path": target,
        "--log-path": target.parent / "logs",
    }
    paths = [str(part) for option in folders.items() for part in option]
    logs = ("--log-format", "json", "--log-format-file", "text", "--log-level-file", "info")
    command = [sys.executable, "-m", "reclm.warehouse.dbt", *logs, *arguments, *paths]
    environment = {
        **os.environ,
        "RECLM_WORKSPACE": str(workspace.root),
        "RECLM_EXTERNAL_ROOT": str(external),
        "RECLM_RUNTIME__THREADS": str(settings.runtime.threads),
        "DO_NOT_TRACK": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # importing numpy sets and deletes these two when they are missing: unsafe in the threads of dbt's models
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
    (target / "graph.gpickle").unlink(missing_ok=True)  # a by-product of dbt; no pickle is kept in a workspace
    if child.returncode != 0:
        failures = _failures(target / "run_results.json", errors)
        raise BuildError(f"dbt {arguments[0]} failed:\n{failures}\nthe whole log: {target.parent / 'logs' / 'dbt.log'}")


def _events(child: subprocess.Popen[str], errors: list[str]) -> Iterator[int]:
    """Yield the number of nodes that dbt will run, then 1 for each node that ends; collect messages in `errors`."""
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
    """Return one line for each model or test that failed, else dbt's own error messages."""
    failed = []
    if run_results.exists():
        for result in read_json(run_results)["results"]:
            if result["status"] in ("error", "fail", "runtime error"):
                name = result["unique_id"].removeprefix("model.reclm.").removeprefix("test.reclm.")
                message = " ".join(str(result["message"]).split())
                failed.append(f"  {name}: {message if len(message) < 700 else f'{message[:250]} … {message[-400:]}'}")
    return "\n".join(failed or errors[-20:])


def _child() -> None:
    """Run dbt, and end when the parent process ends."""
    import threading

    def exit_with_parent() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    from dbt.cli.main import cli

    cli(sys.argv[1:])


if __name__ == "__main__":
    _child()
