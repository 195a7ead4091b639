"""Commands of the data: landing files, building the warehouse, writing features. Registered by `reclm.cli.app`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reclm.cli.common import SetOption, SettingsFileOption, WorkspaceOption, guarded, making

MOST_LISTED = 10
"""Batches of a table that `ingest` lists one by one."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ingest)
    app.command()(build)
    app.command()(publish)


@guarded
def ingest(
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder (or file) with the log and, if any, the item table.")
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="Land what services have logged instead.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Copy logs and item texts into the workspace, unedited.

    Recognised: MovieLens (100K, 1M, latest, 25M), MIND, a folder split into train, valid and test, or any CSV, parquet
    or JSON whose columns settings data.*_column name: in any encoding, packed or not, one file or a folder of parts.
    The same file twice changes nothing. With --events, the events and impressions that running or stopped services
    have logged are landed; the schedule does so by itself.

    \b
    Examples:
      reclm ingest --data my-logs --set data.user_column=customer
      reclm ingest --events
    """
    from reclm import stages
    from reclm.errors import InputError

    if (data is None) != events:
        raise InputError("give either --data FOLDER or --events")
    with making(workspace, overrides, settings_file) as settings:
        dataset = stages.ingest_events(settings) if events else stages.ingest(settings, data)
    for line in _landed(dataset["batches"]):
        print(line)


def _landed(batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each batch, or one for all batches of a table that has many: the parts of one log."""
    for table in dict.fromkeys(batch["table"] for batch in batches):
        of_table = [batch for batch in batches if batch["table"] == table]
        listed = [(batch["rows"], batch["source_file"]) for batch in of_table]
        if len(listed) > MOST_LISTED:
            first, last = listed[0][1], listed[-1][1]
            listed = [(sum(rows for rows, _ in listed), f"{len(listed)} files, from {first} to {last}")]
        yield from (f"{table:<13}{rows:>10} rows  {name}" for rows, name in listed)


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
    """Build and test the warehouse tables with dbt.

    Every table can be rebuilt. After a good build the read-only copy for analysts is replaced in one step; after a bad
    one it stays as it was, and the message names the model or test. Needs `reclm ingest`.

    \b
    Examples:
      reclm build --phase features
      reclm build --force --docs
    """
    from reclm import stages
    from reclm.warehouse.build import docs as build_docs

    with making(workspace, overrides, settings_file) as settings:
        result = stages.build(settings, phase, force=force)
    print(f"build {result['build_id']}: {settings.paths.warehouse}")
    if docs:
        print(f"docs: {build_docs(settings)}")


@guarded
def publish(
    workspace: WorkspaceOption = None,
    rewind: Annotated[
        bool, typer.Option("--rewind", help="Let an older build (an earlier cut-off) replace what is published.")
    ] = False,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Check the features and write them to Feast.

    Training reads them offline, serving online. Nothing is written unless all checks pass; the message names the row,
    the column and the remedy. Needs `reclm profile`.

    \b
    Example:
      reclm publish
    """
    from reclm import stages

    with making(workspace, overrides, settings_file) as settings:
        result = stages.publish(settings, rewind=rewind)
    for view, counts in result["views"].items():
        print(f"{view:<15}{counts['rows']:>10} rows, {counts['written']} written online")
    print(f"features {result['version']}{' (reused)' if result['reused'] else ''}")
