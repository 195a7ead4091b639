"""Publish and point to the challenger: a second model, which the service tries beside the champion.

In: a trained model. Out: its vectors in the feature store and the pointer file `<workspace>/challenger.json`, which has
the fields of `champion.json` that the service reads. As with the champion, the model is first fitted on everything that
is known (artifact `served`) and published, and then the pointer is replaced atomically. Removing the file ends the
trial. How many users meet the challenger is a setting of the service (`serve.challenger_share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError
from reclm.progress import detail
from reclm.promotion import champion
from reclm.promotion.decisions import deciding, servable
from reclm.storage import audit
from reclm.storage.files import read_json, write_json
from reclm.storage.runs import recorded
from reclm.training.model import refit_on_serve

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

Pointer = dict[str, Any]


def find(settings: Settings) -> Pointer | None:
    """Read the pointer, or return None when no model is being tried."""
    return read_json(settings.paths.challenger) if settings.paths.challenger.exists() else None


def versions_in_use(settings: Settings) -> list[str]:
    """Return the versions of the served models: the champion's, then the challenger's, where there are any."""
    return [str(pointer["version"]) for pointer in (champion.find(settings), find(settings)) if pointer is not None]


def challenge(settings: Settings, version: str) -> Pointer:
    """Make the trained model `version` the challenger and return its pointer.

    Raises ArtifactError when no such model exists, ModelError for the shuffled control and for a model of the
    champion's kind, and WorkspaceError without a champion.
    """
    with recorded(settings.paths, "challenge", model=version) as about, deciding(settings.paths):
        pointer = _point_to(settings, servable(settings, version))
        about |= {"version": pointer["version"], "made": f"{pointer['model']}/{pointer['variant']} is the challenger"}
    return pointer


def withdraw(settings: Settings) -> Pointer | None:
    """End the trial; return the pointer that was removed, None when there was none."""
    with recorded(settings.paths, "challenge") as about, deciding(settings.paths):
        pointer = find(settings)
        settings.paths.challenger.unlink(missing_ok=True)
        if pointer is not None:
            audit.record(settings.paths, "end challenge", version=pointer["version"])
        about["made"] = "the trial has ended"
    return pointer


def refresh(settings: Settings, trained: Sequence[Artifact]) -> Pointer | None:
    """Follow a promotion: point to today's model of the challenger's kind, so that both models know the same days.

    The trial ends when that kind has become champion. Returns the pointer afterwards. A challenger whose kind is not
    among the models `trained` stays as it is.
    """
    with deciding(settings.paths):
        pointer = find(settings)
        if pointer is None:
            return None
        current = champion.find(settings)
        if current is not None and _kind(pointer) == _kind(current):
            settings.paths.challenger.unlink()
            detail(f"{pointer['model']}/{pointer['variant']} is the champion now: its trial has ended")
            return None
        wanted = (*_kind(pointer), pointer["seed"])
        about = [(one.manifest["parameters"], one) for one in trained]
        newest = next((one for parameters, one in about if (*_kind(parameters), parameters["seed"]) == wanted), None)
        return pointer if newest is None else _point_to(settings, newest)


def _point_to(settings: Settings, model: Artifact) -> Pointer:
    parameters, of_champion = model.manifest["parameters"], champion.current(settings)
    if _kind(parameters) == _kind(of_champion):
        raise ModelError(
            f"{model.version} is {parameters['model']}/{parameters['variant']} as the champion is; name a model of "
            "another backbone or variant to try beside it"
        )
    served = refit_on_serve(settings, model)
    before = find(settings)
    if before is not None and before["version"] == served.version:
        return before
    champion.publish(settings, served)
    pointer = {
        "version": served.version,
        "measured": model.version,
        **{name: parameters[name] for name in ("model", "variant", "seed")},
        "parents": served.manifest["parents"],
        "as_of": served.metrics["as_of"],
        "promoted_at": datetime.now(UTC).isoformat(),
    }
    write_json(settings.paths.challenger, pointer)
    audit.record(settings.paths, "challenge", version=served.version, model=f"{pointer['model']}/{pointer['variant']}")
    detail(f"challenger is {pointer['model']}/{pointer['variant']} ({served.version})")
    return pointer


def _kind(about: Pointer) -> tuple[Any, ...]:
    return about["model"], about["variant"]
