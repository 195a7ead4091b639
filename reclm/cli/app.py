"""The command line: each command loads the settings, calls stages and prints what came out.

Results go to standard output, progress to standard error. A failure that a user can fix is one line and an exit code
(see `reclm/errors.py`), never a traceback. Heavy imports sit inside the commands, so `--help` is instant.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Annotated

import typer

from reclm.cli import data, language, models, operations, promotion, run, serving, trials
from reclm.cli.common import app
from reclm.storage.version import VERSION

for commands in (run, data, language, models, promotion, operations, serving, trials):
    commands.register(app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    atexit.register(_silence_late_noise)
    if version:
        print(f"reclm {VERSION}")
        raise typer.Exit


def _silence_late_noise() -> None:
    """duckdb 2.0's bindings list their leaks on standard error while the interpreter ends; nobody can act on that."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
