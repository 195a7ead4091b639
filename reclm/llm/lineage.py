"""Which of several models of a kind is meant: artifacts and settings come in, the one that the settings would make goes out.

A workspace may hold models made by other settings (an ablation's, last week's). The newest whose recorded settings are
those in force is preferred, in itself and in every model it came from; else the newest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reclm.errors import InputError
from reclm.llm.models.tiny import SIZES, step_size
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

SECTIONS = ("llm", "tune", "reward", "refine")
LINE = ("teacher", "base", "sft", "reward", "refine")
OF_TINY = {"size": "tiny_size", "vocabulary": "tiny_vocabulary", "tokens": "tiny_tokens"}


def matches_settings(settings: Settings, artifact: Artifact) -> bool:
    """True when the settings it records, and those of the models it came from, are the ones in force."""
    parameters = artifact.manifest["parameters"]
    if artifact.kind == "teacher":
        return _suits_teacher(settings, parameters)
    if any(parameters.get(name, value) != value for name, value in _made_by(settings).items()):
        return False
    for section in SECTIONS:
        recorded = parameters.get(section)
        if isinstance(recorded, Mapping):
            now = getattr(settings, section).model_dump(mode="json", include=set(recorded))
            if now != dict(recorded):
                return False
    if artifact.kind == "base" and not _suits_base(settings, parameters):
        return False
    return all(matches_settings(settings, parent) for parent in _models(settings, artifact))


def _suits_base(settings: Settings, parameters: Mapping[str, Any]) -> bool:
    if parameters.get("base_model", settings.llm.base_model) != settings.llm.base_model:
        return False
    wanted = {name: getattr(settings.llm, key) for name, key in OF_TINY.items()}
    wanted["learning_rate"] = step_size(settings.llm.tiny_learning_rate, SIZES[settings.llm.tiny_size])
    return all(parameters.get(name, value) == value for name, value in wanted.items() if value)


def _made_by(settings: Settings) -> dict[str, Any]:
    """What a model depends on outside its sections. Not the machine: a model of another one is as good."""
    from reclm.llm.tuning.heldout import decoding_settings
    from reclm.text.encoder import model_name

    return {"seed": settings.seed, "encoder": model_name(settings.embedding), "decoding": decoding_settings(settings)}


def _suits_teacher(settings: Settings, parameters: Mapping[str, Any]) -> bool:
    """True of a teacher that the settings would make. Nobody is asked for it: an endpoint's unnamed model may be any."""
    from reclm.llm.teacher.stage import parameters_of

    endpoint = settings.openai
    known = settings.model_copy(
        update={"openai": endpoint.model_copy(update={"model": endpoint.model or parameters.get("model", "")})}
    )
    with suppress(InputError):
        return bool(parameters_of(known) == parameters)
    return True  # a table that is not there any more: nothing speaks against it


def _models(settings: Settings, artifact: Artifact) -> Iterable[Artifact]:
    for kind, version in artifact.manifest["parents"].items():
        found = artifacts.find(settings.paths, kind, version) if kind in LINE else None
        if found is not None:
            yield found


def preferred(settings: Settings, found: Sequence[Artifact], warehouse: str = "") -> Artifact:
    """Of `found` (oldest first, not empty) the newest of this `warehouse` that suits, else of this warehouse, else of all."""

    own = [artifact for artifact in found if artifact.manifest["parents"].get("warehouse") == warehouse] or found
    return next((artifact for artifact in reversed(own) if matches_settings(settings, artifact)), own[-1])
