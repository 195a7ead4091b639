"""Read the settings: preset < remembered by the workspace < TOML file < `RECLM_…` environment variables < `--set`.

An unknown key, wherever it comes from, is an error that names the nearest right one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reclm.dataset import VARIANTS
from reclm.errors import SettingsError
from reclm.settings.memory import MEMORY, recall
from reclm.settings.presets import PRESET, settings_of_preset
from reclm.settings.recommenders import ARMS, BACKBONES, BASELINES, EXTRAS
from reclm.settings.section import Section
from reclm.settings.tree import ENVIRONMENT_PREFIX, Given, Settings
from reclm.storage.workspace import Workspace

SETTINGS_FILE = "reclm.toml"
NOT_SETTINGS = {
    f"RECLM_{name}" for name in ("SETTINGS", "REPOSITORY", "EXTERNAL_ROOT", "SHARED_DATA", "VERBOSE", "ERASURES")
}


def describe(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """Yield (key, type, default, description) of every setting, in the order of the tree."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from describe(kind, f"{prefix}{name}.")
        else:
            shown = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind).replace("typing.", "")
            yield f"{prefix}{name}", shown, field.default, field.description or ""


def known_keys() -> list[str]:
    """Return the dotted name of every setting."""
    return [key for key, *_ in describe()]


def _reject_unknown(key: str, origin: str) -> None:
    keys = known_keys()
    if key in keys:
        return
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or [k for k in keys if k.endswith(f".{key}")]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SettingsError(f"unknown settings key {key!r} in {origin}{hint} (`reclm settings` lists all)")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a tree; a table that is the value of a setting stays whole."""
    keys = known_keys()
    for name, value in tree.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in keys:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plant(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def _from_file(file: Path | None) -> Iterator[tuple[str, Any]]:
    if file is None:
        return
    try:
        tree = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise SettingsError(f"settings file {file} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None
    for key, value in _flatten(tree):
        _reject_unknown(key, str(file))
        yield key, value


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _reject_unknown(key, f"environment variable {name}")
            yield key, environment[name]


def _from_flags(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            raise SettingsError(f"--set {flag!r} is not of the form key=value")
        _reject_unknown(key.strip(), f"--set {flag}")
        yield key.strip(), value


def load(
    flags: Sequence[str] = (),
    *,
    workspace: Path | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Load the settings in force. `file` defaults to RECLM_SETTINGS, else to `reclm.toml` of the current folder.

    Raises SettingsError naming the key, what was given, and the nearest right key or the allowed values.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get(f"{ENVIRONMENT_PREFIX}SETTINGS"):
        file = Path(environment[f"{ENVIRONMENT_PREFIX}SETTINGS"])
    if file is None and Path(SETTINGS_FILE).exists():
        file = Path(SETTINGS_FILE)
    sources = {"file": _from_file(file), "environment": _from_environment(environment), "flag": _from_flags(flags)}
    given = {key: Given(value, source) for source, pairs in sources.items() for key, value in pairs}
    if workspace is not None:
        given["workspace"] = Given(workspace, "flag")
    settings = _validated({key: one for key, one in given.items() if key == "workspace"})
    given = _recalled(settings.paths, replaced_by_file=file is not None) | given
    if "llm.preset" in given:
        preset = settings_of_preset(str(given["llm.preset"].value))
        given = {key: Given(value, PRESET) for key, value in preset.items()} | given
    settings = _validated(given)
    _check_names("train.models", settings.train.models, BACKBONES)
    _check_names("train.variants", settings.train.variants, VARIANTS)
    _check_names("evaluation.baselines", settings.evaluation.baselines, BASELINES)
    _check_names("ablate.arms", settings.ablate.arms, ARMS)
    _check_names("ablate.models", settings.ablate.models, BACKBONES)
    _check_names("ablate.extras", settings.ablate.extras, EXTRAS)
    if settings.split.train_share + settings.split.valid_share >= 1:
        raise SettingsError("split.train_share + split.valid_share must stay below 1, or no test slice is left")
    return settings


def _recalled(workspace: Workspace, *, replaced_by_file: bool) -> dict[str, Given]:
    """Return the remembered settings. Where a settings file is in force, what an earlier one said is void; so is a key
    that this version of reclm does not know."""
    known = known_keys()
    return {
        key: Given(about.value, MEMORY)
        for key, about in recall(workspace).items()
        if key in known and not (replaced_by_file and about.source == "file")
    }


def _validated(given: Mapping[str, Given]) -> Settings:
    tree: dict[str, Any] = {}
    for key, about in given.items():
        _plant(tree, key, about.value)
    try:
        settings = Settings(**tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        source = given[key].source if key in given else ""
        where = f"; it is remembered by the workspace: give another with --set {key}=…" if source == MEMORY else ""
        raise SettingsError(f"settings key {key!r}: {first['msg']} (given: {first['input']!r}{where})") from None
    settings._given = given
    return settings


def _check_names(key: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{key}: unknown name {name!r}{hint} (allowed: {', '.join(allowed)})")
