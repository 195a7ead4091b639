"""Run several serving processes behind one socket, and keep them running.

In: settings and a listening socket. Out: `serve.workers` processes that accept from the same socket, so the kernel
shares the connections out. A process that ends is replaced. Ctrl-C or SIGTERM stops them all; when the parent is
killed, each process notices and stops by itself. Counters are shared through files (Prometheus' multiprocess mode);
the index, the rate limits and the limit of requests in progress belong to each process.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from reclm.errors import ReclmError
from reclm.serving.metrics import METRICS_FOLDER
from reclm.serving.process import GRACE_SECONDS, run_process

if TYPE_CHECKING:
    import socket
    from multiprocessing.context import SpawnProcess

    from reclm.settings.tree import Settings

SECONDS_BEFORE_RESTART = 1.0
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy threads and locks of the libraries
log = logging.getLogger("reclm.serve")


def run_workers(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Run `serve.workers` processes until the parent is told to stop; `ready` is called once all have loaded.

    Raises ReclmError when a process cannot start, with the error of that process.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="reclm-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        workers: list[SpawnProcess] = []
        try:
            starting = [_start(settings, listener, folder) for _ in range(settings.serve.workers)]
            workers += [worker for worker, _ in starting]
            for _, says in starting:
                _wait_until_loaded(says)
            ready()
            while True:
                _replace_ended(settings, listener, workers, folder)
        except KeyboardInterrupt:
            pass
        finally:
            _stop(workers)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _start(settings: Settings, listener: socket.socket, folder: str) -> tuple[SpawnProcess, Connection]:
    says, tells = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=_work, args=(settings, listener, folder, tells), name="reclm-serve")
    worker.start()
    tells.close()
    return worker, says


def _work(settings: Settings, listener: socket.socket, folder: str, tells: Connection) -> None:
    """Be one of the processes; runs in it."""
    threading.Thread(target=_stop_with_the_parent, name="parent-watch", daemon=True).start()
    try:
        run_process(settings, listener, lambda: _tell(tells, None), folder)
    except ReclmError as error:
        log.error("a serving process could not load: %s", error)
        _tell(tells, error)


def _tell(tells: Connection, problem: ReclmError | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for a process that replaces another
        tells.send(problem)


def _stop_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_until_loaded(says: Connection) -> None:
    try:
        problem = says.recv()
    except EOFError:
        raise ReclmError("a serving process ended while it loaded; its last lines above say why") from None
    if problem is not None:
        raise problem


def _replace_ended(settings: Settings, listener: socket.socket, workers: list[SpawnProcess], folder: str) -> None:
    """Wait until a process ends, and start another in its place."""
    from prometheus_client.multiprocess import mark_process_dead

    wait([worker.sentinel for worker in workers])
    for position, worker in enumerate(workers):
        if worker.exitcode is not None:
            log.error("serving process %d ended with %d; another one starts", worker.pid, worker.exitcode)
            mark_process_dead(worker.pid, folder)  # type: ignore[no-untyped-call]
            threading.Event().wait(SECONDS_BEFORE_RESTART)
            workers[position] = _start(settings, listener, folder)[0]


def _stop(workers: list[SpawnProcess]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(GRACE_SECONDS + 5)
        if worker.exitcode is None:
            worker.kill()
            worker.join()
