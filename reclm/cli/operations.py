"""Commands of operation, from `status` to `migrate`. Registered by `reclm.cli.app`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from reclm.cli.common import FormatOption, SetOption, SettingsFileOption, WorkspaceOption, guarded, load


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(status)
    app.command()(health)
    app.command()(maintain)
    app.command()(forget)
    app.command()(backup)
    app.command()(restore)
    app.command()(audit)
    app.command()(migrate)
    app.command("settings")(list_settings)


@guarded
def health(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Check data, profiles, vectors and feature store.

    Prints every check with its value and bounds, and fails with code 9 on a breach of a check named in health.fail;
    other breaches warn. Every row is in fct_health. Bounds: settings health.*. Needs `reclm build`.

    \b
    Example:
      reclm health --format json
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
    """Remove old artifacts and leftovers.

    Also leftovers of killed runs and old records, and shrinks the online store. The champion, those before it, what the
    tables show and everything they were made from stay. Settings retention.* say how much else does.

    \b
    Example:
      reclm maintain --dry-run
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
    """Show what has run and what exists.

    The last stage runs with their results and times, the data set, the champion, and the number of artifacts.

    \b
    Example:
      reclm status --format json
    """
    from reclm.cli.status import lines, rows

    settings = load(workspace, overrides, settings_file)
    if output == "json":
        for row in rows(settings):
            print(json.dumps(row))
    else:
        print("\n".join(lines(settings)))


@guarded
def forget(
    user: Annotated[str | None, typer.Argument(help="The user id to remove.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Remove everybody erased before, from a restored copy.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Remove a user everywhere. Cannot be undone.

    Every row of the user goes from landing, artifacts, warehouse, feature store and messages, and later deliveries and
    events cannot bring the user back. Waits for stages that run. Networks trained with the user's data are replaced by
    the next training. Fails with code 10 as long as delivered files in the inbox hold the id; it names them.

    \b
    Example:
      reclm forget u42
    """
    from reclm import stages
    from reclm.errors import InputError

    if (user is None) != again:
        raise InputError("name the user to remove, or give --again and no user")
    settings = load(workspace, overrides, settings_file)
    who = f"user {user!r}" if user is not None else "everybody who was erased before"
    if not yes:
        typer.confirm(f"Remove every row of {who} from {settings.paths.root}?", abort=True)
    for place, count in stages.forget(settings, user).items():
        print(f"{place:<12}{count:>10} rows removed")


@guarded
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the steps.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Bring a workspace that an earlier release made up to date.

    Stop services and the schedule first. Nothing is trained again by it; the next build writes the tables anew. A
    migration that was killed goes on when the command is given again. One that is up to date stays as it is.

    \b
    Example:
      reclm migrate --dry-run
    """
    from reclm.storage import migrations

    paths = load(workspace, overrides, settings_file, any_layout=True).paths
    steps = migrations.pending(paths) if dry_run else migrations.migrate(paths)
    for step in steps:
        print(f"layout {step.to}: {step.what}")
    if not steps:
        print(f"{paths.root} is up to date")


@guarded
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, for example shop.tar.zst.")],
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Write the workspace into one file.

    Also while stages and services run: a state of one moment. Without the inbox, Airflow's records and the online
    store, which `reclm restore` fills again. Keep the folder of RECLM_ERASURES too, in another place.

    \b
    Example:
      reclm backup /backups/shop-2026-01-31.tar.zst
    """
    from reclm.maintenance.backup import back_up

    about = back_up(load(workspace, overrides, settings_file), file)
    print(f"{about['files']:,} files, {about['bytes']:,} bytes, {about['seconds_held']:.1f} s in which stages waited")


@guarded
def restore(
    file: Annotated[Path, typer.Argument(help="A file of `reclm backup`.")],
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Make a new workspace of a back-up.

    Every file is checked. Users who were erased since are removed again, and the online store is filled, before the
    workspace gets its name.

    \b
    Example:
      reclm restore /backups/shop-2026-01-31.tar.zst --workspace shop
    """
    from reclm import stages
    from reclm.maintenance.restore import restore as make

    about = make(load(workspace, overrides, settings_file), file, stages.build)
    print(f"{about['files']:,} files of {about['made_at'][:19]} UTC, {about['online']:,} rows written online")
    print(f"{sum(about['removed'].values()):,} rows of users removed who were erased since")


@guarded
def audit(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Show who changed what.

    Erasures, keys, promotions, rollbacks, challengers, hidden items and back-ups, oldest first. Fails when a record was
    changed or removed.

    \b
    Example:
      reclm audit --format json
    """
    from reclm.storage.audit import entries

    for entry in entries(load(workspace, overrides, settings_file).paths):
        if output == "json":
            print(json.dumps(entry))
            continue
        about = {key: value for key, value in entry.items() if key not in ("at", "by", "action", "before")}
        words = ", ".join(f"{key} {value}" for key, value in about.items())
        print(f"{entry['at'][:19].replace('T', ' ')}  {entry['by']:<24}{entry['action']:<14}{words}")


@guarded
def list_settings(
    output: FormatOption = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Print every setting, where its value comes from, and what it does.

    Order of precedence: default < llm.preset < remembered by the workspace < reclm.toml < environment
    (RECLM_TRAIN__EPOCHS=20) < --set train.epochs=20. A workspace remembers what its commands were given; a password or
    key never.

    \b
    Example:
      reclm settings --set train.epochs=20
    """
    from reclm.settings.loading import describe
    from reclm.settings.memory import value_of

    settings = load(workspace, overrides, settings_file, any_layout=True)
    for key, kind, default, description in describe():
        value = value_of(settings, key)
        source = settings.given[key].source if key in settings.given else "default"
        if output == "json":
            about = {"key": key, "type": kind, "default": default, "value": value, "from": source}
            print(json.dumps(about | {"description": description}, default=str))
        else:
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            print(f"{key} = {shown}" + ("" if source == "default" else f"   ({source})") + f"\n    {description}")
