"""The warehouse: settings and landed batches come in, dbt writes DuckDB tables, a read-only copy for everyone goes out.

dbt is the only writer, in a process of its own, one build at a time. It works on `build.duckdb`; when all its tests
have passed the file is copied and the copy takes the place of `warehouse.duckdb` in one step, and `current.json`, which
names the build, is written last. `building.json` stands from before the first write to after the last, so a build
that was killed is known as such and begins again from an empty file.

Models fall into three phases. Each has a fingerprint over all that determines it; `build` runs the phases whose
fingerprint is not the recorded one, and everything when `features` is among them.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import BuildError, WorkspaceError
from reclm.progress import say
from reclm.storage.artifacts import content_hash
from reclm.storage.files import read_json, replacing, write_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.dbt import run_dbt, target_path
from reclm.warehouse.reading import as_built
from reclm.warehouse.sources import (
    fingerprints,
    meaning,
    only_writer,
    prepare_sources,
    write_parameters,
)

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

PHASES = ("features", "profiles", "evaluation")
KNOWN_ROWS = {
    "stg_interactions": "user_id, item_id, event_ts, weight, split, in_sparse_train",
    "int_items": "* exclude (first_seen_at)",
    "stg_users": "user_id, text",
}
"""What the tables of the features phase are made from: table, and the columns that count."""


def build(settings: Settings, phase: str = "all", force: bool = False) -> dict[str, Any]:
    """Brings the phases up to `phase` up to date and publishes the copy; returns what `current.json` says, and `reused`.

    Waits while another build runs. With `force` the phase is built even when nothing changed. Raises BuildError, naming
    the models and tests that failed, and WorkspaceError when nothing has been ingested; the published copy is then untouched.
    """
    if phase != "all" and phase not in PHASES:
        raise BuildError(f"no build phase is called {phase!r}; the phases are all, {', '.join(PHASES)}")
    settings.paths.require_dataset()
    with only_writer(settings.paths):
        return _build(settings, phase, force)


def _build(settings: Settings, phase: str, force: bool) -> dict[str, Any]:
    workspace = settings.paths
    if phase in ("profiles", "evaluation"):
        settings = as_built(settings)  # only a build of features moves the moment of knowledge
    write_parameters(settings)
    prepare_sources(workspace)
    before, now = _standing(workspace), fingerprints(settings)
    recorded = before["phases"] if before else {}
    wanted = PHASES if phase == "all" else PHASES[: PHASES.index(phase) + 1]
    stale = [name for name in wanted if recorded.get(name) != now[name] or (force and phase in (name, "all"))]
    if before and not stale:
        say(f"  warehouse {before['build_id']} stands: nothing it is made from has changed, reused")
        return {**before, "reused": True}
    phases = PHASES if "features" in stale else tuple(stale)
    recorded = {**recorded, **{name: now[name] for name in phases}}
    started = datetime.now(UTC)
    build_id = f"{started:%Y%m%dT%H%M%S}-{content_hash([recorded, started], 6)}"
    say(f"  dbt builds and tests {', '.join(phases)}")
    write_json(_marker(workspace), {"build_id": build_id, "phases": phases})
    _run_phases(settings, workspace.external / build_id, phases, fresh_parse=before is None)
    if before and "features" not in phases:
        knowledge = before["features_fingerprint"]
    else:
        knowledge = meaning(settings, _known_rows(workspace))
    _publish_copy(workspace)
    current = {
        "build_id": build_id,
        "fingerprint": content_hash(recorded),
        "features_fingerprint": knowledge,
        "phases": recorded,
        "external_root": (workspace.external / build_id).relative_to(workspace.root).as_posix(),
        "as_of": settings.data.as_of,
        "built_at": started.isoformat(timespec="seconds"),
    }
    write_json(workspace.current_build, current)
    _marker(workspace).unlink()
    _remove_old_external(workspace, keep={build_id, before["build_id"] if before else ""})
    say(f"  warehouse {build_id}: {(datetime.now(UTC) - started).total_seconds():.1f} s")
    return {**current, "reused": False}


def _run_phases(settings: Settings, external: Path, phases: tuple[str, ...], *, fresh_parse: bool) -> None:
    """Lets dbt write the tables of `phases`, all of them into an empty file; clears `external` away when it fails."""
    select: list[str] = []
    if phases == PHASES:
        _remove_database(settings.paths)
    else:
        select = ["--select", *(f"tag:{name}" for name in phases)]
    parsing = ["--no-partial-parse"] if fresh_parse else []
    external.mkdir(parents=True)
    try:
        run_dbt(settings, external, ["build", "--exclude-resource-type", "unit_test", *parsing, *select])
    except BaseException:
        shutil.rmtree(external, ignore_errors=True)
        raise


def _marker(workspace: Workspace) -> Path:
    return workspace.build_database.with_name("building.json")


def _standing(workspace: Workspace) -> dict[str, Any] | None:
    """What `current.json` says, or None when any part of that build is missing, cannot be read or was being rewritten."""
    import duckdb

    if _marker(workspace).exists() or not workspace.current_build.exists() or not workspace.warehouse.exists():
        return None
    current: dict[str, Any] = read_json(workspace.current_build)
    if not (workspace.root / current["external_root"]).is_dir():
        return None
    try:
        with duckdb.connect(str(workspace.build_database), read_only=True) as connection:
            connection.execute("select count(*) from int_snapshots").fetchall()
    except duckdb.IOException as error:
        if "Could not set lock" in str(error):
            raise BuildError(
                f"another program holds {workspace.build_database} open; close it and build again ({error})"
            ) from None
        return None
    except duckdb.Error:
        return None
    return current


def _known_rows(workspace: Workspace) -> list[Any]:
    """A digest of all rows that the features phase starts from, whatever batch and line they came in."""
    import duckdb

    with duckdb.connect(str(workspace.build_database), read_only=True) as connection:
        return [
            connection.execute(
                f"select count(*), bit_xor(hash(row)) from (select {columns} from {table}) as row"
            ).fetchall()
            for table, columns in KNOWN_ROWS.items()
        ]


def _remove_database(workspace: Workspace) -> None:
    path = workspace.build_database
    for leftover in (path, path.with_name(f"{path.name}.wal")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}.tmp"), ignore_errors=True)


def _publish_copy(workspace: Workspace) -> None:
    """Copies the built file and puts the copy in the place of the published one; readers keep what they have open."""
    import duckdb

    with duckdb.connect(str(workspace.build_database)) as connection:
        connection.execute("checkpoint")
    with replacing(workspace.warehouse) as temporary:
        shutil.copyfile(workspace.build_database, temporary)


def _remove_old_external(workspace: Workspace, keep: set[str]) -> None:
    for folder in workspace.external.iterdir():
        if folder.name not in keep | {"manual"}:
            shutil.rmtree(folder, ignore_errors=True)


def docs(settings: Settings) -> Path:
    """Runs `dbt docs generate` for the standing build; returns the page, one file that needs no server.

    Raises WorkspaceError when there is no build, BuildError when dbt fails.
    """
    workspace = settings.paths
    with only_writer(workspace):
        current = _standing(workspace)
        if current is None:
            raise WorkspaceError(f"{workspace.root} has no finished build to describe; run `reclm build` first")
        run_dbt(settings, workspace.root / current["external_root"], ["docs", "generate", "--static"])
    return target_path(workspace) / "static_index.html"
