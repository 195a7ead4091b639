"""The one pointer to the model in use: `<workspace>/champion.json`, switched atomically, read by `recommend` and `serve`.

The champion's fused vectors are in the feature store before the pointer moves, keyed by id and model version, so a
reader never meets a version whose vectors are missing and never mixes two vector spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm import artifacts
from reclm.errors import WorkspaceError
from reclm.progress import say
from reclm.workspace import read_json, write_json

if TYPE_CHECKING:
    from reclm.artifacts import Artifact
    from reclm.settings import Settings

SELECTION_METRIC = "ndcg@20"


def current(settings: Settings) -> dict[str, Any]:
    """The pointer's content. Raises WorkspaceError when no model has been promoted."""
    if not settings.paths.champion.exists():
        raise WorkspaceError(f"{settings.paths.root} has no champion yet; `reclm run` trains models and chooses one")
    return read_json(settings.paths.champion)


def candidate(backbones: Sequence[Artifact]) -> Artifact | None:
    """The model with the best full-shot validation NDCG@20 among those that use profiles, else among all; None if none was measured.

    The shuffled control is never a candidate. Validation alone decides: the test slice plays no part.
    """
    measured = [
        artifact
        for artifact in backbones
        if artifact.manifest["parameters"]["variant"] != "shuffled"
        and artifact.metrics.get("validation", {}).get("full_shot") is not None
    ]
    with_profiles = [artifact for artifact in measured if artifact.manifest["parameters"]["variant"] == "augment"]
    ranked = sorted(with_profiles or measured, key=lambda a: (-a.metrics["validation"]["full_shot"], a.version))
    return ranked[0] if ranked else None


def crown(settings: Settings, backbones: Sequence[Artifact]) -> dict[str, Any] | None:
    """Makes the best candidate champion when none stands on the data that these models were trained on.

    Publishes its vectors, then switches the pointer. A champion of older data cannot speak of the users and items that
    have come since, nor may it speak for people who were forgotten, so it gives way.
    """
    if settings.paths.champion.exists():
        champion = current(settings)
        is_there = artifacts.find(settings.paths, "backbone", champion["version"]) is not None
        if is_there and any(artifact.manifest["parents"] == champion["parents"] for artifact in backbones):
            say(f"champion stays {champion['model']}/{champion['variant']} ({champion['version']})")
            return champion
        say(f"champion {champion['model']}/{champion['variant']} was trained on other data and gives way")
    chosen = candidate(backbones)
    if chosen is None:
        say("no model could be measured on the validation slice, so there is no champion")
        return None
    return promote(settings, chosen)


def promote(settings: Settings, chosen: Artifact) -> dict[str, Any]:
    """Publishes the model's fused vectors to the feature store, then points at it."""
    from reclm.backbones import Backbone
    from reclm.features.fused import publish_fused
    from reclm.warehouse import snapshot_as_of

    fitted = Backbone.load(chosen.path).fitted
    publish_fused(
        settings,
        model_version=chosen.version,
        user_ids=fitted.user_ids,
        user_vectors=fitted.vectors["full_shot"].users,
        item_ids=fitted.item_ids,
        item_vectors=fitted.vectors["full_shot"].items,
        as_of=snapshot_as_of(settings, "final"),
    )
    parameters = chosen.manifest["parameters"]
    champion = {
        "version": chosen.version,
        "model": parameters["model"],
        "variant": parameters["variant"],
        "seed": parameters["seed"],
        "setting": "full_shot",
        "selected_by": f"valid {SELECTION_METRIC}, models with profiles first",
        "value": chosen.metrics["validation"]["full_shot"],
        "parents": chosen.manifest["parents"],
        "promoted_at": datetime.now(UTC).isoformat(),
    }
    write_json(settings.paths.champion, champion)
    say(f"champion is {champion['model']}/{champion['variant']} ({chosen.version})")
    return champion
