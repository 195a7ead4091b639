"""Commands of the recommenders: train, evaluate, report, recommend. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load, making


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(report)
    app.command()(recommend)


@guarded
def train(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Train the recommenders, with and without profiles.

    Each model of train.models is trained in every variant of train.variants (base, augment: with profiles, shuffled:
    the control) for every seed of train.seeds, from the published features. Finished models are reused. Needs `reclm
    publish`.

    \b
    Example:
      reclm train --set train.models=lightgcn,als --set train.seeds=1,2,3
    """
    from reclm import stages

    with making(workspace, overrides, settings_file) as settings:
        trained = stages.train(settings)
    for artifact in trained:
        parameters = artifact.manifest["parameters"]
        print(f"{parameters['model']}/{parameters['variant']} seed {parameters['seed']}: {artifact.path}")


@guarded
def evaluate(
    workspace: WorkspaceOption = None,
    output: FormatOption = "table",
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Measure models and baselines on the test slice.

    Prints Recall@K and NDCG@K on known items (full-shot), on new items (zero-shot) and on both together, as they are
    served (mixed), how well validation foretold them, and what each cold start gave there. Needs `reclm train`. With
    --format json a row has: dataset, regime, setting, model, variant, seed, metric, k, value, and the bounds of a 95 %
    interval over users, lo, hi.

    \b
    Example:
      reclm evaluate --format json
    """
    from reclm import stages
    from reclm.evaluation.console import comparison_table
    from reclm.evaluation.evaluate import result_rows

    with making(workspace, overrides, settings_file) as settings:
        evaluation = stages.evaluate(settings)
        stages.build(settings, "evaluation")
    if output == "json":
        for row in result_rows(evaluation):
            print(json.dumps(row))
    else:
        print(comparison_table(evaluation))


@guarded
def report(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Write the report, one HTML page.

    It says which model serves and why, how good it is, whether profiles help on this data, and what to do next. Needs
    `reclm evaluate`.

    \b
    Example:
      reclm report
    """
    from reclm import stages

    print(stages.report(load(workspace, overrides, settings_file)))


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
    """Recommend items to users with the champion.

    Each user's profile is shown beside the items. Needs a champion (`reclm promote` or `reclm run`) and published
    features.

    \b
    Examples:
      reclm recommend u1 u2 --top-k 5
      reclm recommend --sample 3 --format json
    """
    from reclm.serving.offline import format_recommendations, recommend_to_users

    if not users and not sample:
        raise typer.BadParameter("give user ids, or --sample N")
    settings = load(workspace, overrides, settings_file, uses=("feast",))
    for result in recommend_to_users(settings, users or [], top_k=top_k, sample=sample, exclude=exclude or []):
        print(json.dumps(result) if output == "json" else format_recommendations(result))
