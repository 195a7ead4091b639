"""Find leftovers of killed runs and old builds, and inconsistencies.

In: a workspace. Out: paths and sentences.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.maintenance.retention import parents_of
from reclm.progress import say
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KINDS = ("drafts", "external_builds", "temporary_files", "run_records")
AGE = timedelta(days=1)
"""A draft, build or temporary file that was not changed for so long belongs to no running process."""
WORTH = 0.25
"""Least empty share of the online store's file for a vacuum, which writes the whole file again."""
WORTH_BYTES = 1_000_000


@dataclass(frozen=True)
class Leftover:
    """A file or folder to remove; `what` is one of KINDS."""

    what: str
    path: Path


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def discard(workspace: Workspace, path: Path) -> None:
    """Remove a file or folder; an artifact is first moved out of its place in one step."""
    if path.is_relative_to(workspace.artifacts) and path.parent.name in artifacts.KINDS:
        path = artifacts.set_aside(workspace, path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def found(settings: Settings, now: datetime) -> list[Leftover]:
    """Find drafts, builds and temporary files older than a day, half-removed artifacts, and surplus records."""
    workspace, before = settings.paths, (now - AGE).timestamp()
    records = sorted(workspace.runs.glob("*.json"))[: -settings.retention.runs]
    places = zip(
        KINDS,
        (_drafts(workspace, before), _builds(workspace, before), _temporary(workspace, before), records),
        strict=True,
    )
    return [Leftover(what, path) for what, paths in places for path in sorted(paths)]


def _drafts(workspace: Workspace, before: float) -> Iterator[Path]:
    for path in (workspace.artifacts / ".partial").glob("*"):
        if path.name.startswith(artifacts.REMOVED) or _last_change(path) < before:
            yield path


def _last_change(path: Path) -> float:
    """Return when anything in a folder last changed."""
    return max(one.lstat().st_mtime for one in (path, *path.rglob("*")))


def _builds(workspace: Workspace, before: float) -> Iterator[Path]:
    """Find the marts of builds that are neither current nor running."""
    marts = read_json(workspace.current_build).get("marts", {}) if workspace.current_build.exists() else {}
    current = {Path(file).parent.name for file in marts.values()}
    for path in workspace.external.glob("*"):
        if path.name not in current | {"manual"} and _last_change(path) < before:
            yield path


def _temporary(workspace: Workspace, before: float) -> Iterator[Path]:
    for path in workspace.root.rglob(".*.tmp"):
        if path.is_file() and path.stat().st_mtime < before:
            yield path


def orphans(settings: Settings, kept: Iterable[Artifact]) -> list[str]:
    """Describe inconsistencies, one sentence each: missing parents, vectors without a model, a missing champion."""
    from reclm.features import store
    from reclm.features.fused import online_versions

    workspace = settings.paths
    there = {(kind, a.version) for kind in artifacts.KINDS for a in artifacts.all_of(workspace, kind)}
    lost = [
        f"{kind} {version}, a parent of {artifact.kind} {artifact.version}, is missing"
        for artifact in kept
        for kind, version in parents_of(artifact)
        if (kind, version) not in there
    ]
    models = {version for kind, version in there if kind == "served"}
    offline = set(store.model_versions(workspace))
    lost += [f"vectors of model {one} are published, and it is missing" for one in sorted(offline - models)]
    online = online_versions(settings) - models - offline
    lost += [f"vectors of model {one} are online and in no file" for one in sorted(online)]
    for pointer in (workspace.champion, workspace.challenger):
        version = read_json(pointer)["version"] if pointer.exists() else None
        if version is not None and version not in models:
            lost.append(f"served model {version}, the {pointer.stem}, is missing")
    return sorted(set(lost))


def vacuum(settings: Settings) -> int:
    """Shrink the file of the SQLite online store when much of it is empty; return the bytes saved."""
    from reclm.features.store import writing

    file = settings.paths.feast / "online.db"
    if settings.feast.online_store != "sqlite" or not file.exists():
        return 0
    with writing(settings.paths), closing(sqlite3.connect(file, timeout=60)) as connection:
        before = file.stat().st_size
        ((free,), (page,)) = (
            connection.execute(f"pragma {name}").fetchone() for name in ("freelist_count", "page_size")
        )
        if free * page < max(WORTH_BYTES, WORTH * before):
            return 0
        try:
            connection.execute("vacuum")
            connection.execute("pragma wal_checkpoint(truncate)")
        except sqlite3.OperationalError as error:  # a reader has it open; the next run tries again
            say(f"the online store was not made smaller: {error}")
        return before - file.stat().st_size
