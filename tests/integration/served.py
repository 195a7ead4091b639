"""`reclm serve` as a separate process, and clients that send it requests without pause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from integration import pipeline


@dataclass
class Service:
    """A running service."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=20, **more)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=20)

    def put(self, path: str, body: Any) -> httpx.Response:
        return httpx.put(f"{self.url}{path}", json=body, timeout=20)

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/v1/recommendations", json=body, timeout=20)
        answer.raise_for_status()
        return dict(answer.json())


@contextmanager
def service(workspace: Path, flags: Sequence[str] = ()) -> Iterator[Service]:
    """Start the service on a free port and stop it as Ctrl-C does."""
    arguments = [word for flag in flags for word in ("--set", flag)]
    log = (workspace / "serve.log").open("w")
    process = subprocess.Popen(
        pipeline.command("serve", "--workspace", str(workspace), "--port", "0", *arguments),
        env=pipeline.environment() | {"OMP_NUM_THREADS": "1"},
        cwd=workspace.parent,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("page"), (workspace / "serve.log").read_text()[-3000:]
        running = Service(line.split()[1].rstrip("/"), process)
        deadline = time.monotonic() + 60
        while True:
            try:
                running.get("/health/live")
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, (workspace / "serve.log").read_text()[-3000:]
                time.sleep(0.1)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.close()


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that a running service does by itself."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def serving_processes(parent: int) -> list[int]:
    """The workers of `reclm serve --workers N`; the parent's other child is Python's resource tracker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            above = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
            if above == str(parent) and "spawn_main" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


@dataclass
class Crowd:
    """The responses to the clients: (seconds since the start, status, body)."""

    answers: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> set[int]:
        return {status for _, status, _ in self.answers}


@contextmanager
def crowd(url: str, bodies: Sequence[dict[str, Any]], clients: int = 8, pause: float = 0.02) -> Iterator[Crowd]:
    """`clients` send `bodies` in turn, each with `pause` seconds between two requests, until the block ends."""
    seen, stop = Crowd(), threading.Event()

    async def run_client(client: httpx.AsyncClient, number: int, started: float) -> None:
        turn = number
        while not stop.is_set():
            turn += 1
            try:
                answer = await client.post("/v1/recommendations", json=bodies[turn % len(bodies)])
                seen.answers.append((time.monotonic() - started, answer.status_code, answer.json()))
            except httpx.HTTPError as error:
                seen.errors.append(repr(error))
            await asyncio.sleep(pause)

    async def run_all() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            await asyncio.gather(*(run_client(client, number, time.monotonic()) for number in range(clients)))

    thread = threading.Thread(target=lambda: asyncio.run(run_all()))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
