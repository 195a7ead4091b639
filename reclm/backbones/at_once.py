"""Several models trained at once: what identifies each comes in, finished artifacts lie in the workspace, versions go out.

Small models leave most of a second core unused: two processes of one thread each get through more of them than one of
two threads. Each process reads the training data for itself. They end when the one that started them does, however it
ends, so that a killed run leaves no writer behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from reclm.backbones.stage import Snapshots
    from reclm.settings import Settings

Identity = tuple[dict[str, Any], dict[str, str]]
LEAST_EACH = 2  # models a process must have to be worth its start
LOOK_SECONDS = 0.3

_settings: Settings
_snapshots: Snapshots


def processes(settings: Settings, models: int) -> int:
    """How many processes are to share the training of so many models."""
    from reclm.backbones.trainer import device_of

    if device_of(settings.runtime).type != "cpu":
        return 1
    threads = settings.runtime.threads or os.cpu_count() or 1
    return max(1, min(settings.train.jobs, threads, models // LEAST_EACH))


def train(settings: Settings, jobs: int, wanted: Sequence[Identity], warehouse: str) -> Iterator[str]:
    """Trains all of `wanted` in `jobs` processes; yields the version of each as it is finished.

    Raises what training raises, and ModelError when a process dies.
    """
    threads = (settings.runtime.threads or os.cpu_count() or 1) // jobs
    shared = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"threads": threads})})
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _begin, (shared, warehouse, os.getpid(), stop)) as pool:
        try:
            for done in as_completed([pool.submit(_train, identity) for identity in wanted]):
                yield done.result()
        except BrokenProcessPool:
            raise ModelError(
                "a process that trained was killed, for lack of memory perhaps; run again with --set train.jobs=1 "
                "(what was finished stands)"
            ) from None
        except BaseException:
            stop.set()
            raise


def _begin(settings: Settings, warehouse: str, parent: int, stop: Event) -> None:
    """What a process does first. Ctrl-C reaches it too: it is the parent's to say what follows."""
    from threadpoolctl import threadpool_limits

    from reclm.backbones.stage import Snapshots

    global _settings, _snapshots
    _settings, _snapshots = settings, Snapshots(settings, warehouse)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()
    threadpool_limits(settings.runtime.threads, "blas")


def _end_with(parent: int, stop: Event) -> None:
    while os.getppid() == parent and not stop.wait(LOOK_SECONDS):
        pass
    os._exit(1)


def _train(identity: Identity) -> str:
    from reclm.backbones.stage import train_one

    return train_one(_settings, _snapshots, *identity)
