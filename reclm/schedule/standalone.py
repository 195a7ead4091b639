"""Airflow on one machine, to try it and for the tests: `python -m reclm.schedule.standalone`, or `make airflow`.

A workspace and a folder for Airflow come in; a scheduler, a DAG processor, a triggerer and the web page on loopback
run, in one process group, so that stopping ends all of them. `infra/` describes a real deployment: the same DAGs, with
PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from reclm.errors import ReclmError
from reclm.storage.workspace import in_repository

PATIENCE = 10.0
GENERATED = {"AIRFLOW__API_AUTH__JWT_SECRET": 32, "AIRFLOW__API__SECRET_KEY": 32}


def environment(workspace: Path, home: Path, port: int, database: str = "") -> dict[str, str]:
    """Return Airflow's configuration as environment variables.

    `database` is an SQLAlchemy URL; empty: an SQLite file in `home`. Secrets are drawn once and stored in `home`,
    readable by its owner alone.
    """
    home.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}"
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(in_repository("dags", "reclm_features.py")),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database or f"sqlite:///{home / 'airflow.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RECLM_WORKSPACE": str(workspace),
        **_secrets(home),
    }


def _secrets(home: Path) -> dict[str, str]:
    path = home / "secrets.json"
    if not path.exists():
        drawn = {name: secrets.token_urlsafe(length) for name, length in GENERATED.items()}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(drawn, file)
    return dict(json.loads(path.read_text()))


def prepare(variables: Mapping[str, str]) -> None:
    """Create Airflow's tables and pools, before anything is scheduled. Raises ReclmError with Airflow's own message."""
    from reclm.schedule.parts import POOLS

    path = Path(variables["AIRFLOW_HOME"]) / "pools.json"
    pools = {name: {"slots": 1, "description": why, "include_deferred": False} for name, why in POOLS.items()}
    path.write_text(json.dumps(pools))
    for words in (["db", "migrate"], ["pools", "import", str(path)]):
        done = subprocess.run(["airflow", *words], env=dict(variables), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReclmError(f"airflow {' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def start(variables: Mapping[str, str], log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start `airflow standalone` in a process group of its own; its output goes to `log`, or to the terminal."""
    out = log.open("wb") if log else None
    try:
        return subprocess.Popen(
            ["airflow", "standalone"], env=dict(variables), stdout=out, stderr=out, start_new_session=True
        )
    finally:
        if out:
            out.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group: by a signal to stop, and after PATIENCE seconds by a stronger one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _signal(process.pid, number)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            process.poll()
            if not _signal(process.pid, 0):
                return
            time.sleep(0.2)


def _signal(group: int, number: int) -> bool:
    """Return False when the group has no process left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Run Airflow until Ctrl-C; the command line of this module."""
    from reclm.settings.loading import load

    parser = argparse.ArgumentParser(prog="python -m reclm.schedule.standalone", description=__doc__)
    parser.add_argument("--workspace", type=Path, help="data set [default: RECLM_WORKSPACE, else ./workspace]")
    parser.add_argument("--port", type=int, default=8080, help="port of the web page, on loopback [default: 8080]")
    arguments = parser.parse_args()
    settings = load([], workspace=arguments.workspace)
    root = settings.paths.root
    home = root / "airflow"
    variables = environment(root, home, arguments.port)
    print(f"preparing Airflow in {home} …", file=sys.stderr)
    prepare(variables)
    process = start(variables, home / "standalone.log")
    print(
        f"page      http://127.0.0.1:{arguments.port}  (user admin)\n"
        f"password  in {home}/simple_auth_manager_passwords.json.generated\n"
        f"inbox     {root / settings.schedule.inbox}  (drop logs here)\n"
        f"log       {home / 'standalone.log'}\n"
        "stop      Ctrl-C",
        flush=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    try:
        sys.exit(process.wait())
    except KeyboardInterrupt:
        print("stopping …", file=sys.stderr)
    finally:
        stop(process)


if __name__ == "__main__":
    main()
