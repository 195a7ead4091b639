"""Which artifacts stay: every finished artifact and the settings come in, those that stay and those that go come out.

An artifact stays when it is young, among the newest of its kind, or in use; and so does everything in the line of what
stays, so that no kept manifest names a parent that was removed. In use are the champion and those before it, what the
warehouse shows, and the language models that the settings would write with. Decisions of promotion always stay: they are
a few bytes, and the history of champions.

Two kinds are also stores, read across artifacts. A text's vector is written once and stands in whichever embeddings
artifact came first; an answer of a language model likewise in the `generations-*` of a profiles artifact. So a store stays
while it holds a vector or an answer that kept profiles or items use and that no other kept one has. For that alone its
parents need not stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow.parquet as pq

from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import read_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

T = TypeVar("T")
Key = tuple[str, str]
"""Kind and version."""
Stored = Mapping[Key, Artifact]
LANGUAGE_MODELS = ("teacher", "base", "sft", "reward", "refine")
NEVER_REMOVED = ("promotion",)
CHAMPIONS = ("promoted", "rolled_back")
PROFILE_FILES = ("user_profiles.parquet", "item_profiles.parquet")


@dataclass(frozen=True)
class Divided:
    """`kept` with all their line, `stores` that stay for what they hold, `going` newest first."""

    kept: list[Artifact]
    stores: list[Artifact]
    going: list[Artifact]


def divide(settings: Settings, now: datetime) -> Divided:
    """Every finished artifact, in one of three."""
    stored = {
        (artifact.kind, artifact.version): artifact
        for kind in artifacts.KINDS
        for artifact in artifacts.all_of(settings.paths, kind)
    }
    kept = with_line(in_use(settings, stored) | _by_rule(settings, stored, now), stored)
    rest = sorted(
        (artifact for key, artifact in stored.items() if key not in kept),
        key=lambda artifact: (artifact.manifest["created_at"], artifact.version),
        reverse=True,
    )
    standing = [stored[key] for key in kept]
    stores = _answers_in_use(standing, rest) + _vectors_in_use(settings, standing, rest)
    return Divided(standing, stores, [artifact for artifact in rest if artifact not in stores])


def parents_of(artifact: Artifact) -> Iterable[Key]:
    """The artifacts a manifest names: `kind` or `kind/label` and a version; tables and features are none."""
    for name, version in artifact.manifest["parents"].items():
        kind = name.split("/")[0]
        if kind in artifacts.KINDS:
            yield kind, str(version)


def with_line(keys: Iterable[Key], stored: Stored) -> set[Key]:
    """`keys` and everything they were made from, as far as it is there."""
    found: set[Key] = set()
    waiting = [key for key in keys if key in stored]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [parent for parent in parents_of(stored[key]) if parent in stored]
    return found


def in_use(settings: Settings, stored: Stored) -> set[Key]:
    """What something stands on now, without its line."""
    from reclm.warehouse.sources import current_versions

    workspace = settings.paths
    used = {("backbone", version) for version in champions(settings)}
    used |= {(kind, version) for kind in artifacts.KINDS for version in current_versions(workspace, kind)}
    return used | _language_models(settings, stored)


def champions(settings: Settings) -> list[str]:
    """The champion's version and those of `retention.champions` before it, newest first."""
    workspace = settings.paths
    current = [str(read_json(workspace.champion)["version"])] if workspace.champion.exists() else []
    decisions = [
        row
        for artifact in artifacts.all_of(workspace, "promotion")
        for row in pq.read_table(artifact.path / "decision.parquet").to_pylist()
        if row["decision"] in CHAMPIONS and row["candidate_version"]
    ]
    decisions.sort(key=lambda row: row["decided_at"], reverse=True)
    line = dict.fromkeys([*current, *(str(row["candidate_version"]) for row in decisions)])
    return list(line)[: settings.retention.champions + len(current)]


def _language_models(settings: Settings, stored: Stored) -> set[Key]:
    """Of each kind the newest, and the one that the next run would take up by these settings."""
    from reclm.llm.lineage import preferred
    from reclm.warehouse.reading import features_fingerprint

    warehouse = features_fingerprint(settings.paths) if settings.paths.current_build.exists() else ""
    used: set[Key] = set()
    for kind in LANGUAGE_MODELS:
        found = [artifact for (of_kind, _), artifact in stored.items() if of_kind == kind]
        if found:
            used |= {(kind, found[-1].version), (kind, preferred(settings, found, warehouse).version)}
    return used


def _by_rule(settings: Settings, stored: Stored, now: datetime) -> set[Key]:
    """The young, the newest of each kind, and decisions."""
    rule = settings.retention
    groups: dict[tuple[str, ...], list[Key]] = {}
    for key, artifact in stored.items():  # oldest first
        groups.setdefault(_group(artifact), []).append(key)
    newest = {key for group in groups.values() for key in group[-rule.keep :]}
    oldest = now - timedelta(days=rule.days)
    young = {key for key, a in stored.items() if datetime.fromisoformat(a.manifest["created_at"]) > oldest}
    return newest | young | {key for key in stored if key[0] in NEVER_REMOVED}


def _group(artifact: Artifact) -> tuple[str, ...]:
    parameters = artifact.manifest["parameters"]
    of_model = ("model", "variant", "seed") if artifact.kind == "backbone" else ()
    return artifact.kind, *(str(parameters.get(name)) for name in of_model)


def _answers_in_use(kept: list[Artifact], rest: list[Artifact]) -> list[Artifact]:
    """Profiles artifacts of `rest` that hold an answer which kept profiles were made of."""
    candidates = [artifact for artifact in rest if artifact.kind == "profiles" and _answers(artifact)]
    if not candidates:
        return []
    standing = [artifact for artifact in kept if artifact.kind == "profiles"]
    wanted = {
        (version, prompt)
        for artifact in standing
        for file in PROFILE_FILES
        for version, prompt in _pairs(artifact.path / file, "engine_version", "prompt_hash")
        if prompt
    }
    return _holding(wanted, standing, candidates, _answers)


def _answers(artifact: Artifact) -> set[Key]:
    return {
        pair
        for shard in artifact.path.glob("generations-*.parquet")
        for pair in _pairs(shard, "model_version", "prompt_hash")
    }


def _vectors_in_use(settings: Settings, kept: list[Artifact], rest: list[Artifact]) -> list[Artifact]:
    """Embeddings artifacts of `rest` that hold the vector of a text of kept profiles or of an item."""
    from reclm.text.encoder import model_name

    current = (a for a in kept if a.kind == "embeddings")
    encoders = {model_name(settings.embedding)} | {str(a.manifest["parameters"]["model"]) for a in current}
    found: list[Artifact] = []
    for encoder in sorted(encoders):
        candidates = [artifact for artifact in rest if _is_of(encoder, artifact)]
        if candidates:
            standing = [artifact for artifact in kept if _is_of(encoder, artifact)]
            found += _holding(_texts(settings, kept), standing, candidates, _hashes)
    return found


def _is_of(encoder: str, artifact: Artifact) -> bool:
    return artifact.kind == "embeddings" and artifact.manifest["parameters"]["model"] == encoder


def _hashes(artifact: Artifact) -> set[str]:
    return {
        str(text)
        for shard in artifact.path.glob("vectors-*.parquet")
        for text in pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist()
    }


def _texts(settings: Settings, kept: list[Artifact]) -> set[str]:
    """Hashes of every text that kept profiles and the items of the warehouse have."""
    from reclm.text.encoder import text_hash
    from reclm.warehouse.reading import connect

    texts = {
        row[0]
        for artifact in kept
        if artifact.kind == "profiles"
        for file in PROFILE_FILES
        for row in _pairs(artifact.path / file, "profile", "parse_status")
    }
    if settings.paths.warehouse.exists():
        with closing(connect(settings)) as connection:
            texts |= {row[0] for row in connection.execute("select full_text from dim_items").fetchall()}
    return {text_hash(text) for text in texts if text}


def _holding(
    wanted: set[T], standing: Iterable[Artifact], candidates: Iterable[Artifact], held: Callable[[Artifact], set[T]]
) -> list[Artifact]:
    """The candidates (newest first) that hold something wanted which none before them has."""
    missing = wanted.difference(*map(held, standing))
    found = []
    for artifact in candidates:
        here = missing & held(artifact)
        if here:
            found.append(artifact)
            missing -= here
    return found


def _pairs(file: Path, first: str, second: str) -> Iterable[tuple[str, str]]:
    table = pq.read_table(file, columns=[first, second])
    return zip(table[first].to_pylist(), table[second].to_pylist(), strict=True)
