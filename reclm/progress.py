"""What long work shows: one line per step on standard error, a bar for loops, silence when nobody watches.

On a terminal the bar moves; in a log file only `say` lines appear. Standard output stays free for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
bars = True  # False in a process beside others: one terminal has room for one bar


def say(message: str) -> None:
    """One line on standard error."""
    print(message, file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Passes `items` through, with a bar on a terminal. `total` is taken from `len(items)` when left out."""
    if not (bars and sys.stderr.isatty()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    yield from bar(items, description=description, total=total, console=Console(stderr=True), transient=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announces a step and says how long it took."""
    started = time.monotonic()
    say(f"  {name} …")
    yield
    say(f"  {name}: {time.monotonic() - started:.1f} s")


@contextmanager
def quiet() -> Iterator[None]:
    """No bars of transformers for reading and writing weights, which end in a log file one line each, and no tables of
    the weights that a new head has not."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
