"""What every command of the line shares: the application, its options, its manner of failing, its way to the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

app = typer.Typer(
    name="reclm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Recommendations that know who people are and what things are for.\n\n"
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
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="table for people, json for one object a line.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from reclm.errors import ReclmError

        try:
            command(*args, **kwargs)
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

    return run


def load(workspace: Path | None, flags: list[str] | None, file: Path | None) -> Settings:
    from reclm.settings.loading import load
    from reclm.settings.machine import bound_libraries

    loaded = load(flags or (), workspace=workspace, file=file)
    bound_libraries(loaded)
    os.environ["RECLM_WORKSPACE"] = str(loaded.paths.root)  # dbt's profiles.yml and Feast's definitions read it
    return loaded
