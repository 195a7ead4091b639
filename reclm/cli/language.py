"""Commands of the language model and its profiles. Registered by `reclm.cli.app`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reclm.cli.common import SetOption, SettingsFileOption, WorkspaceOption, guarded, load, making

if TYPE_CHECKING:
    from reclm.storage.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(tune)
    app.command()(reward)
    app.command()(refine)
    app.command()(profile)
    app.command()(ablate)


@guarded
def tune(
    workspace: WorkspaceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the teacher would ask and cost (teacher.engine=openai).")
    ] = False,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Train the language model that writes profiles.

    Three steps: example profiles, a base model, tuning on two-turn dialogues. The base is `tiny`, trained from scratch
    here, or any causal model from a folder or the Hugging Face hub. The example profiles come from keywords, a table or
    an endpoint (settings teacher.*). Needs `reclm build`.

    \b
    Examples:
      reclm tune
      reclm tune --set llm.base_model=FOLDER_OR_HUB_ID
      reclm tune --dry-run --set teacher.engine=openai
      accelerate launch -m reclm.cli tune        (several GPUs)
    """
    from reclm import stages

    if dry_run:
        stages.teach(load(workspace, overrides, settings_file), dry_run=True)
        return
    with making(workspace, overrides, settings_file) as settings:
        stages.teach(settings)
        stages.base(settings)
        tuned = stages.tune(settings)
    _print_model(tuned)


@guarded
def reward(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Train the reward model, which scores profiles.

    It learns from pairs of a good and a deliberately worsened profile. Prints its accuracy on held-out pairs for each
    way of worsening. Needs `reclm tune`. Settings: reward.*.

    \b
    Example:
      reclm reward --set reward.pairs=2000
    """
    from reclm import stages

    with making(workspace, overrides, settings_file) as settings:
        model = stages.reward(settings)
    _print_model(model)


@guarded
def refine(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """Refine the tuned model with the reward model.

    Reinforcement learning by PPO or RLOO. Guards stop it when profiles become malformed or all alike, and the best step
    on held-out entities is used. Needs `reclm tune` and `reclm reward`. Settings: refine.*.

    \b
    Example:
      reclm refine --set refine.method=rloo
    """
    from reclm import stages

    with making(workspace, overrides, settings_file) as settings:
        model = stages.refine(settings)
    _print_model(model)


@guarded
def profile(
    workspace: WorkspaceOption = None,
    full: Annotated[bool, typer.Option("--full", help="Ask the language model everything again.")] = False,
    items: Annotated[
        Literal["all", "new"],
        typer.Option("--items", help="`new`: only items without a profile, or with another text."),
    ] = "all",
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Write the profiles of all users and items.

    Then encode them as vectors and build their tables. The writer is profiles.engine: keywords, a tuned language model
    or an endpoint. A language model writes only of new and changed users and items, unless --full;
    keywords of all. Needs `reclm build`, and `reclm tune` for a language model.

    \b
    Examples:
      reclm profile --set profiles.engine=extractive
      reclm profile --items new
    """
    from reclm import stages

    with making(workspace, overrides, settings_file) as settings:
        profiles = stages.profile(settings, full=full, items=items)
        embeddings = stages.embed(settings)
        stages.build(settings, "profiles")
    print(f"profiles   {profiles.path}\nembeddings {embeddings.path}")


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
    """Compare the writers of profiles.

    They are keywords and the base, one-turn, two-turn and refined language model. Every writer's profiles are given to
    the same recommenders with the same seeds. Finished parts are reused. Needs `reclm publish`. Settings ablate.*
    choose writers, recommenders, seeds and extras.

    \b
    Examples:
      reclm ablate --dry-run
      reclm ablate --set ablate.seeds=42 --set ablate.extras=masking,sizes
    """
    from reclm import stages
    from reclm.ablation.run import plan
    from reclm.ablation.table import ablation_table

    if dry_run:
        print("\n".join(plan(load(workspace, overrides, settings_file))))
        return
    with making(workspace, overrides, settings_file) as settings:
        ablation = stages.ablate(settings, reward_of=reward_of)
    print(ablation_table(ablation))
    print(f"\nablation {ablation.path}")


def _print_model(artifact: Artifact) -> None:
    import pyarrow.parquet as pq

    from reclm.storage.schemas import HELD_OUT

    held_out = artifact.path / "held_out.parquet"
    if held_out.exists():
        for row in pq.read_table(held_out, schema=HELD_OUT).to_pylist():
            error = "" if row["error"] is None else f" ± {row['error']:.3f}"
            print(f"{row['metric']:<28}{row['kind']:<12}{row['value']:>8.3f}{error}  n {row['n']}")
    print(f"{artifact.kind} {artifact.path}")
