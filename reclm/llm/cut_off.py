"""Until when a model knows the log: a warehouse's cut-off comes in and stands in what is learned from it; profiles of an
earlier cut-off, or of items that the model saw and the warehouse withholds, are refused to that model.

Nothing of the kind can happen while models are made of the warehouse that they write for. It can when a build goes back (an
earlier `data.as_of`, a smaller `split.train_share`) or withholds other items, and an older model stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reclm import artifacts
from reclm.artifacts import Artifact
from reclm.errors import WorkspaceError
from reclm.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings import Settings

KNOWS = "knows"
"""Where the manifest's metrics of a teacher and of a base model tell it."""
SHARES = ("zero_shot_share", "pseudo_cold_share")


def cut_off(settings: Settings, connection: DuckDBPyConnection) -> dict[str, Any]:
    """What is known at snapshot `select`, of which alone models learn: until when, and by what items are withheld."""
    rows = connection.execute("select as_of from int_snapshots where snapshot = 'select'").fetchall()
    shares = {name: getattr(settings.split, name) for name in SHARES}
    return {"until": rows[0][0].isoformat(), "seed": settings.seed, **shares}


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


def require_no_later(workspace: Workspace, model: Artifact, now: Mapping[str, Any]) -> None:
    """Raises WorkspaceError when the model learned what a warehouse with the cut-off `now` does not know yet."""
    for kind in ("teacher", "base"):
        source = ancestor(workspace, model, kind)
        knows = source.metrics.get(KNOWS) if source else None
        if not knows:
            continue
        if datetime.fromisoformat(knows["until"]) > datetime.fromisoformat(now["until"]):
            why = f"learned from interactions until {knows['until']}, and this build's models may know those before {now['until']}"
        elif any(knows[name] != now[name] for name in ("seed", *SHARES)):
            why = "learned of items that this build withholds (another seed, split.zero_shot_share or split.pseudo_cold_share)"
        else:
            continue
        raise WorkspaceError(
            f"{model.kind} {model.version} {why}; run `reclm tune`, `reclm reward` and `reclm refine` again"
        )
