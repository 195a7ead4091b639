"""Remove artifacts, records and leftovers that are no longer needed.

In: settings. Out: a summary. What is in use is kept (`reclm.maintenance.retention`). A run that was killed is completed
by the next one: children are removed before their parents, a model's online vectors before its artifact, and a folder
is first moved to `artifacts/.partial`, so that half a folder is never seen as an artifact. Tables lose the rows of
removed artifacts at the next build.
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


@dataclass(frozen=True)
class Plan:
    """Artifacts (newest first) and leftovers to remove. `orphans` are sentences on inconsistencies, left alone."""

    artifacts: list[Artifact]
    leftovers: list[Leftover]
    orphans: list[str]


def plan(settings: Settings) -> Plan:
    """Return what `maintain` would remove now; change nothing."""
    now = datetime.now(UTC)
    divided = retention.divide(settings, now)
    return Plan(divided.removed, leftovers.found(settings, now), leftovers.orphans(settings, divided.kept))


def maintain(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Remove what the settings `retention.*` do not keep; return counts by kind, `bytes` and the lists below.

    `removed` lists the artifacts, `orphans` the inconsistencies that were left alone, `made` says it in words.
    `postponed` names a running stage of another process: nothing is removed then. A `dry_run` reports the same, takes
    no lock and changes nothing. Waits for a running build. Raises WorkspaceError when the feature store cannot remove
    vectors.
    """
    from reclm.warehouse.sources import warehouse_lock

    if dry_run:
        chosen = plan(settings)
        _report(chosen, "would be removed")
        return _summary(chosen, dry_run=True)
    if busy := runs.at_work(settings.paths):
        say(f"{busy}: nothing is removed; run `reclm maintain` again after it")
        nothing = _summary(Plan([], [], []), dry_run=False)
        return {**nothing, "postponed": busy, "made": f"postponed, {busy}"}
    with ExitStack() as held:
        held.enter_context(warehouse_lock(settings.paths))  # a build reads every artifact there is
        chosen = plan(settings)
        summary = _summary(chosen, dry_run=False)  # sizes, while there is something to measure
        _report(chosen, "removing")
        summary["fused_rows"] = _remove_artifacts(settings, chosen)
        for leftover in chosen.leftovers:
            discard(settings.paths, leftover.path)
    return {**summary, "vacuumed_bytes": leftovers.vacuum(settings)}


def _remove_artifacts(settings: Settings, chosen: Plan) -> int:
    """Remove artifacts, newest first, so that no kept one names a removed parent; return the online rows removed."""
    from reclm.features import store
    from reclm.features.fused import drop_version

    published = set(store.model_versions(settings.paths))
    rows = 0
    for gone in track(chosen.artifacts, "removing"):
        if gone.kind == "served" and gone.version in published:
            rows += drop_version(settings, gone.version)
        discard(settings.paths, gone.path)
    return rows


def _report(chosen: Plan, verb: str) -> None:
    for artifact in chosen.artifacts:
        say(f"{verb}: {artifact.kind} {artifact.version} of {artifact.manifest['created_at'][:19]}")
    for leftover in chosen.leftovers:
        say(f"{verb}: {leftover.what.replace('_', ' ')}: {leftover.path.name}")
    for orphan in chosen.orphans:
        say(f"inconsistent, left alone: {orphan}")


def _summary(chosen: Plan, *, dry_run: bool) -> dict[str, Any]:
    paths = [one.path for one in chosen.artifacts] + [one.path for one in chosen.leftovers]
    sizes = {path: size_of(path) for path in paths}
    removed = [{"kind": one.kind, "version": one.version, "bytes": sizes[one.path]} for one in chosen.artifacts]
    counts = Counter(leftover.what for leftover in chosen.leftovers)
    return {
        "dry_run": dry_run,
        "postponed": "",
        "made": f"{len(removed):,} artifacts removed",
        "artifacts": len(removed),
        **{what: counts[what] for what in leftovers.KINDS},
        "fused_rows": 0,
        "bytes": sum(sizes.values()),
        "vacuumed_bytes": 0,
        "removed": removed,
        "orphans": chosen.orphans,
    }
