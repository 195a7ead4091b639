"""Several models trained at once: what identifies each comes in, finished artifacts lie in the workspace, versions go out.

Small models leave most of a second core unused: two processes of one thread each get through more of them than one of
two threads. A process reads the training data for itself, is told over its standard input what to train next, and answers
with a line of JSON. Its input closes when the one that started it dies, however that is, and then it ends too: a killed run
leaves no writer behind.
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
LEAST_EACH = 2  # models a process must have to be worth its start
KILLED = -9


def processes(settings: Settings, models: int) -> int:
    """How many processes are to share the training of so many models."""
    wanted = min(settings.train.jobs, settings.runtime.threads or os.cpu_count() or 1, models // LEAST_EACH)
    if wanted < 2:
        return 1
    from reclm.settings.machine import device_of

    return wanted if device_of(settings.runtime) == "cpu" else 1


def train_in_processes(settings: Settings, jobs: int, wanted: Sequence[Identity]) -> Iterator[str]:
    """Trains all of `wanted`, no two of them the same, in `jobs` processes; yields the version of each as it is finished.

    Raises what training raises, and ModelError when a process dies.
    """
    threads = (settings.runtime.threads or os.cpu_count() or 1) // jobs
    shared = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"threads": threads})})
    waiting = iter(wanted)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:

        def give(child: Child) -> bool:
            identity = next(waiting, None)
            if identity is not None:
                _send(child, identity)
            return identity is not None

        for _ in range(jobs):
            child = stack.enter_context(_child(shared, threads))
            if give(child):
                selector.register(child.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type]
        while selector.get_map():
            for ready, _ in selector.select():
                version = _answer(ready.data)
                if not give(ready.data):
                    selector.unregister(ready.fileobj)
                yield version


@contextmanager
def _child(settings: Settings, threads: int) -> Iterator[Child]:
    """A process that trains, until the block ends. Ctrl-C does not reach it: what then follows is its parent's to say."""
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


def _send(child: Child, what: Any) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died; reading its answer tells
        child.stdin.write(json.dumps(what) + "\n")
        child.stdin.flush()


def _answer(child: Child) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        code = child.wait()
        what = "was killed, for lack of memory perhaps" if code == KILLED else f"ended with code {code}, see above"
        raise ModelError(
            f"a process that trained {what}; run again, with --set train.jobs=1 for one model after another (what was "
            "finished stands)"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise getattr(errors, answer["kind"], RuntimeError)(answer["error"])
    return str(answer["version"])


def _work() -> None:
    """The process: settings are the first line of its input, each other line is what to train."""
    from reclm import progress
    from reclm.settings.tree import Settings
    from reclm.training.model import train_one
    from reclm.training.snapshots import Snapshots

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, this way stays free
    progress.bars = False  # the parent has one
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
