"""Check that a model learned nothing that a build does not know.

In: the training cutoff of a warehouse and those recorded in models. Out: the models that may write profiles for it.

A model learns from snapshot `select` of one build. A later build may know less: an earlier `data.as_of`, a smaller
`split.train_share`, or other withheld items. A model that learned more than such a build knows must not write its
profiles, because they would leak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError
from reclm.storage.artifacts import Artifact, ancestor
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

CUTOFF_KEY = "training_cutoff"
"""The key of the cutoff in a teacher's metrics and in a base model's parameters."""
SPLIT = ("seed", "zero_shot_share", "pseudo_cold_share")


def training_cutoff(connection: DuckDBPyConnection) -> dict[str, Any]:
    """Return until when a warehouse knows the log at `select`, and the settings that chose the withheld items."""
    rows = connection.execute(
        f"select snapshots.as_of, {', '.join(SPLIT)} from int_snapshots as snapshots cross join stg_parameters "
        "where snapshots.snapshot = 'select'"
    ).fetchall()
    return {"until": rows[0][0].isoformat(), **dict(zip(SPLIT, rows[0][1:], strict=True))}


def recorded_cutoff(artifact: Artifact) -> Mapping[str, Any]:
    """Return the training cutoff recorded in an artifact's manifest; empty when it records none."""
    for recorded in (artifact.metrics, artifact.manifest["parameters"]):
        if recorded.get(CUTOFF_KEY):
            return dict(recorded[CUTOFF_KEY])
    return {}


def beyond_cutoff(workspace: Workspace, model: Artifact, build: Mapping[str, Any]) -> str:
    """Return what the model learned that a build with cutoff `build` does not know, as a sentence; '' for nothing."""
    for kind in ("teacher", "base"):
        source = ancestor(workspace, model, kind)
        learned = recorded_cutoff(source) if source is not None else {}
        if not learned:
            continue
        if datetime.fromisoformat(learned["until"]) > datetime.fromisoformat(build["until"]):
            return (
                f"{model.kind} {model.version} learned from interactions until {learned['until']}, and what learns by "
                f"this build may know those before {build['until']}"
            )
        if any(learned[name] != build[name] for name in SPLIT):
            return (
                f"{model.kind} {model.version} learned of items that this build withholds (another seed, "
                "split.zero_shot_share or split.pseudo_cold_share)"
            )
    return ""


def within_cutoff(settings: Settings, models: Sequence[Artifact], warehouse: str) -> list[Artifact]:
    """Return the models that learned nothing beyond the build `warehouse`, a fingerprint.

    Raises WorkspaceError if none.
    """
    from reclm.warehouse.reading import connect

    is_own = [model.manifest["parents"].get("warehouse") == warehouse for model in models]
    if all(is_own):
        return list(models)
    with closing(connect(settings)) as connection:
        build = training_cutoff(connection)
    reasons = [
        "" if own else beyond_cutoff(settings.paths, model, build) for model, own in zip(models, is_own, strict=True)
    ]
    if all(reasons):
        raise WorkspaceError(f"{reasons[-1]}; run `reclm tune`, `reclm reward` and `reclm refine` again")
    return [model for model, reason in zip(models, reasons, strict=True) if not reason]
