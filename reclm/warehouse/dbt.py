"""Run dbt in a child process: arguments go in, progress is shown, and failures become one error message.

The child process keeps dbt's imports out of this one. It runs one command after another, because starting dbt takes
longer than building a small shop, and lets go of DuckDB's lock after each. Commands come as lines of its standard
input, which closes when the parent dies: a killed run leaves no writer behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import BuildError
from reclm.progress import track
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.held import held_by, is_held
from reclm.warehouse.lineage import send_lineage
from reclm.warehouse.parsed import parsed
from reclm.warehouse.sources import dbt_project

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


ENDED = "ended"
"""Key of the line that the child process prints after a command, with whether it succeeded."""


def target_path(workspace: Workspace) -> Path:
    """Return the folder of dbt's manifest, run results and documentation; `logs` beside it has dbt's log."""
    return workspace.root / "warehouse" / "dbt" / "target"


def run_dbt(settings: Settings, external: Path, arguments: Sequence[str], *, delivery: bool = False) -> None:
    """Run dbt in a child process; a `delivery` writes the rows of delivered items alone (macros/delivery.sql).

    Raises BuildError with the models and tests that failed.
    """
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
    of_workspace = {
        "RECLM_WORKSPACE": str(workspace.root),
        "RECLM_EXTERNAL_ROOT": str(external),
        "RECLM_DELIVERY": "1" if delivery else "",
        "RECLM_RUNTIME__THREADS": str(settings.runtime.threads),
    }
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # importing numpy sets and deletes these two when they are missing: unsafe in the threads of dbt's models
        "OPENBLAS_MAIN_FREE": "1",
        "GOTOBLAS_MAIN_FREE": "1",
    }
    errors: list[str] = []
    command = {"arguments": [*logs, *arguments], "folders": paths, "environment": of_workspace}
    child = _told(command, environment)
    try:
        events = _events(child, errors)
        total = next(events, 0)
        for _ in track(events, f"dbt {arguments[0]}", total):
            pass
    except BaseException:
        _end(child)
        raise
    (target / "graph.gpickle").unlink(missing_ok=True)  # a by-product of dbt; no pickle is kept in a workspace
    if errors or child.poll() is not None:
        _end(child)
        failures = _failures(target / "run_results.json", errors)
        if is_held(failures):
            raise BuildError(held_by(workspace.build_database, failures))
        raise BuildError(f"dbt {arguments[0]} failed:\n{failures}\nthe whole log: {target.parent / 'logs' / 'dbt.log'}")
    if arguments[0] == "build":
        send_lineage(root, target, environment | of_workspace)


_children: list[subprocess.Popen[str]] = []
"""The child process of this one, if it has been started."""


def _child(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Return the child process, started when there is none that lives."""
    if not _children or _children[0].poll() is not None:
        command = [sys.executable, "-m", "reclm.warehouse.dbt"]
        pipe, merged = subprocess.PIPE, subprocess.STDOUT
        _children[:] = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=merged, text=True, env=environment)]
    return _children[0]


def _told(command: Mapping[str, Any], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Give the child process a command and return it; a child that has died since its last command is replaced."""
    for _ in range(2):
        child = _child(environment)
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            child.wait()
            continue
        return child
    raise BuildError("the process that runs dbt ends as soon as it starts; `python -m reclm.warehouse.dbt` says why")


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    child.wait()


def _events(child: subprocess.Popen[str], errors: list[str]) -> Iterator[int]:
    """Yield the number of nodes that dbt will run, then 1 for each node that ends, until the command has ended.

    When it fails, collect its messages in `errors`.
    """
    announced = False
    messages: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            event = None
        if not isinstance(event, dict) or not ({ENDED, "info"} & event.keys()):  # printed by a library
            messages.append(line.rstrip())
            continue
        if ENDED in event:
            if not event[ENDED]:
                errors.extend(messages or ["no reason was given"])
            return
        info, data = event["info"], event["data"]
        if info["level"] == "error":
            messages.append(str(info["msg"]))
        if info["name"] == "LogStartLine" and not announced:
            announced = True
            yield int(data["total"])
        if info["name"] == "NodeFinished":
            yield 1
    errors.extend([*messages, f"the process ended with code {child.wait()}"])


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


def _serve() -> None:
    """Run the commands that arrive, one after another, and end when the parent process ends."""
    import queue
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    while True:
        request = json.loads(requests.get())
        os.environ.update(request["environment"])
        success = False
        try:
            result = dbtRunner(manifest=parsed(request["folders"])).invoke([*request["arguments"], *request["folders"]])
            success = result.success
            if result.exception is not None:
                print(result.exception)
        except BuildError as error:
            print(error)
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager._ENV.close()  # lets go of the file; dbt-duckdb itself waits for the process to end
        DuckDBConnectionManager.close_all_connections()
        print(json.dumps({ENDED: success}), flush=True)


if __name__ == "__main__":
    _serve()
