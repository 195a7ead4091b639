"""Decide which artifacts to keep.

In: all finished artifacts and the settings. Out: the artifacts to keep and those to remove. An artifact is kept when it
is young, among the newest of its kind, or in use; so is everything it was made from, so that no kept manifest names a
removed parent. In use are the champion and those before it, what the warehouse shows, and the language models that the
settings would write with. Decisions of promotion are always kept: they are a few bytes, and the history of champions.

Two kinds also store data for later artifacts. A text's vector is written once, in the embeddings artifact that first
needed it; an answer of a language model likewise in the `generations-*` of a profiles artifact. Such an artifact is
kept while it holds a vector or an answer that kept profiles or items use and no other kept artifact has. Its parents
need not be kept for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow.parquet as pq

from reclm.errors import ModelError
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import read_json
from reclm.storage.schemas import PROFILE_FILES, PROMOTION_DECISION

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

T = TypeVar("T")
Key = tuple[str, str]
"""Kind and version."""
Stored = Mapping[Key, Artifact]
LANGUAGE_MODELS = ("teacher", "base", "sft", "reward", "refine")
NEVER_REMOVED = ("promotion",)
CHAMPIONS = ("promoted", "rolled_back")


@dataclass(frozen=True)
class Divided:
    """`kept` with their ancestors, `stores` kept for vectors or answers they hold, `removed` newest first."""

    kept: list[Artifact]
    stores: list[Artifact]
    removed: list[Artifact]


def divide(settings: Settings, now: datetime) -> Divided:
    """Divide the finished artifacts into those to keep and those to remove."""
    stored = {
        (artifact.kind, artifact.version): artifact
        for kind in artifacts.KINDS
        for artifact in artifacts.all_of(settings.paths, kind)
    }
    kept = with_ancestors(in_use(settings, stored) | _by_rule(settings, stored, now), stored)
    rest = sorted(
        (artifact for key, artifact in stored.items() if key not in kept),
        key=lambda artifact: (artifact.manifest["created_at"], artifact.version),
        reverse=True,
    )
    kept_ones = [stored[key] for key in kept]
    stores = _answers_in_use(kept_ones, rest) + _vectors_in_use(settings, kept_ones, rest)
    return Divided(kept_ones, stores, [artifact for artifact in rest if artifact not in stores])


def parents_of(artifact: Artifact) -> Iterable[Key]:
    """Yield the artifacts that a manifest names as parents; the warehouse and the features are not artifacts."""
    for name, version in artifact.manifest["parents"].items():
        kind = name.split("/")[0]
        if kind in artifacts.KINDS:
            yield kind, str(version)


def with_ancestors(keys: Iterable[Key], stored: Stored) -> set[Key]:
    """Return `keys` and everything they were made from that still exists."""
    found: set[Key] = set()
    waiting = [key for key in keys if key in stored]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [parent for parent in parents_of(stored[key]) if parent in stored]
    return found


def in_use(settings: Settings, stored: Stored) -> set[Key]:
    """Return the artifacts in use now, without their ancestors."""
    from reclm.warehouse.sources import current_versions

    workspace = settings.paths
    used = {("served", version) for version in (*champions(settings), *_challenger(settings))}
    used |= {(kind, version) for kind in artifacts.KINDS for version in current_versions(workspace, kind)}
    return used | _language_models(settings, stored)


def champions(settings: Settings) -> list[str]:
    """Return the versions of the champion and of `retention.champions` earlier ones, newest first."""
    workspace = settings.paths
    current = [str(read_json(workspace.champion)["version"])] if workspace.champion.exists() else []
    decisions = [
        row
        for artifact in artifacts.all_of(workspace, "promotion")
        for row in pq.read_table(artifact.path / "decision.parquet", schema=PROMOTION_DECISION).to_pylist()
        if row["decision"] in CHAMPIONS and row["served_version"]
    ]
    decisions.sort(key=lambda row: row["decided_at"], reverse=True)
    line = dict.fromkeys([*current, *(str(row["served_version"]) for row in decisions)])
    return list(line)[: settings.retention.champions + len(current)]


def _challenger(settings: Settings) -> list[str]:
    pointer = settings.paths.challenger
    return [str(read_json(pointer)["version"])] if pointer.exists() else []


def _language_models(settings: Settings, stored: Stored) -> set[Key]:
    """Return of each kind the newest model and the one that the next run would use with these settings."""
    from reclm.llm.lineage import preferred
    from reclm.warehouse.reading import whole_fingerprint

    warehouse = whole_fingerprint(settings.paths) if settings.paths.current_build.exists() else ""
    used: set[Key] = set()
    for kind in LANGUAGE_MODELS:
        found = [artifact for (of_kind, _), artifact in stored.items() if of_kind == kind]
        if found:
            used |= {(kind, found[-1].version), (kind, preferred(settings, found, warehouse).version)}
    return used


def _by_rule(settings: Settings, stored: Stored, now: datetime) -> set[Key]:
    """Return the young artifacts, the newest of each kind, and all decisions."""
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
    of_model = ("model", "variant", "seed") if artifact.kind in ("backbone", "served") else ()
    return artifact.kind, *(str(parameters.get(name)) for name in of_model)


def _answers_in_use(kept: list[Artifact], rest: list[Artifact]) -> list[Artifact]:
    """Find profiles artifacts of `rest` that hold an answer from which kept profiles were made."""
    candidates = [artifact for artifact in rest if artifact.kind == "profiles" and _answers(artifact)]
    if not candidates:
        return []
    kept_ones = [artifact for artifact in kept if artifact.kind == "profiles"]
    wanted = {
        (version, prompt)
        for artifact in kept_ones
        for file in PROFILE_FILES.values()
        for version, prompt in _pairs(artifact.path / file, "engine_version", "prompt_hash")
        if prompt
    }
    return _holding(wanted, kept_ones, candidates, _answers)


def _answers(artifact: Artifact) -> set[Key]:
    return {
        pair
        for shard in artifact.path.glob("generations-*.parquet")
        for pair in _pairs(shard, "model_version", "prompt_hash")
    }


def _vectors_in_use(settings: Settings, kept: list[Artifact], rest: list[Artifact]) -> list[Artifact]:
    """Find embeddings artifacts of `rest` that hold the vector of a kept profile or of an item text."""
    from reclm.text.reader import embedding_name

    current = (a for a in kept if a.kind == "embeddings")
    encoders = {str(a.manifest["parameters"]["model"]) for a in current}
    with suppress(ModelError):  # the reader of item texts may be gone: then nothing new is made with it
        encoders.add(embedding_name(settings))
    found: list[Artifact] = []
    for encoder in sorted(encoders):
        candidates = [artifact for artifact in rest if _is_of(encoder, artifact)]
        if candidates:
            kept_ones = [artifact for artifact in kept if _is_of(encoder, artifact)]
            found += _holding(_texts(settings, kept), kept_ones, candidates, _hashes)
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
    """Return the hashes of all texts of kept profiles and of the items of the warehouse."""
    from reclm.text.encoder import text_hash
    from reclm.warehouse.reading import connect

    texts = {
        row[0]
        for artifact in kept
        if artifact.kind == "profiles"
        for file in PROFILE_FILES.values()
        for row in _pairs(artifact.path / file, "profile", "parse_status")
    }
    if settings.paths.warehouse.exists():
        with closing(connect(settings)) as connection:
            texts |= {row[0] for row in connection.execute("select full_text from dim_items").fetchall()}
    return {text_hash(text) for text in texts if text}


def _holding(
    wanted: set[T], kept_ones: Iterable[Artifact], candidates: Iterable[Artifact], held: Callable[[Artifact], set[T]]
) -> list[Artifact]:
    """Return the candidates (newest first) that hold something `wanted` that none before them holds."""
    missing = wanted.difference(*map(held, kept_ones))
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
