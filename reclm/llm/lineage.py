"""Find the model that the settings mean among several.

In: artifacts and settings. Out: one artifact. A workspace may hold models made by other settings (an ablation's, last
week's). Preferred is the newest model whose recorded settings, and those of every model it came from, are the settings
in force; else the newest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reclm.errors import InputError, WorkspaceError
from reclm.llm.models.loading import base_model_name
from reclm.llm.models.tiny import SIZES, step_size
from reclm.llm.models.training_cutoff import within_cutoff
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

SECTIONS = ("llm", "tune", "reward", "refine")
KINDS = ("teacher", "base", "sft", "reward", "refine")
KIND_OF_MODEL = {"refined": "refine", "tuned": "sft", "base": "base"}
"""{value of `profiles.model`: artifact kind}."""
COMMANDS = {
    "teacher": "reclm tune",
    "base": "reclm tune",
    "sft": "reclm tune",
    "reward": "reclm reward",
    "refine": "reclm refine",
}
"""{artifact kind: command that makes it}."""
TINY_SETTINGS = {"size": "tiny_size", "vocabulary": "tiny_vocabulary", "tokens": "tiny_tokens"}


def matches_settings(settings: Settings, artifact: Artifact) -> bool:
    """Tell whether the settings an artifact records, and those of the models it came from, are the ones in force."""
    parameters = artifact.manifest["parameters"]
    if artifact.kind == "teacher":
        return _teacher_matches(settings, parameters)
    if any(parameters.get(name, value) != value for name, value in _parameters_outside_sections(settings).items()):
        return False
    for section in SECTIONS:
        recorded = parameters.get(section)
        if isinstance(recorded, Mapping):
            in_force = getattr(settings, section).model_dump(mode="json", include=set(recorded))
            if in_force != dict(recorded):
                return False
    if artifact.kind == "base" and not _base_matches(settings, parameters):
        return False
    return all(matches_settings(settings, parent) for parent in _parent_models(settings, artifact))


def preferred(settings: Settings, found: Sequence[Artifact], warehouse: str = "") -> Artifact:
    """Return the newest model of `found` that matches the settings, else the newest.

    `found` is not empty and sorted from oldest to newest. Models made of `warehouse`, a fingerprint, come before
    others.
    """
    own = [artifact for artifact in found if artifact.manifest["parents"].get("warehouse") == warehouse] or found
    return next((artifact for artifact in reversed(own) if matches_settings(settings, artifact)), own[-1])


def newest_model(settings: Settings, warehouse: str) -> Artifact:
    """Return the preferred model of the kind `profiles.model` that learned nothing beyond the build `warehouse`.

    Raises WorkspaceError naming the command that makes such a model when there is none.
    """
    kind = KIND_OF_MODEL[settings.profiles.model]
    workspace = settings.paths
    found = artifacts.all_of(workspace, kind)
    if not found:
        raise WorkspaceError(
            f"{workspace.root} holds no {kind} model for profiles.model = {settings.profiles.model!r}; run "
            f"`{COMMANDS[kind]}` first, or set profiles.engine to 'extractive'"
        )
    return preferred(settings, within_cutoff(settings, found, warehouse), warehouse)


def _base_matches(settings: Settings, parameters: Mapping[str, Any]) -> bool:
    name = base_model_name(settings)
    if parameters.get("base_model", name) != name:
        return False
    in_force = {name: getattr(settings.llm, key) for name, key in TINY_SETTINGS.items()}
    in_force["learning_rate"] = step_size(settings.llm.tiny_learning_rate, SIZES[settings.llm.tiny_size])
    return all(parameters.get(name, value) == value for name, value in in_force.items() if value)


def _parameters_outside_sections(settings: Settings) -> dict[str, Any]:
    """Return what a model depends on outside its sections. The device is left out: any machine's model will do."""
    from reclm.llm.tuning.heldout import decoding_settings
    from reclm.text.encoder import model_name

    return {"seed": settings.seed, "encoder": model_name(settings.embedding), "decoding": decoding_settings(settings)}


def _teacher_matches(settings: Settings, parameters: Mapping[str, Any]) -> bool:
    """Compare a teacher's parameters without asking an endpoint: if no model or revision is named, any matches."""
    from reclm.llm.teacher.parameters import teacher_parameters

    endpoint = settings.openai
    recorded = {name: getattr(endpoint, name) or parameters.get(name, "") for name in ("model", "revision")}
    named = settings.model_copy(update={"openai": endpoint.model_copy(update=recorded)})
    with suppress(InputError):
        return bool(teacher_parameters(named) == parameters)
    return True  # its table was deleted, so there is nothing to compare with


def _parent_models(settings: Settings, artifact: Artifact) -> Iterable[Artifact]:
    for kind, version in artifact.manifest["parents"].items():
        found = artifacts.find(settings.paths, kind, version) if kind in KINDS else None
        if found is not None:
            yield found
