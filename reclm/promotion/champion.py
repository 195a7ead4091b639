"""Publish and switch the champion: the one model that `recommend` and `serve` use.

In: a `served` artifact (a trained model fitted on all that is known) and the decision to use it. Out: its vectors in
the feature store and the pointer file `<workspace>/champion.json`, replaced atomically. The vectors are published
before the pointer moves and are keyed by id and model version, so a reader always finds the vectors of the version it
reads and never mixes two vector spaces. Which model becomes champion is decided in `reclm/promotion/decisions.py`, the
only caller of `publish` and `switch`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.dataset import SERVED
from reclm.errors import WorkspaceError
from reclm.progress import detail
from reclm.storage import artifacts, audit
from reclm.storage.files import read_json, write_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact


def current(settings: Settings) -> dict[str, Any]:
    """Read the pointer. Raises WorkspaceError when no model has been promoted."""
    pointer = find(settings)
    if pointer is None:
        raise WorkspaceError(
            f"{settings.paths.root} has no champion yet; `reclm run` trains models and `reclm promote` chooses one"
        )
    return pointer


def find(settings: Settings) -> dict[str, Any] | None:
    """Read the pointer, or return None when no model has been promoted."""
    return read_json(settings.paths.champion) if settings.paths.champion.exists() else None


def publish(settings: Settings, served: Artifact) -> None:
    """Write the fused vectors of a `served` artifact into the feature store; rows that are there are kept.

    A linear model, whose user vectors are histories, publishes those of new items alone.
    """
    from reclm.backbones.loading import load_backbone
    from reclm.features.fused import publish_fused

    backbone = load_backbone(served.path)
    fitted, vectors = backbone.fitted, backbone.fitted.vectors[SERVED]
    narrow = backbone.publishes_vectors
    publish_fused(
        settings,
        model_version=served.version,
        user_ids=fitted.user_ids if narrow else (),
        user_vectors=vectors.users if narrow else vectors.items[:0],
        item_ids=fitted.item_ids if narrow else (),
        item_vectors=vectors.items if narrow else vectors.items[:0],
        as_of=datetime.fromisoformat(served.metrics["as_of"]),
    )


def switch(settings: Settings, served: Artifact, decision: Artifact) -> dict[str, Any]:
    """Point to a `served` artifact, as the `promotion` artifact `decision` says, and return the pointer.

    Its vectors must have been published. `version` in the pointer is the served model; `measured` is the `backbone`
    artifact that it was fitted after, whose figures decide.
    """
    from reclm.training.validation import mean_metric

    parameters, row = served.manifest["parameters"], decision.metrics
    measured = artifacts.load(settings.paths, "backbone", served.manifest["parents"]["backbone"])
    pointer = {
        "version": served.version,
        "measured": measured.version,
        "model": parameters["model"],
        "variant": parameters["variant"],
        "seed": parameters["seed"],
        "setting": row["setting"],
        "metric": row["metric"],
        "value": row["candidate_value"],
        "zero_shot": mean_metric(measured.path, "zero_shot", row["metric"]),
        "parents": served.manifest["parents"],
        "as_of": served.metrics["as_of"],
        "promoted_at": datetime.now(UTC).isoformat(),
        "selected_by": row["decided_by"],
        "decision": decision.version,
        "previous": row["champion_version"],
    }
    write_json(settings.paths.champion, pointer)
    model = f"{pointer['model']}/{pointer['variant']}"
    about = {"version": served.version, "model": model, "decided_by": row["decided_by"], "decision": decision.version}
    audit.record(settings.paths, "roll back" if row["decision"] == "rolled_back" else "promote", **about)
    detail(f"champion is {pointer['model']}/{pointer['variant']} ({served.version})")
    return pointer
