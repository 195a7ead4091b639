"""The command line: thin. Each command loads the settings, calls one stage, and says what happened.

Results go to standard output, progress to standard error. A failure that a user can mend is one line and an exit code
(see `reclm/errors.py`), never a traceback. Heavy imports sit inside the commands, so `--help` is instant.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reclm.cli import operations as cli_operations
from reclm.cli import promotion as cli_promotion
from reclm.cli import serving as cli_serving
from reclm.cli.common import (
    DataOption,
    FormatOption,
    SetOption,
    SettingsFileOption,
    WorkspaceOption,
    app,
    guarded,
    load,
)
from reclm.storage.version import VERSION

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


@app.command()
@guarded
def run(
    data: DataOption,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Do everything: ingest, build, profile, publish, train, evaluate, choose a champion, report.

    What already stands on the same inputs is reused. An estimate is shown first; Ctrl-C is safe at any time.

    Example: reclm run --data my-logs --set data.user_column=customer --set train.models=lightgcn,als
    """
    from reclm import stages
    from reclm.cli.estimate import announce

    settings = load(workspace, overrides, settings_file)
    _finish(settings, stages.run(settings, data, on_ingested=announce))


@app.command()
@guarded
def demo(
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Run everything on a seeded, made-up shop whose truth is known (sizes: settings demo.*)."""
    from reclm import stages
    from reclm.cli.estimate import announce

    settings = load(workspace, ["data.importer=demo", *(overrides or [])], settings_file)
    _finish(settings, stages.run(settings, None, on_ingested=announce))


def _finish(settings: Settings, evaluation: Any) -> None:
    from reclm.evaluation.console import comparison_table

    print(comparison_table(evaluation))
    root = settings.paths.root
    try:
        shown = root.relative_to(Path.cwd())
    except ValueError:
        shown = root
    print(f"\nreport    open {shown}/report/index.html in a browser")
    print(f"tables    {shown}/warehouse/warehouse.duckdb (DuckDB, read-only copy; start with fct_evaluation)")
    print(f"try       reclm recommend --workspace {shown} --sample 3")
    print(f"serve     reclm serve --workspace {shown}   (recommendations over HTTP, and a page to look round)")


@app.command()
@guarded
def ingest(
    data: DataOption,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Copy logs and item texts into the workspace's landing folder, unedited.

    Formats are recognised: MovieLens (100K, 1M, latest, 25M), MIND, a pre-split folder, or any CSV, parquet or JSONL
    with settings data.*_column naming the columns. The same file twice is a no-op.
    """
    from reclm import stages

    dataset = stages.ingest(load(workspace, overrides, settings_file), data)
    for batch in dataset["batches"]:
        print(f"{batch['table']:<13}{batch['rows']:>10} rows  {batch['source_file']}")


@app.command()
@guarded
def build(
    workspace: WorkspaceOption = None,
    phase: Annotated[
        Literal["all", "features", "profiles", "evaluation"],
        typer.Option("--phase", help="Which group of models to build."),
    ] = "all",
    force: Annotated[bool, typer.Option("--force", help="Build even when nothing changed.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Also generate dbt's documentation site.")] = False,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Run dbt (models and data tests), then publish the analysts' read-only copy of the warehouse."""
    from reclm import stages
    from reclm.warehouse.build import docs as build_docs

    settings = load(workspace, overrides, settings_file)
    result = stages.build(settings, phase, force=force)
    print(f"build {result['build_id']}: {settings.paths.warehouse}")
    if docs:
        print(f"docs: {build_docs(settings)}")


@app.command()
@guarded
def tune(
    workspace: WorkspaceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the teacher would ask and cost (teacher.engine=openai).")
    ] = False,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Tune the language model: teacher's profiles, base model, then LoRA on two-turn dialogues.

    The base is `tiny`, trained on the spot, or any causal model: --set llm.base_model=FOLDER_OR_HUB_ID. Several GPUs:
    accelerate launch -m reclm.cli tune …
    """
    from reclm import stages

    settings = load(workspace, overrides, settings_file)
    stages.teach(settings, dry_run=dry_run)
    if not dry_run:
        stages.base(settings)
        _print_model(stages.tune(settings))


@app.command()
@guarded
def reward(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Train the reward model on good and spoilt profiles; held-out accuracy is told for each kind of spoiling."""
    from reclm import stages

    _print_model(stages.reward(load(workspace, overrides, settings_file)))


@app.command()
@guarded
def refine(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Refine the tuned model against the reward model by PPO (or --set refine.method=rloo), with guards that stop it."""
    from reclm import stages

    _print_model(stages.refine(load(workspace, overrides, settings_file)))


@app.command()
@guarded
def ablate(
    workspace: WorkspaceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and for how long.")
    ] = False,
    reward_of: Annotated[
        Path | None,
        typer.Option("--reward-of", help="Another workspace whose reward model is tried on this one's pairs."),
    ] = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Compare writers of profiles: keywords, base, one-turn, two-turn and refined model, under the same backbones.

    Needs published features. What is finished is kept; settings ablate.* choose arms, backbones, seeds and extras.

    Example: reclm ablate --set ablate.seeds=42 --set ablate.extras=masking,sizes
    """
    from reclm import stages
    from reclm.ablation.run import plan
    from reclm.ablation.table import ablation_table

    settings = load(workspace, overrides, settings_file)
    if dry_run:
        print("\n".join(plan(settings)))
        return
    ablation = stages.ablate(settings, reward_of=reward_of)
    print(ablation_table(ablation))
    print(f"\nablation {ablation.path}")


def _print_model(artifact: Any) -> None:
    import pyarrow.parquet as pq

    held_out = artifact.path / "held_out.parquet"
    if held_out.exists():
        for row in pq.read_table(held_out).to_pylist():
            error = "" if row["error"] is None else f" ± {row['error']:.3f}"
            print(f"{row['metric']:<28}{row['kind']:<12}{row['value']:>8.3f}{error}  n {row['n']}")
    print(f"{artifact.kind} {artifact.path}")


@app.command()
@guarded
def profile(
    workspace: WorkspaceOption = None,
    full: Annotated[bool, typer.Option("--full", help="Ask the language model everything again.")] = False,
    items: Annotated[
        Literal["all", "new"], typer.Option("--items", help="`new`: only items that have no profile yet; minutes.")
    ] = "all",
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Write the profiles of all users and items, encode every distinct text, and build the profile tables.

    Only new and changed users and items are written of, unless --full. The writer is profiles.engine.
    """
    from reclm import stages

    settings = load(workspace, overrides, settings_file)
    profiles = stages.profile(settings, full=full, items=items)
    embeddings = stages.embed(settings)
    stages.build(settings, "profiles")
    print(f"profiles   {profiles.path}\nembeddings {embeddings.path}")


@app.command()
@guarded
def publish(
    workspace: WorkspaceOption = None,
    rewind: Annotated[
        bool, typer.Option("--rewind", help="Let an older build (an earlier cut-off) replace what is published.")
    ] = False,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Check the features and publish them to Feast, offline and online; nothing is written unless all checks pass."""
    from reclm import stages

    result = stages.publish(load(workspace, overrides, settings_file), rewind=rewind)
    for view, counts in result["views"].items():
        print(f"{view:<15}{counts['rows']:>10} rows, {counts['written']} written online")
    print(f"features {result['version']}{' (reused)' if result['reused'] else ''}")


@app.command()
@guarded
def train(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Train the backbones named by train.models, each in the variants of train.variants, once per seed of train.seeds."""
    from reclm import stages

    for artifact in stages.train(load(workspace, overrides, settings_file)):
        parameters = artifact.manifest["parameters"]
        print(f"{parameters['model']}/{parameters['variant']} seed {parameters['seed']}: {artifact.path}")


@app.command()
@guarded
def evaluate(
    workspace: WorkspaceOption = None,
    output: FormatOption = "table",
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Rank every candidate for every user with truth, for all trained models and baselines; print the comparison.

    json rows: dataset, regime, setting, model, variant, seed, metric, k, value, lo, hi (95 % bootstrap over users).
    """
    from reclm import stages
    from reclm.evaluation.console import comparison_table
    from reclm.evaluation.evaluate import result_rows

    settings = load(workspace, overrides, settings_file)
    evaluation = stages.evaluate(settings)
    stages.build(settings, "evaluation")
    if output == "json":
        for row in result_rows(evaluation):
            print(json.dumps(row))
    else:
        print(comparison_table(evaluation))


@app.command()
@guarded
def report(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Write one self-contained HTML page: figures beside targets, plots, what ran on what."""
    from reclm import stages

    print(stages.report(load(workspace, overrides, settings_file)))


@app.command()
@guarded
def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="User ids.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Items per user.")] = 10,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Instead of ids: this many users, spread over the user table.")
    ] = 0,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Item id to leave out; may be given often.")
    ] = None,
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Recommend items to users with the champion, showing each user's profile from the feature store."""
    from reclm.serving.offline import format_recommendations, recommend_to_users

    if not users and not sample:
        raise typer.BadParameter("give user ids, or --sample N")
    settings = load(workspace, overrides, settings_file)
    for result in recommend_to_users(settings, users or [], top_k=top_k, sample=sample, exclude=exclude or []):
        print(json.dumps(result) if output == "json" else format_recommendations(result))


@app.command("settings")
@guarded
def list_settings(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Every settings key with its type, the value in force, and what it does.

    Order of precedence: reclm.toml < environment (RECLM_TRAIN__EPOCHS=20) < --set train.epochs=20.
    """
    from functools import reduce

    from reclm.settings.loading import describe

    settings = load(workspace, overrides, settings_file)
    for key, kind, default, description in describe():
        value = reduce(getattr, key.split("."), settings)
        if output == "json":
            print(
                json.dumps(
                    {"key": key, "type": kind, "default": default, "value": value, "description": description},
                    default=str,
                )
            )
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            print(f"{key} = {shown}\n    {description}")


cli_promotion.register(app)
cli_operations.register(app)
cli_serving.register(app)


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
