"""Commands that compare models by what people did: replay a log. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(replay)


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
    print(f"{'told by':<12}{found.estimate.effective:,.0f} places of its own would tell as much")
