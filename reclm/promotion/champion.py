"""The one pointer to the model in use: `<workspace>/champion.json`, switched atomically, read by `recommend` and `serve`.

The champion's fused vectors are in the feature store before the pointer moves, keyed by id and model version, so a
reader never meets a version whose vectors are missing and never mixes two vector spaces. Who becomes champion is decided
in `reclm/promotion/decisions.py`, the only caller of `publish` and `switch`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import ArtifactError, WorkspaceError
from reclm.progress import say
from reclm.storage.files import read_json, write_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact


def current(settings: Settings) -> dict[str, Any]:
    """The pointer's content. Raises WorkspaceError when no model has been promoted."""
    pointer = find(settings)
    if pointer is None:
        raise WorkspaceError(
            f"{settings.paths.root} has no champion yet; `reclm run` trains models and `reclm promote` chooses one"
        )
    return pointer


def find(settings: Settings) -> dict[str, Any] | None:
    """The pointer's content, or None when no model has been promoted."""
    return read_json(settings.paths.champion) if settings.paths.champion.exists() else None


def publish(settings: Settings, chosen: Artifact) -> None:
    """Puts the model's fused vectors into the feature store; rows that are there already are not written again."""
    from reclm.backbones.loading import load_backbone
    from reclm.features.fused import publish_fused

    fitted = load_backbone(chosen.path).fitted
    publish_fused(
        settings,
        model_version=chosen.version,
        user_ids=fitted.user_ids,
        user_vectors=fitted.vectors["full_shot"].users,
        item_ids=fitted.item_ids,
        item_vectors=fitted.vectors["full_shot"].items,
        as_of=_as_of(chosen),
    )


def _as_of(chosen: Artifact) -> datetime:
    """The moment of knowledge of the data that a model was fitted on."""
    if "as_of" not in chosen.metrics:
        raise ArtifactError(
            f"model {chosen.version} was trained by an earlier reclm; run `reclm train` for one of today"
        )
    return datetime.fromisoformat(chosen.metrics["as_of"])


def switch(settings: Settings, chosen: Artifact, decision: Artifact) -> dict[str, Any]:
    """Points at `chosen`, as the `promotion` artifact `decision` says. Its vectors must be published. Returns the pointer."""
    from reclm.training.validation import mean

    parameters, row = chosen.manifest["parameters"], decision.metrics
    pointer = {
        "version": chosen.version,
        "model": parameters["model"],
        "variant": parameters["variant"],
        "seed": parameters["seed"],
        "setting": "full_shot",
        "metric": row["metric"],
        "value": row["candidate_value"],
        "zero_shot": mean(chosen.path, "zero_shot", row["metric"]),
        "parents": chosen.manifest["parents"],
        "as_of": chosen.metrics["as_of"],
        "promoted_at": datetime.now(UTC).isoformat(),
        "selected_by": row["decided_by"],
        "decision": decision.version,
        "previous": row["champion_version"],
    }
    write_json(settings.paths.champion, pointer)
    say(f"champion is {pointer['model']}/{pointer['variant']} ({chosen.version})")
    return pointer
