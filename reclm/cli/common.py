"""What every command shares: the application, its options, how it loads settings and how it reports a failure."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reclm.progress import set_verbose

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


app = typer.Typer(
    name="reclm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Recommend items with profiles that a language model writes of users and items.\n\n"
    "From a log to recommendations: `reclm run --data FOLDER` does everything; `reclm demo` does it on a made-up shop.",
)

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder that holds everything one data set produced [default: RECLM_WORKSPACE, else ./workspace].",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override a setting; may be given often. `reclm settings` lists the keys.",
    ),
]
SettingsFileOption = Annotated[
    Path | None, typer.Option("--settings", help="TOML file of settings [default: RECLM_SETTINGS, else ./reclm.toml].")
]
DataOption = Annotated[
    Path, typer.Option("--data", "-d", help="Folder (or file) with the log and, if there is one, the item table.")
]
Format = Literal["table", "json"]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="table for people, json for one object per line.")]


VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Also print the details of each step.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--verbose` to a command, and turn errors that a user can fix into one line and an exit code."""

    @wraps(command)
    def run(*args: Any, verbose: bool = False, **kwargs: Any) -> None:
        from reclm.errors import ReclmError

        if verbose:
            set_verbose(True)
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # a reader that has gone is noticed here, not while the interpreter ends
        except ReclmError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted: nothing half-written was kept; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:  # no such folder, not writable, disk full: the system's own words name the place
            print(f"error: {error.strerror or error}: {error.filename or 'see above'}", file=sys.stderr)
            raise typer.Exit(1) from None

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VerboseOption)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "verbose": VerboseOption}
    return run


def load(
    workspace: Path | None,
    flags: list[str] | None,
    file: Path | None,
    *,
    any_layout: bool = False,
    uses: Collection[str] = (),
) -> Settings:
    """Load the settings of a command and prepare this process for them: libraries, environment of dbt and Feast.

    Says which settings of the sections `uses` are remembered or have changed. A workspace made by an older version is
    refused, except with `any_layout`, for commands that read no data of it.
    """
    from reclm.progress import say
    from reclm.settings.loading import load
    from reclm.settings.machine import bound_libraries
    from reclm.settings.memory import notes

    loaded = load(flags or (), workspace=workspace, file=file)
    if not any_layout:
        loaded.paths.require_current_layout()
    for note in notes(loaded, uses):
        say(note)
    bound_libraries(loaded.runtime)
    os.environ["RECLM_WORKSPACE"] = str(loaded.paths.root)  # dbt's profiles.yml and Feast's definitions read it
    return loaded


@contextmanager
def making(workspace: Path | None, flags: list[str] | None, file: Path | None) -> Iterator[Settings]:
    """Load the settings of a command that makes something; the workspace remembers them when the block has ended well.

    So a wrong value, such as a column that the log does not have, is not remembered.
    """
    from reclm.settings.memory import MADE_BY, remember

    loaded = load(workspace, flags, file, uses=MADE_BY)
    yield loaded
    remember(loaded)
