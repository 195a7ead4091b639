"""Commands that compare models by what people do: try two at once, replay a log. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(challenge)
    app.command()(replay)


@guarded
def challenge(
    version: Annotated[str | None, typer.Argument(help="Version of a trained model.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End the trial: everybody meets the champion.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Try a trained model beside the champion, or end that.

    The model is fitted on everything that is known and published; a running service takes it in by itself. A share of
    the users (serve.challenger_share) meets it: they get its lists (serve.trial = split), or lists drafted from both
    models (interleave). Every promotion fits it again. fct_trials says whom people prefer.

    \b
    Examples:
      reclm challenge 0f3c9a51d2e84b77
      reclm challenge --end
    """
    from reclm.promotion import challenger

    if end == (version is not None):
        raise typer.BadParameter("give either a VERSION or --end")
    settings = load(workspace, overrides, settings_file)
    if version is not None:
        pointer = challenger.challenge(settings, version)
        print(f"challenger  {pointer['model']}/{pointer['variant']} {pointer['version']}")
        return
    ended = challenger.withdraw(settings)
    print(f"ended       {ended['model']}/{ended['variant']} {ended['version']}" if ended else "no trial was running")


@guarded
def replay(
    version: Annotated[str, typer.Argument(help="Version of a trained model.")],
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Estimate the click rate of a model that was never shown, from logged lists.

    The log must hold lists that were drawn at random: serve with serve.exploration above 0, and build (`reclm ingest
    --events`, `reclm build`). Lists shown after the model's as-of count. Refuses where the log cannot tell.

    \b
    Example:
      reclm replay 0f3c9a51d2e84b77
    """
    from reclm.trials.replay import replay as replay_log

    found = replay_log(load(workspace, overrides, settings_file), version)
    if output == "json":
        about = found._asdict() | {"since": found.since.isoformat()}
        print(json.dumps(about | {name: about[name]._asdict() for name in ("estimate", "shown")}))
        return
    print(f"{'log':<12}{found.n_lists:,} lists of {found.places} places, {found.n_users:,} users", end="")
    print(f", after {found.since:%Y-%m-%d %H:%M} UTC")
    for name, rate in (("shown", found.shown), (found.model, found.estimate)):
        print(f"{name:<12}{rate.value:.4f} [{rate.lo:.4f}, {rate.hi:.4f}] clicks a place")
    print(f"{'evidence':<12}as much as from showing {found.estimate.effective:,.0f} places of this model's own lists")
