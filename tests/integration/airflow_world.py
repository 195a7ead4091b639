"""A real Airflow, started and stopped by a test, on a small demo shop whose log arrives day by day."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
from integration.servers import free_port

from reclm.ingest import ingest
from reclm.schedule import standalone
from reclm.settings.loading import load
from reclm.storage.workspace import Workspace

SHOP = {
    "demo.users": 160,
    "demo.items": 120,
    "demo.interactions": 3500,
    "demo.days": 40,
    "train.models": "biasmf",
    "train.variants": "base,augment",
    "train.epochs": 6,
    "train.dim": 16,
    "features.neighbours": 5,
    "embedding.max_tokens": 32,
    "evaluation.bootstrap": 50,
    "evaluation.baselines": "popularity",
    "runtime.threads": 1,
    "schedule.features": "",
    "schedule.tuning": "",
    "schedule.cold_items": "",
    "schedule.maintenance": "",
    "schedule.retries": 2,
    "schedule.retry_seconds": 1,
}
LANGUAGE_MODEL = {
    "health.min_format": 0.0,  # a model of six steps seldom follows the grammar
    "promotion.min_format": 0.0,
    "profiles.engine": "transformers",
    "profiles.retries": 1,
    "llm.tiny_tokens": 40000,
    "llm.max_profile_tokens": 40,
    "tune.max_steps": 6,
    "tune.held_out_sample": 8,
    "reward.pairs": 200,
    "refine.steps": 2,
    "refine.validate_every": 1,
    "refine.batch_size": 4,
    "refine.held_out_sample": 8,
}
KEYWORDS = {"profiles.engine": "extractive"}
GARBAGE = [("u1", "nowhere", "2024-01-01"), ("", "", ""), ("u1", "u1", "the day before"), ("u2", "\x00", "9999-01-01")]
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)  # a backfill may not meet a run of the same logical date
ENDED = ("success", "failed")


class Shop:
    """The demo shop's log and item table, handed out day by day as CSV files."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        made = load([f"{key}={value}" for key, value in settings.items()], workspace=folder, environment={})
        ingest(made, None)
        landing = made.paths.landing
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            self.log = connection.execute(
                f"select user_id, item_id, event_ts::timestamptz from '{landing}/interactions/*.parquet'"
                " order by 3, 1, 2"
            ).fetchall()
            items = connection.execute(
                f"select item_id, title, text, categories from '{landing}/items/*.parquet' order by source_row"
            ).fetchall()
        self.items = {row[0]: row for row in items}
        self.last = max(row[2] for row in self.log)

    def day(self, number: int) -> datetime:
        """Midnight after the day before the last `number` days: day(0) is after everything."""
        end = self.last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return end - timedelta(days=number)

    def drop(self, inbox: Path, since: datetime | None, until: datetime, known: set[str]) -> set[str]:
        """Write the log of [since, until) and its items that are not `known`; return these."""
        rows = [row for row in self.log if (since is None or row[2] >= since) and row[2] < until]
        new = {row[1] for row in rows} - known
        self.write(inbox / f"interactions-{until:%Y-%m-%d}.csv", ("user_id", "item_id", "event_ts"), rows)
        if new:
            self.drop_items(inbox, f"{until:%Y-%m-%d}", new)
        return new

    def drop_items(self, inbox: Path, name: str, items: set[str]) -> None:
        columns = ("item_id", "title", "text", "categories")
        self.write(inbox / f"items-{name}.csv", columns, [self.items[item] for item in sorted(items)])

    @staticmethod
    def write(path: Path, columns: tuple[str, ...], rows: list[Any]) -> None:
        """Write a file that appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(
                [value.isoformat() if isinstance(value, datetime) else value for value in row] for row in rows
            )
        temporary.replace(path)


@dataclass
class Airflow:
    """A running Airflow. `workspace` is the data set its DAGs work on."""

    workspace: Workspace
    home: Path
    url: str
    process: subprocess.Popen[bytes]
    variables: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def inbox(self) -> Path:
        return self.workspace.root / "inbox"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.url}{path}", json=body, headers=self.headers, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def log_in(self) -> None:
        passwords = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        body = {"username": "admin", "password": passwords["admin"]}
        token = httpx.post(f"{self.url}/auth/token", json=body, timeout=60).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def trigger(self, dag: str, logical_date: datetime | None = None, **conf: Any) -> str:
        when = None if logical_date is None else logical_date.isoformat()
        run = self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": when, "conf": conf})
        return str(run["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=id&limit=100")["dag_runs"])

    def tasks(self, dag: str, run: str) -> dict[str, str]:
        """{task: state} of a run."""
        found = self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {one["task_id"]: one["state"] for one in found}

    def wait(self, dag: str, run: str, timeout: float = 400) -> str:
        """The state a run ends in."""

        def ended() -> str | None:
            state = str(self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])
            return state if state in ENDED else None

        return until(ended, timeout, f"{dag} {run} to end", self)

    def wait_for_quiet(self, timeout: float = 600) -> None:
        """Wait until no run of any DAG is queued or running, three times in a row: assets start runs a moment later."""
        quiet = 0
        deadline = time.monotonic() + timeout
        while quiet < 3:
            busy = self.call("GET", "/api/v2/dags/~/dagRuns?state=queued&state=running&limit=1")["dag_runs"]
            quiet = 0 if busy else quiet + 1
            if time.monotonic() > deadline:
                raise AssertionError(f"still busy after {timeout} s: {self.errors()}")
            time.sleep(2)

    def states(self) -> dict[str, list[str]]:
        """{DAG: states of its runs, oldest first}."""
        dags = [one["dag_id"] for one in self.call("GET", "/api/v2/dags?limit=50")["dags"]]
        return {dag: [run["state"] for run in self.runs(dag)] for dag in sorted(dags)}

    def instances(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Every task of a run, with when it ran and how often it was tried."""
        return list(self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"])

    def reclm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, with the settings of the DAGs."""
        command = [sys.executable, "-m", "reclm.cli", *words]
        return subprocess.run(command, env=self.variables, capture_output=True, text=True, check=False)

    def set(self, **settings: Any) -> None:
        """Writes these settings over those the DAGs started with."""
        file = Path(self.variables["RECLM_SETTINGS"])
        others = [line for line in file.read_text().splitlines() if line.split(" = ")[0] not in settings]
        file.write_text(
            "".join(f"{line}\n" for line in [*others, *(f"{k} = {json.dumps(v)}" for k, v in settings.items())])
        )

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.workspace.warehouse), read_only=True) as connection:
            connection.execute("set TimeZone = 'UTC'")
            return connection.execute(query).fetchall()

    def errors(self) -> str:
        """Return the last errors of the logs, for a test that failed."""
        parts = []
        for path in sorted((self.home / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)[-60:]:
            for line in path.read_text(errors="replace").splitlines():
                if '"error_detail"' in line:
                    what = json.loads(line)["error_detail"][-1]
                    parts.append(f"{path.relative_to(self.home)}: {what['exc_type']}: {what['exc_value'][:1500]}")
        return "\n".join(parts[-12:]) or (self.home / "standalone.log").read_text(errors="replace")[-3000:]


def until(found: Callable[[], Any], timeout: float, what: str, airflow: Airflow | None = None) -> Any:
    """The first true result; AssertionError naming `what` when none comes in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(1)
    raise AssertionError(f"waited {timeout} s for {what}; {airflow.errors() if airflow else ''}")


@contextmanager
def running(folder: Path, settings: Mapping[str, Any], database: str = "") -> Iterator[Airflow]:
    """Airflow over the DAGs of the repository, with a workspace and a home of its own in `folder`."""
    workspace, home, port = Workspace(folder / "workspace"), folder / "airflow", free_port()
    workspace.root.mkdir(parents=True)
    file = folder / "reclm.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    variables = {
        **standalone.environment(workspace.root, home, port, database),
        "RECLM_SETTINGS": str(file),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
        "HF_HUB_OFFLINE": "1",
    }
    standalone.prepare(variables)
    process = standalone.start(variables, home / "standalone.log")
    airflow = Airflow(workspace, home, f"http://127.0.0.1:{port}", process, variables)
    try:
        until(lambda: _answers(airflow), 180, "Airflow's page", airflow)
        airflow.log_in()
        until(lambda: len(airflow.states()) == 6, 120, "six DAGs", airflow)
        yield airflow
    finally:
        standalone.stop(process)


def _answers(airflow: Airflow) -> bool:
    if airflow.process.poll() is not None:
        raise AssertionError((airflow.home / "standalone.log").read_text(errors="replace")[-3000:])
    try:
        health = httpx.get(f"{airflow.url}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor"))


def kill_parent_of(module: str, airflow: Airflow, timeout: float = 200) -> int:
    """kill -9 of the process that started `python -m module` for this Airflow; returns its id."""

    def find() -> int | None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    surroundings = (entry / "environ").read_bytes().decode(errors="replace")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if module in words and f"AIRFLOW_HOME={airflow.home}" in surroundings:
                    return parent
        return None

    pid = int(until(find, timeout, f"a process {module}", airflow))
    os.kill(pid, signal.SIGKILL)
    return pid
