"""Train several models at once, each in a process of its own.

In: what identifies each model. Out: finished artifacts in the workspace, and their versions. Small models leave most of
a second core unused, so two processes of one thread each train more of them than one process of two threads. A child
process reads the training data for itself, reads from its standard input which model to train next, and answers with a
line of JSON. When its parent dies, the child's input closes and the child ends: a killed run leaves no process behind.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from reclm import errors
from reclm.errors import ModelError, ReclmError

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Identity = tuple[dict[str, Any], dict[str, str]]
Child = subprocess.Popen[str]
MIN_MODELS_EACH = 2  # with fewer models, a process is not worth its start
MIN_WORK = 30_000
"""Models times interactions below which training here takes less time than starting processes, which import torch and
Feast anew."""
KILLED = -9  # the exit code of a process that SIGKILL ended


def is_small(models: int, interactions: int) -> bool:
    """Return whether so many trainings are done sooner here, and by one thread: further ones mostly wait."""
    return models * interactions < MIN_WORK


def with_threads(settings: Settings, threads: int) -> Settings:
    """Return the settings with `runtime.threads`."""
    return settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"threads": threads})})


def processes(settings: Settings, models: int, interactions: int) -> int:
    """Return how many processes should share the training of `models` models on so many known interactions.

    Small ones stay here unless a person gives `train.jobs`.
    """
    if is_small(models, interactions) and "train.jobs" not in settings.given:
        return 1
    wanted = min(settings.train.jobs, settings.runtime.threads or os.cpu_count() or 1, models // MIN_MODELS_EACH)
    if wanted < 2:
        return 1
    from reclm.settings.machine import device_of

    return wanted if device_of(settings.runtime) == "cpu" else 1


def train_in_processes(settings: Settings, jobs: int, wanted: Sequence[Identity]) -> Iterator[str]:
    """Train all models of `wanted`, each listed once, in `jobs` processes; yield each version when it is finished.

    Raises what training raises, and ModelError when a process dies.
    """
    threads = (settings.runtime.threads or os.cpu_count() or 1) // jobs
    shared = with_threads(settings, threads)
    waiting = iter(wanted)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:

        def send_next(child: Child) -> bool:
            identity = next(waiting, None)
            if identity is not None:
                _send(child, identity)
            return identity is not None

        for _ in range(jobs):
            child = stack.enter_context(_child(shared, threads))
            if send_next(child):
                selector.register(child.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type]
        while selector.get_map():
            for ready, _ in selector.select():
                version = _answer(ready.data)
                if not send_next(ready.data):
                    selector.unregister(ready.fileobj)
                yield version


@contextmanager
def _child(settings: Settings, threads: int) -> Iterator[Child]:
    """Start a child process that trains until the block ends. Ctrl-C reaches only the parent, which then kills it."""
    bounds = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with subprocess.Popen(
        [sys.executable, "-m", "reclm.training.pool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | bounds,
        start_new_session=True,
    ) as child:
        try:
            _send(child, settings.model_dump(mode="json"))
            yield child
        finally:
            child.kill()


def _send(child: Child, message: Any) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # the child died: reading its answer raises
        child.stdin.write(json.dumps(message) + "\n")
        child.stdin.flush()


def _answer(child: Child) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        code = child.wait()
        end = "was killed, perhaps for lack of memory" if code == KILLED else f"ended with code {code}, see above"
        raise ModelError(
            f"a training process {end}; run again with --set train.jobs=1 to train one model after another (finished "
            "models are reused)"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise getattr(errors, answer["kind"], RuntimeError)(answer["error"])
    return str(answer["version"])


def _work() -> None:
    """Run the child process: the first line of its input holds the settings, each other line a model to train."""
    from reclm import progress
    from reclm.settings.tree import Settings
    from reclm.training.model import train_one
    from reclm.training.snapshots import Snapshots

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    progress.bars = False  # the parent shows one
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    settings = Settings(**json.loads(lines.get()))
    snapshots: Snapshots | None = None
    while True:
        parameters, parents = json.loads(lines.get())
        snapshots = snapshots or Snapshots(settings, parents)
        try:
            answer = {"version": train_one(settings, snapshots, parameters, parents)}
        except ReclmError as error:
            answer = {"kind": type(error).__name__, "error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"kind": "RuntimeError", "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _work()
