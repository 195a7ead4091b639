"""Remember the settings that a person gave for a workspace, so that later commands need not repeat them.

In: the settings with which a command of the command line has done its work. Out: `settings.json` in the workspace,
{key: {"value", "from"}}, which `load` reads below the settings file, the environment and flags. The schedule reads it
and never writes it: the settings of a deployment are in force at each of its tasks, and the parameters of one DAG run
are for that run alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import cache, reduce
from typing import Any

from reclm.errors import SettingsError
from reclm.progress import say
from reclm.settings.presets import PRESET, settings_of_preset
from reclm.settings.tree import Given, Settings
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone
from reclm.storage.workspace import Workspace

MEMORY = "remembered"
MADE_BY = {
    "data": "ingest",
    "demo": "demo",
    "seed": "build",
    "split": "build",
    "features": "build",
    "llm": "tune",
    "teacher": "tune",
    "tune": "tune",
    "reward": "reward",
    "refine": "refine",
    "profiles": "profile",
    "openai": "profile",
    "embedding": "profile",
    "feast": "publish",
    "fusion": "train",
    "train": "train",
    "runtime": "train",
    "evaluation": "evaluate",
    "promotion": "promote",
    "ablate": "ablate",
}
"""{section that decides what the workspace holds: the first command whose result depends on it}. The others are about
a process or a machine (`serve`, `schedule`, …) and are not remembered."""
NOT_REMEMBERED = {"data.as_of", "runtime.threads", "runtime.lock_minutes", "train.jobs", "openai.extra"}
"""The as-of belongs to a build, which records it; threads, processes and waiting belong to the machine; further fields
of a request may hold a key under any name."""
SECRET = re.compile(
    r"://[^/\s]*@|(password|passwd|pwd|token|secret|api_?key|authorization)\W{0,3}[=:]|bearer\s", re.IGNORECASE
)
"""What a value that holds a secret looks like: user and password in a URL, or the name of one with its value."""


def recall(workspace: Workspace) -> dict[str, Given]:
    """Return what is remembered. Raises SettingsError when the file is not what `remember` writes."""
    if not workspace.remembered_settings.exists():
        return {}
    try:
        stored = read_json(workspace.remembered_settings)
        return {key: Given(about["value"], about["from"]) for key, about in stored.items() if is_remembered(key)}
    except (TypeError, AttributeError, KeyError):
        raise SettingsError(
            f"{workspace.remembered_settings} does not hold remembered settings; delete it and give them again"
        ) from None


def is_remembered(key: str) -> bool:
    """Return whether the setting is of a kind that is remembered."""
    return key.split(".")[0] in MADE_BY and key not in NOT_REMEMBERED


def remember(settings: Settings) -> None:
    """Remember the settings that a person gave this command, beside those that other commands have left meanwhile.

    Values that are the default need no memory; those that hold a secret are never written. What an earlier settings
    file said is forgotten where another one is in force.
    """
    given = {
        key: one for key, one in settings.given.items() if is_remembered(key) and one.source not in (MEMORY, PRESET)
    }
    with alone(settings.paths.locks / "settings.lock", "another command remembers its settings"):
        is_file_in_force = any(one.source == "file" for one in settings.given.values())
        kept: dict[str, Any] = {
            key: {"value": one.value, "from": one.source}
            for key, one in recall(settings.paths).items()
            if key not in given and not (is_file_in_force and one.source == "file")
        }
        for key, one in given.items():
            value = value_of(settings, key)
            if value == _default(settings, key):
                continue
            if SECRET.search(str(value)):
                say(f"{key} holds a password or key and is not remembered: give it each time, best by the environment")
            else:
                kept[key] = {"value": value, "from": one.source}
        path = settings.paths.remembered_settings
        if not path.exists() or read_json(path) != kept:
            write_json(path, kept)


def notes(settings: Settings, sections: Collection[str] = tuple(MADE_BY)) -> list[str]:
    """Return what a person should know before work begins, of these sections: which settings are remembered, and which
    differ from those that the results in the workspace were made with."""
    if not settings.paths.remembered_settings.exists():
        return []
    before = recall(settings.paths)
    used = [
        f"{key}={_shown(value_of(settings, key))}"
        for key, given in settings.given.items()
        if given.source == MEMORY and key.split(".")[0] in sections
    ]
    lines = [f"settings remembered from earlier commands: {', '.join(sorted(used))}"] if used else []
    by_hand = {key for key, given in settings.given.items() if given.source != PRESET}
    for key in sorted(before.keys() | by_hand):
        section = key.split(".")[0]
        old = before[key].value if key in before else _default(settings, key)
        new = value_of(settings, key)
        if section in sections and is_remembered(key) and new != old:
            lines.append(
                f"{key}={_shown(new)}, until now {_shown(old)}: `reclm {MADE_BY[section]}` and the stages after it "
                "make new results"
            )
    return lines


def _default(settings: Settings, key: str) -> Any:
    """Return the value that a setting has where nobody gives one: that of `llm.preset`, else that of the tree."""
    preset = settings_of_preset(settings.llm.preset)
    return preset[key] if key in preset else value_of(_plain(), key)


@cache
def _plain() -> Settings:
    return Settings()


def _shown(value: Any) -> str:
    """Write a value as `--set` takes it."""
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def value_of(settings: Settings, key: str) -> Any:
    """Return the value of a setting in force as JSON has it: a list for several names."""
    value = reduce(getattr, key.split("."), settings)
    return list(value) if isinstance(value, tuple) else value
