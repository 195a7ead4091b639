"""Print what long work does.

In: messages. Out: lines and bars on standard error. Standard output stays free for results. `say` prints a line that
everybody should see. `detail` prints a line only when `verbose` is set (the option `--verbose`, or RECLM_VERBOSE=1). On
a terminal the last line also shows the work in progress (`live`), and loops show a bar (`track`); in a log file neither
appears.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
VERBOSE = "RECLM_VERBOSE"
bars = True  # False in a process that works beside others: one terminal has room for one bar
_running: list[str] = []
"""What is being done now, outermost first: shown on the last line of a terminal."""
_bars_shown: list[str] = []
"""The bars on the terminal: while there is one, the last line is theirs."""


def set_verbose(on: bool) -> None:
    """Print details too, in this process and in those it starts."""
    os.environ[VERBOSE] = "1" if on else "0"


def verbose() -> bool:
    """Return whether details are printed."""
    return os.environ.get(VERBOSE, "0").lower() not in ("", "0", "false", "no")


def say(message: str) -> None:
    """Print one line on standard error."""
    _clear()
    print(message, file=sys.stderr, flush=True)
    _show()


def detail(message: str) -> None:
    """Print one indented line on standard error if details are wanted."""
    if verbose():
        say(f"  {message}")


@contextmanager
def live(name: str) -> Iterator[None]:
    """Show `name` on the last line of a terminal while the block runs."""
    _running.append(name)
    _show()
    try:
        yield
    finally:
        _clear()
        _running.pop()
        _show()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, with a bar on a terminal. `total` is taken from `len(items)` when left out."""
    if not _on_terminal():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    _clear()
    _bars_shown.append(description)
    try:
        yield from bar(items, description=description, total=total, console=Console(stderr=True), transient=True)
    finally:
        _bars_shown.pop()
        _show()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce a part of a stage and say how long it took, as details."""
    started = time.monotonic()
    detail(f"{name} …")
    with live(name):
        yield
    detail(f"{name}: {time.monotonic() - started:.1f} s")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars that transformers draws for weights, and its tables of weights that a new head lacks."""
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


def _on_terminal() -> bool:
    return bars and sys.stderr.isatty()


def _show() -> None:
    if _running and not _bars_shown and _on_terminal():
        print(f"\r\x1b[K{' · '.join(_running)} …", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if _running and not _bars_shown and _on_terminal():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
