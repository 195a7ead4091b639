"""Build the warehouse.

In: settings and landed batches. Out: DuckDB tables that dbt writes, and a read-only copy. dbt is the only writer, in a
process of its own, one build at a time. It works on `build.duckdb`. When all its tests have passed, the file is copied,
the copy replaces `warehouse.duckdb` in one step, and `current.json`, which describes the build, is written last.
`building.json` exists from before the first write until after the last, so a build that was killed is recognised and
starts again from an empty file.

Models belong to three phases. Each phase has a fingerprint of everything it is made from. `build` runs the phases whose
fingerprint differs from the recorded one, and all of them when `features` is among these, except where
`reclm.warehouse.changes` finds that less is enough. External marts that a build does not write stay those of the build
that did.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import BuildError, InputError, WorkspaceError
from reclm.progress import detail
from reclm.storage.artifacts import content_hash
from reclm.storage.files import read_json, replacing, write_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.changes import PHASES, Scope, scope_of
from reclm.warehouse.counts import say_counts, why_unusable
from reclm.warehouse.dbt import run_dbt, target_path
from reclm.warehouse.held import held_by, is_held
from reclm.warehouse.reading import settings_of_build
from reclm.warehouse.sources import (
    content_fingerprint,
    fingerprints,
    inputs_of_build,
    prepare_sources,
    warehouse_lock,
    write_delivered_items,
    write_parameters,
)

if TYPE_CHECKING:
    import duckdb

    from reclm.settings.tree import Settings

INPUT_COLUMNS = {
    "stg_interactions": "user_id, item_id, event_ts, weight, split, in_sparse_train",
    "(from stg_feedback where weight < 0)": "user_id, item_id, event_ts",
    "int_items": "* exclude (first_seen_at)",
    "stg_users": "user_id, text",
}
"""{table or query in brackets: columns} whose rows determine the tables of the features phase."""


def build(settings: Settings, phase: str = "all", force: bool = False) -> dict[str, Any]:
    """Build the phases up to `phase` that are out of date and publish the copy.

    Returns the content of `current.json`, and `reused`: True when nothing had to be built. Waits while another build
    runs. With `force` the phase is built even when nothing has changed. Raises BuildError with the models and tests
    that failed, InputError when the interactions cannot be used, and WorkspaceError when nothing has been ingested; the
    published copy then stays as it was.
    """
    if phase != "all" and phase not in PHASES:
        raise BuildError(f"no build phase is called {phase!r}; the phases are all, {', '.join(PHASES)}")
    settings.paths.require_dataset()
    with warehouse_lock(settings.paths):
        return _build(settings, phase, force)


def _build(settings: Settings, phase: str, force: bool) -> dict[str, Any]:
    workspace = settings.paths
    if phase in ("profiles", "evaluation"):
        settings = settings_of_build(settings)  # only a build of the features phase changes the as-of
    dataset = workspace.require_dataset()
    write_parameters(settings, dataset)
    prepare_sources(workspace, dataset)
    previous, inputs = _finished_build(workspace), inputs_of_build(settings, dataset)
    now = fingerprints(inputs)
    recorded = previous["phases"] if previous else {}
    requested = PHASES if phase == "all" else PHASES[: PHASES.index(phase) + 1]
    stale = [name for name in requested if recorded.get(name) != now[name] or (force and phase in (name, "all"))]
    if previous and not stale:
        detail(f"reusing warehouse {previous['build_id']}: nothing it is made from has changed")
        return {**previous, "reused": True}
    scope = scope_of(settings, previous.get("inputs", {}) if previous else {}, inputs, stale, force=force)
    recorded = {**recorded, **{name: now[name] for name in scope.phases}}
    started = datetime.now(UTC)
    build_id = f"{started:%Y%m%dT%H%M%S}-{content_hash([recorded, started], 6)}"
    detail(f"dbt builds and tests {', '.join(scope.tags or PHASES)}")
    write_json(_marker(workspace), {"build_id": build_id, "phases": scope.phases})
    write_delivered_items(workspace, scope.items)
    _run_dbt(settings, workspace.external / build_id, scope)
    if previous and "features" not in scope.phases:
        features = previous["features_fingerprint"]
    else:
        _say_counts(settings)
        features = content_fingerprint(settings, dataset, _input_digests(workspace))
    _publish_copy(workspace)
    unchanged = {name: previous["inputs"][name] for name in PHASES[1:] if previous and name not in scope.phases}
    marts = _marts(workspace, build_id, previous["marts"] if previous and scope.tags else {})
    current = {
        "build_id": build_id,
        "fingerprint": content_hash(recorded),
        "features_fingerprint": features,
        "whole_fingerprint": previous["whole_fingerprint"] if previous and scope.tags else features,
        "phases": recorded,
        "inputs": inputs | unchanged,
        "marts": marts,
        "as_of": settings.data.as_of,
        "built_at": started.isoformat(timespec="seconds"),
    }
    write_json(workspace.current_build, current)
    _marker(workspace).unlink()
    _remove_old_external(workspace, [marts, previous["marts"] if previous else {}])
    detail(f"warehouse {build_id}: {(datetime.now(UTC) - started).total_seconds():.1f} s")
    return {**current, "reused": False}


def _run_dbt(settings: Settings, external: Path, scope: Scope) -> None:
    """Run dbt on the models of `scope`, all of them from an empty file. Removes `external` when dbt fails."""
    select: list[str] = []
    if not scope.tags:
        _remove_database(settings.paths)
    else:
        select = ["--select", *(f"tag:{name}" for name in scope.tags)]
    if set(scope.tags) - set(PHASES):  # a test of tables that are not touched says nothing new
        select += ["--indirect-selection", "buildable"]
    external.mkdir(parents=True)
    try:
        arguments = ["build", "--exclude-resource-type", "unit_test", *select]
        run_dbt(settings, external, arguments, delivery=scope.is_delivery)
    except BaseException as error:
        shutil.rmtree(external, ignore_errors=True)
        if isinstance(error, BuildError) and (reason := _why_unusable(settings)):
            raise InputError(reason) from None
        raise


def _say_counts(settings: Settings) -> None:
    with _opened(settings.paths) as connection:
        say_counts(settings, connection)


def _why_unusable(settings: Settings) -> str:
    """Return why a build that failed could not use the interactions; empty where it could, or staging failed itself."""
    if not settings.paths.build_database.exists():
        return ""
    with _opened(settings.paths) as connection:
        built = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
        staged = {"base_interactions", "base_items", "base_users", "stg_parameters", "quarantine_reasons"} <= built
        return why_unusable(settings, connection) if staged else ""


@contextmanager
def _opened(workspace: Workspace, *, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database that dbt writes, with times in UTC. Raises BuildError when another program holds it."""
    import duckdb

    try:
        connection = duckdb.connect(str(workspace.build_database), read_only=read_only)
    except duckdb.IOException as error:
        if not is_held(error):
            raise
        raise BuildError(held_by(workspace.build_database, error)) from None
    with connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def _marker(workspace: Workspace) -> Path:
    return workspace.build_database.with_name("building.json")


def _finished_build(workspace: Workspace) -> dict[str, Any] | None:
    """Return `current.json`, or None when a part of that build is missing, unreadable or half rewritten."""
    import duckdb

    if _marker(workspace).exists() or not workspace.current_build.exists() or not workspace.warehouse.exists():
        return None
    current: dict[str, Any] = read_json(workspace.current_build)
    if "marts" not in current or not all((workspace.root / file).exists() for file in current["marts"].values()):
        return None
    try:
        with _opened(workspace) as connection:
            connection.execute("select count(*) from int_snapshots").fetchall()
    except duckdb.Error:
        return None
    return current


def _input_digests(workspace: Workspace) -> list[Any]:
    """Return row count and hash of the tables of INPUT_COLUMNS, whatever batch and line their rows came from."""
    with _opened(workspace) as connection:
        return [
            connection.execute(
                f"select count(*), bit_xor(hash(row)) from (select {columns} from {table}) as row"
            ).fetchall()
            for table, columns in INPUT_COLUMNS.items()
        ]


def _remove_database(workspace: Workspace) -> None:
    path = workspace.build_database
    for leftover in (path, path.with_name(f"{path.name}.wal")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}.tmp"), ignore_errors=True)


def _publish_copy(workspace: Workspace) -> None:
    """Copy the built file and replace the published one with the copy; open connections keep the old file."""
    with _opened(workspace, read_only=False) as connection:
        connection.execute("checkpoint")
    for leftover in workspace.warehouse.parent.glob(f".{workspace.warehouse.name}.*.tmp"):
        leftover.unlink()  # a killed build's copy; the lock keeps other builds away
    with replacing(workspace.warehouse) as temporary:
        shutil.copyfile(workspace.build_database, temporary)
    # what a program that had the old file open for writing left there does not belong to the new one
    workspace.warehouse.with_name(f"{workspace.warehouse.name}.wal").unlink(missing_ok=True)


def _marts(workspace: Workspace, build_id: str, earlier: dict[str, str]) -> dict[str, str]:
    """Return {external mart: its file, from the workspace}: what this build wrote, else what earlier ones did."""
    written = sorted((workspace.external / build_id).glob("*.parquet"))
    return {**earlier, **{file.stem: file.relative_to(workspace.root).as_posix() for file in written}}


def _remove_old_external(workspace: Workspace, used: list[dict[str, str]]) -> None:
    """Remove the folders without a mart of this build and of the one before, which readers may still have open."""
    kept = {Path(file).parent.name for marts in used for file in marts.values()} | {"manual"}
    for folder in workspace.external.iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def docs(settings: Settings) -> Path:
    """Run `dbt docs generate` for the current build and return the page, one file that needs no server.

    Raises WorkspaceError when there is no build, BuildError when dbt fails.
    """
    workspace = settings.paths
    with warehouse_lock(workspace):
        if _finished_build(workspace) is None:
            raise WorkspaceError(f"{workspace.root} has no finished build to describe; run `reclm build` first")
        run_dbt(settings, workspace.external / "manual", ["docs", "generate", "--static"])
    return target_path(workspace) / "static_index.html"
