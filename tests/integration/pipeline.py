"""Running reclm as a user does, in a process of its own, on a shop small enough for a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace

SMALL_SHOP = (
    "demo.users=160",
    "demo.items=120",
    "demo.interactions=3500",
    "train.models=ncf",
    "train.epochs=4",
    "train.validate_every=2",
    "train.patience=1",
    "train.dim=16",
    "features.neighbours=5",
    "profiles.engine=extractive",
    "embedding.max_tokens=32",
    "evaluation.bootstrap=50",
    "runtime.threads=1",
)
LANGUAGE_MODEL = (
    "profiles.engine=transformers",
    "profiles.retries=1",
    "llm.tiny_tokens=40000",
    "llm.max_profile_tokens=40",
    "tune.max_steps=6",
    "tune.held_out_sample=8",
    "reward.pairs=200",
    "refine.steps=2",
    "refine.validate_every=1",
    "refine.batch_size=4",
    "refine.held_out_sample=8",
    "promotion.min_format=0",  # after so few steps the format is poor, and the policy would keep the model out
)
RUN_TIMESTAMPS = ("created_at", "built_at", "version", "latency_ms")
RUN_TIMESTAMPS += ("decided_at", "candidate_version", "champion_version", "guards")  # guards time the ranking


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "reclm.cli", *words]


def environment() -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RECLM_")}
    return environ | {"PYTHONUNBUFFERED": "1"}


def flags(*more: str) -> list[str]:
    return [word for setting in (*SMALL_SHOP, *more) for word in ("--set", setting)]


def reclm(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(), cwd=folder, check=False, timeout=600
    )


def demo(workspace: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = reclm("demo", "--workspace", str(workspace), *flags(*more), folder=workspace.parent)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def seconds_of_stages(workspace: Path) -> dict[str, float]:
    """How long each stage's first finished run took here: a machine's own measure of when to disturb it."""
    seconds: dict[str, float] = {}
    for path in sorted(Workspace(workspace).runs.glob("*.json")):
        record = read_json(path)
        if record["status"] == "done":
            seconds.setdefault(record["stage"], record["seconds"])
    return seconds


def demo_killed_in(stage: str, workspace: Path, seconds: float, *more: str, writing: str = "") -> bool:
    """Starts the demo and kills it with -9 `seconds` into `stage`; True when it really died there.

    With `writing`, an artifact kind, the seconds count from the moment that the stage begins to write one.
    """
    started_before = {path.name for path in Workspace(workspace).runs.glob("*.json")}
    process = subprocess.Popen(
        command("demo", "--workspace", str(workspace), *flags(*more)),
        env=environment(),
        cwd=workspace.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            fresh = [p for p in Workspace(workspace).runs.glob(f"*-{stage}.json") if p.name not in started_before]
            if fresh and (not writing or any((Workspace(workspace).artifacts / ".partial").glob(f"{writing}-*"))):
                break
            time.sleep(0.02)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return any(read_json(path)["status"] == "running" for path in fresh)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tables(workspace: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table of the published warehouse, rows sorted, run timestamps left out."""
    with duckdb.connect(str(Workspace(workspace).warehouse), read_only=True) as connection:
        connection.execute(f"set file_search_path = '{workspace}'")
        names = [row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()]
        found = {}
        for name in sorted(names):
            columns = [
                row[0]
                for row in connection.execute(
                    "select column_name from information_schema.columns where table_name = ? order by 1", [name]
                ).fetchall()
            ]
            columns_shown = ", ".join(f'"{column}"::varchar' for column in columns if column not in RUN_TIMESTAMPS)
            found[name] = sorted(connection.execute(f'select {columns_shown} from "{name}"').fetchall(), key=repr)
    return found


def holds_id(path: Path, user_id: str) -> bool:
    """True when the file holds the id: in a cell of a parquet file (its pages are compressed), else in its bytes."""
    if path.suffix != ".parquet":
        return user_id.encode() in path.read_bytes()
    cells = (cell for row in pq.read_table(path).to_pylist() for cell in row.values() if isinstance(cell, str))
    return any(user_id in cell for cell in cells)
