"""Commands of promotion: decide, go back, show the champion and the decisions. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load, making

if TYPE_CHECKING:
    from reclm.storage.artifacts import Artifact

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; stored with the decision.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(promote)
    app.command()(rollback)
    app.command("champion")(show_champion)


@guarded
def promote(
    version: Annotated[
        str | None, typer.Argument(help="Version of a trained model: it becomes champion whatever the policy says.")
    ] = None,
    reason: ReasonOption = "",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Decide whether a trained model becomes champion.

    With VERSION it does, whatever the policy says. Without, the policy takes the best model that no guard keeps out,
    with profiles where those are not worse: chosen on one half of the validation users, measured on the other. On newer
    data the champion's own kind is trained again and takes its place, unless it has become worse; one of another kind
    must beat it, user by user. Guards look at cold items, coverage, popularity, latency, profiles, volume, and at
    popularity and EASE of the same day: settings promotion.*. Every decision is a row of fct_promotions. A choice by
    hand holds until models of other data are trained. Needs `reclm train`.

    \b
    Examples:
      reclm promote
      reclm promote 0f3c9a51d2e84b77 --reason "the newest one shows only bestsellers"
    """
    from reclm import stages

    if version is None and reason:
        raise typer.BadParameter("--reason goes with a VERSION: the policy gives its own")
    with making(workspace, overrides, settings_file) as settings:
        decision = stages.promote_by_hand(settings, version, reason=reason) if version else stages.promote(settings)
        stages.build(settings, "evaluation")
    _print_decision(decision)


@guarded
def rollback(
    reason: ReasonOption = "",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Go back to the champion before this one.

    Its vectors are published before the switch. Another rollback goes one further back. It holds until models of other
    data are trained: the same run again does not undo it.

    \b
    Example:
      reclm rollback --reason "clicks fell"
    """
    from reclm import stages

    settings = load(workspace, overrides, settings_file)
    decision = stages.rollback(settings, reason=reason)
    stages.build(settings, "evaluation")
    _print_decision(decision)


def _print_decision(decision: Artifact) -> None:
    row = decision.metrics
    model = f"{row['candidate_model']}/{row['candidate_variant']} {row['candidate_version']}"
    print(f"{row['decision']:<12}{model if row['candidate_version'] else 'no model'}, by {row['decided_by']}")
    print(f"{'because':<12}{row['reason']}")


@guarded
def show_champion(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Show the model in use and all decisions.

    Which model is champion, since when and why, and every decision before. With --format json one object: champion.json
    with `reason` and `decisions` (rows of fct_promotions, oldest first); `version` is null before there is a champion.

    \b
    Example:
      reclm champion --format json
    """
    from reclm.promotion.champion import current, find
    from reclm.promotion.decisions import decisions

    settings = load(workspace, overrides, settings_file)
    rows = [decision.metrics | {"version": decision.version} for decision in decisions(settings)]
    pointer = find(settings) if rows else current(settings)
    made = next((row for row in rows if pointer and row["version"] == pointer.get("decision")), None)
    if output == "json":
        about = (pointer or {"version": None}) | {"reason": made["reason"] if made else None, "decisions": rows}
        print(json.dumps(about))
        return
    if pointer is None:
        print("champion  none yet")
    else:
        print(f"champion  {pointer['model']}/{pointer['variant']} {pointer['measured']}")
        print(f"served    {pointer['version']}, fitted on everything before {pointer['as_of'][:19]} UTC")
        print(f"since     {pointer['promoted_at'][:19].replace('T', ' ')} UTC, by {pointer['selected_by']}")
        print(f"because   {made['reason'] if made else 'no decision is recorded'}")
    _print_history(rows)


def _print_history(rows: list[dict[str, Any]]) -> None:
    if rows:
        print(f"\n{'decided (UTC)':<21}{'decision':<13}{'by':<10}{'model':<22}{'version':<18}reason")
    for row in rows:
        model = f"{row['candidate_model']}/{row['candidate_variant']}" if row["candidate_version"] else "-"
        print(
            f"{row['decided_at'][:19].replace('T', ' '):<21}{row['decision']:<13}{row['decided_by']:<10}{model:<22}"
            f"{row['candidate_version'] or '-':<18}{row['reason']}"
        )
