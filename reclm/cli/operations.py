"""Commands that look after what runs: status, health, maintenance, forgetting. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(status)
    app.command()(health)
    app.command()(maintain)
    app.command()(forget)


@guarded
def health(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Check data, drift, profiles, vectors and the feature store; fails with code 9 on a breach named in health.fail.

    Every row is in SQL as fct_health. Bounds and what fails: settings health.*; other breaches warn.
    """
    from reclm import stages
    from reclm.health import checks

    settings = load(workspace, overrides, settings_file)
    checked = stages.check_health(settings)
    stages.build(settings, "evaluation")
    for row in checks.check_rows(checked):
        print(
            json.dumps(row | {"value": _finite(row["value"])}, default=str) if output == "json" else _health_line(row)
        )
    checks.require_healthy(checked, settings)


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity: a length that is not a number shows as null, and the status tells."""
    return value if value is None or math.isfinite(value) else None


def _health_line(row: dict[str, Any]) -> str:
    value = "" if row["value"] is None else f"{row['value']:.4g}"
    lower, upper = ("" if row[bound] is None else f"{row[bound]:g}" for bound in ("lower_bound", "upper_bound"))
    bounds = f"{lower} to {upper}" if lower and upper else f"at least {lower}" if lower else f"at most {upper}"
    return f"{row['status']:<8}{row['name']:<24}{row['subject']:<16}{value:>10}  {bounds:<18}{row['advice']}".rstrip()


@guarded
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Remove old artifacts that nothing stands on, leftovers of killed runs, old records; shrink the online store.

    The champion, those before it, what the tables show and all they were made from stay. Settings retention.* say how
    much else does.
    """
    from reclm import stages

    result = stages.maintain(load(workspace, overrides, settings_file), dry_run=dry_run)
    if output == "json":
        print(json.dumps(result))
        return
    for row in result["removed"]:
        print(f"{row['kind']:<12}{row['version']}{row['bytes']:>14,} bytes")
    counts = {key: value for key, value in result.items() if isinstance(value, int) and not isinstance(value, bool)}
    print(", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in counts.items()))


@guarded
def status(
    workspace: WorkspaceOption = None,
    output: FormatOption = "table",
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """What has run, on what, when, and how it went; the champion; the artifacts."""
    from reclm.cli.status import lines, rows

    settings = load(workspace, overrides, settings_file)
    if output == "json":
        for row in rows(settings):
            print(json.dumps(row))
    else:
        print("\n".join(lines(settings)))


@guarded
def forget(
    user: Annotated[str, typer.Argument(help="The user id to remove.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Remove a person everywhere: landing, artifacts, warehouse, feature store. Cannot be undone."""
    from reclm import stages

    settings = load(workspace, overrides, settings_file)
    if not yes:
        typer.confirm(f"Remove every row of user {user!r} from {settings.paths.root}?", abort=True)
    for place, count in stages.forget(settings, user).items():
        print(f"{place:<12}{count:>10} rows removed")
