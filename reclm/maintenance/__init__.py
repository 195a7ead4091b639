"""Keeping the workspace small: artifacts, records and leftovers come in, what nobody needs any more goes out.

What is in use stays (`reclm.maintenance.retention`). A kill at any moment is made up for by the next run: children go
before their parents, a model's online vectors before its artifact, and a folder is first renamed into
`artifacts/.partial`, so that half a folder is never seen as an artifact. Tables in SQL lose the rows of what was removed
at the next build.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.maintenance import leftovers, retention
from reclm.maintenance.leftovers import Leftover, discard, size_of
from reclm.progress import say, track
from reclm.storage import runs
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

__all__ = ["Plan", "maintain", "plan"]


@dataclass(frozen=True)
class Plan:
    """What goes: artifacts (newest first) and leftovers. `orphans` are sentences on what is out of place and stays."""

    artifacts: list[Artifact]
    leftovers: list[Leftover]
    orphans: list[str]


def plan(settings: Settings) -> Plan:
    """What would go now; nothing is changed."""
    now = datetime.now(UTC)
    divided = retention.divide(settings, now)
    return Plan(divided.going, leftovers.found(settings, now), leftovers.orphans(settings, divided.kept))


def maintain(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Removes what the settings `retention.*` let go. Returns counts by kind of thing, `bytes`, and what is told below.

    `removed` lists the artifacts, `orphans` what is out of place and was left alone. `postponed` names a stage of another
    process that was at work: then nothing was touched. A `dry_run` tells the same, takes no lock and writes nothing.
    Waits for a build that is under way. Raises WorkspaceError when the feature store cannot be asked to drop vectors.
    """
    from reclm.warehouse.sources import warehouse_lock

    if dry_run:
        chosen = plan(settings)
        _tell(chosen, "would go")
        return _summary(chosen, dry_run=True)
    if busy := runs.at_work(settings.paths):
        say(f"{busy}: nothing is removed; run `reclm maintain` again when it has ended")
        return {**_summary(Plan([], [], []), dry_run=False), "postponed": busy}
    with ExitStack() as held:
        held.enter_context(warehouse_lock(settings.paths))  # a build reads every artifact there is
        chosen = plan(settings)
        summary = _summary(chosen, dry_run=False)  # sizes, while there is something to measure
        _tell(chosen, "goes")
        summary["fused_rows"] = _remove_artifacts(settings, chosen)
        for leftover in chosen.leftovers:
            discard(settings.paths, leftover.path)
    return {**summary, "vacuumed_bytes": leftovers.vacuum(settings)}


def _remove_artifacts(settings: Settings, chosen: Plan) -> int:
    """Newest first, so that nothing that stands names a parent that went. Returns how many online rows went with them."""
    from reclm.features import store
    from reclm.features.fused import drop_version

    published = set(store.model_versions(settings.paths))
    rows = 0
    for gone in track(chosen.artifacts, "removing"):
        if gone.kind == "backbone" and gone.version in published:
            rows += drop_version(settings, gone.version)
        discard(settings.paths, gone.path)
    return rows


def _tell(chosen: Plan, verb: str) -> None:
    for artifact in chosen.artifacts:
        say(f"{verb}: {artifact.kind} {artifact.version} of {artifact.manifest['created_at'][:19]}")
    for leftover in chosen.leftovers:
        say(f"{verb}: {leftover.what.replace('_', ' ')}: {leftover.path.name}")
    for orphan in chosen.orphans:
        say(f"out of place, left alone: {orphan}")


def _summary(chosen: Plan, *, dry_run: bool) -> dict[str, Any]:
    paths = [one.path for one in chosen.artifacts] + [one.path for one in chosen.leftovers]
    sizes = {path: size_of(path) for path in paths}
    removed = [{"kind": one.kind, "version": one.version, "bytes": sizes[one.path]} for one in chosen.artifacts]
    counts = Counter(leftover.what for leftover in chosen.leftovers)
    return {
        "dry_run": dry_run,
        "postponed": "",
        "artifacts": len(removed),
        **{what: counts[what] for what in leftovers.KINDS},
        "fused_rows": 0,
        "bytes": sum(sizes.values()),
        "vacuumed_bytes": 0,
        "removed": removed,
        "orphans": chosen.orphans,
    }
