"""Until when a model knows the log: a warehouse's cut-off comes in and stands in what is learned from it; profiles of an
earlier cut-off, or of items that the model saw and the warehouse withholds, are refused to that model.

Nothing of the kind can happen while models are made of the warehouse that they write for. It can when a build goes back (an
earlier `data.as_of`, a smaller `split.train_share`) or withholds other items, and an older model stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CUTOFF_KEY = "knows"
"""Where a teacher's metrics and a base model's parameters tell it."""
SPLIT = ("seed", "zero_shot_share", "pseudo_cold_share")


def training_cutoff(connection: DuckDBPyConnection) -> dict[str, Any]:
    """What a warehouse knows at snapshot `select`, of which alone models learn: until when, and which items it withholds."""
    rows = connection.execute(
        f"select snapshots.as_of, {', '.join(SPLIT)} from int_snapshots as snapshots cross join stg_parameters "
        "where snapshots.snapshot = 'select'"
    ).fetchall()
    return {"until": rows[0][0].isoformat(), **dict(zip(SPLIT, rows[0][1:], strict=True))}


def ancestor(workspace: Workspace, artifact: Artifact | None, kind: str) -> Artifact | None:
    """The artifact of that kind in an artifact's line, itself included; None when it has none."""
    waiting = [artifact] if artifact else []
    while waiting:
        one = waiting.pop()
        if one.kind == kind:
            return one
        lines = ((name, version) for name, version in one.manifest["parents"].items() if name in artifacts.KINDS)
        waiting += [found for name, version in lines if (found := artifacts.find(workspace, name, version))]
    return None


def beyond_cutoff(workspace: Workspace, model: Artifact, now: Mapping[str, Any]) -> str:
    """What the model learned that a warehouse of the cut-off `now` does not know, in a sentence; empty: nothing."""
    for kind in ("teacher", "base"):
        source = ancestor(workspace, model, kind)
        if source is None:
            continue
        knows = source.metrics.get(CUTOFF_KEY) or source.manifest["parameters"].get(CUTOFF_KEY)
        if not knows:
            continue
        if datetime.fromisoformat(knows["until"]) > datetime.fromisoformat(now["until"]):
            return (
                f"{model.kind} {model.version} learned from interactions until {knows['until']}, and what learns by this "
                f"build may know those before {now['until']}"
            )
        if any(knows[name] != now[name] for name in SPLIT):
            return (
                f"{model.kind} {model.version} learned of items that this build withholds (another seed, "
                "split.zero_shot_share or split.pseudo_cold_share)"
            )
    return ""
