"""Commands that run everything, on a log or on the demo shop. Registered by `reclm.cli.app`."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reclm.cli.common import DataOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, making

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(demo)


@guarded
def run(
    data: DataOption,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Run everything on your log.

    In order: ingest, build, train the language model, write profiles, publish features, train recommenders, evaluate,
    choose a champion, report. Steps whose inputs have not changed are reused, so the same command goes on after a stop
    (Ctrl-C is safe at any time). It says first how long it will take.

    Needs a log with a user and an item column; a time column is optional, and item texts make profiles worth more.

    \b
    Examples:
      reclm run --data my-logs
      reclm run --data my-logs --set data.user_column=customer --set train.models=lightgcn,als
    """
    _run_everything(data, workspace, overrides, settings_file)


@guarded
def demo(
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Run everything on a made-up shop.

    The shop is drawn with a seed, so two runs give the same figures, and its true tastes are known, so profiles can be
    checked against them. Sizes: settings demo.*. Takes some minutes; keywords in place of a language model take less.

    \b
    Examples:
      reclm demo --workspace workspace-demo
      reclm demo --set profiles.engine=extractive --set train.models=lightgcn,als
    """
    _run_everything(None, workspace, overrides, settings_file)


def _run_everything(
    data: Path | None, workspace: Path | None, overrides: list[str] | None, settings_file: Path | None
) -> None:
    from reclm import stages
    from reclm.cli.estimate import announce
    from reclm.settings.memory import remember

    def landed(settings: Settings) -> None:
        remember(settings)  # so that what a killed run has made is found by commands without its --set
        announce(settings)
        threading.Thread(target=_import_ahead, daemon=True).start()

    with making(workspace, overrides, settings_file) as settings:
        _require_models(settings)
        evaluation = stages.run(settings, data, on_ingested=landed)
    _print_end(settings, evaluation)


def _require_models(settings: Settings) -> None:
    """Raise ModelError when a pretrained model is not there, before minutes of work and not after them."""
    from reclm.text.gguf import gguf_file
    from reclm.text.reader import embedding_name

    embedding_name(settings)
    if settings.profiles.engine in ("transformers", "vllm"):
        gguf_file(settings.llm.base_model)


def _import_ahead() -> None:
    """Import what later stages need, while dbt builds in a process of its own: this one has nothing else to do."""
    with suppress(Exception):  # the stage that needs it says what is wrong
        from reclm.features.store import load_feast

        load_feast()
        # torch._dynamo is what torch's first optimizer imports
        for name in ("torch._dynamo", "implicit", "scipy.stats", "matplotlib.figure"):
            import_module(name)


def _print_end(settings: Settings, evaluation: Artifact) -> None:
    from reclm.cli.conclusion import conclusion
    from reclm.evaluation.console import comparison_table
    from reclm.promotion import champion

    print(comparison_table(evaluation))
    print(f"\n{conclusion(evaluation, champion.find(settings))}")
    root = settings.paths.root
    try:
        shown = root.relative_to(Path.cwd())
    except ValueError:
        shown = root
    print(f"\nreport    open {shown}/report/index.html in a browser")
    print(f"tables    {shown}/warehouse/warehouse.duckdb (DuckDB, read-only copy; start with fct_evaluation)")
    print(f"try       reclm recommend --workspace {shown} --sample 3")
    print(f"serve     reclm serve --workspace {shown}   (recommendations over HTTP, and a page to look round)")
