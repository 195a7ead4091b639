"""Make the files of a `profiles` artifact.

In: profiles and how they were made. Out: tables and their summaries. `user_profiles.parquet` and
`item_profiles.parquet` hold one row per snapshot and id, `quality.parquet` one row per snapshot, kind, cold-start
severity and metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from reclm.dataset import EntityKind
from reclm.profiles import grammar, quality
from reclm.profiles.snapshot_data import SnapshotData
from reclm.progress import detail
from reclm.storage.files import write_rows, write_table
from reclm.storage.schemas import PROFILE_FILES, PROFILE_QUALITY, profile_schema

if TYPE_CHECKING:
    from reclm.llm.engines.answers import GenerationRow
    from reclm.llm.prompts.requests import EntityPrompts
    from reclm.settings.tree import Settings


def profiles_of(
    kind: EntityKind, snapshot_data: SnapshotData, texts: Sequence[str], flags: Sequence[str]
) -> quality.Profiles:
    """Return the profiles of all users or items of a snapshot; `texts` and `flags` are in the snapshot's order."""
    if kind == "user":
        return quality.Profiles(kind, snapshot_data.user_ids, texts, flags, snapshot_data.user_bands)
    return quality.Profiles(kind, snapshot_data.catalogue.item_ids, texts, flags, snapshot_data.item_bands)


def profiles_from_answers(
    kind: EntityKind,
    snapshot_data: SnapshotData,
    prompts: EntityPrompts,
    answers: Mapping[str, GenerationRow],
) -> tuple[quality.Profiles, dict[str, Any]]:
    """Return the profiles that a language model answered, and the values of the columns that describe the answers."""
    ids = snapshot_data.user_ids if kind == "user" else snapshot_data.catalogue.item_ids
    rows = [answers[prompts.hashes[entity_id]] for entity_id in ids]
    flags = [prompts.flags[entity_id] for entity_id in ids]
    provenance = {
        "engine": [row.engine for row in rows],
        "engine_version": [row.model_version for row in rows],
        "prompt_hash": [row.prompt_hash for row in rows],
        "own_hash": [prompts.own[entity_id] for entity_id in ids],
        "written_as_of": [prompts.written.get(entity_id, snapshot_data.as_of) for entity_id in ids],
        "seed": [row.seed for row in rows],
        "tokens": [row.tokens for row in rows],
        "latency_ms": [row.latency_ms for row in rows],
    }
    return profiles_of(kind, snapshot_data, [row.text for row in rows], flags), provenance


class ProfileTables:
    """Collects the tables of one artifact, measures their quality, and writes its three files."""

    def __init__(self, settings: Settings, version: str) -> None:
        workspace = settings.paths
        self.version, self.seed = version, settings.seed
        self.dataset = str(workspace.require_dataset()["name"])
        self.truth = workspace.truth if workspace.truth.exists() else None
        self.metrics: dict[str, Any] = {}
        self._tables: dict[EntityKind, list[pa.Table]] = {"user": [], "item": []}
        self._quality: list[dict[str, Any]] = []

    def add(self, profiles: quality.Profiles, snapshot_data: SnapshotData, provenance: Mapping[str, Any]) -> None:
        """Add the profiles of one kind and snapshot.

        `provenance` gives the columns that say how they were made: a list each, or one value for all rows.
        """
        self._tables[profiles.kind].append(
            profile_table(profiles, snapshot_data, self.dataset, self.version, provenance)
        )
        self._quality += quality.measure(profiles, snapshot_data, self.truth, self.seed)
        summary = summary_of(profiles)
        self.metrics[f"{snapshot_data.snapshot}.{profiles.kind}s"] = summary
        counts = ", ".join(f"{count:,} {what}" for what, count in summary.items())
        detail(f"{snapshot_data.snapshot} {profiles.kind} profiles: {counts}")

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the three files into `folder`; return the metrics for the manifest."""
        for kind, parts in self._tables.items():
            write_table(folder / PROFILE_FILES[kind], pa.concat_tables([profile_schema(kind).empty_table(), *parts]))
        write_rows(
            folder / "quality.parquet", [{"version": self.version, **row} for row in self._quality], PROFILE_QUALITY
        )
        return self.metrics


def profile_table(
    profiles: quality.Profiles,
    snapshot_data: SnapshotData,
    dataset: str,
    version: str,
    provenance: Mapping[str, Any],
) -> pa.Table:
    """Return the rows of one kind and snapshot, sorted by id."""
    order = sorted(range(len(profiles.ids)), key=profiles.ids.__getitem__)
    statuses = {text: grammar.parse(text).status for text in set(profiles.texts)}
    phrases = {text: grammar.phrases_of(text) for text in statuses}
    columns = {
        **provenance,
        "dataset": dataset,
        "snapshot": snapshot_data.snapshot,
        "as_of": snapshot_data.as_of,
        f"{profiles.kind}_id": profiles.ids,
        "profile": profiles.texts,
        "identity": [phrases[text][0] for text in profiles.texts],
        "interests": [phrases[text][1] for text in profiles.texts],
        "parse_status": [statuses[text] for text in profiles.texts],
        "flag": profiles.flags,
        "version": version,
    }

    def column(value: Any, kind: pa.DataType) -> pa.Array:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return pa.array([value[row] for row in order], kind)
        return pa.repeat(pa.scalar(value, kind), len(order))

    schema = profile_schema(profiles.kind)
    return pa.Table.from_arrays([column(columns.get(field.name), field.type) for field in schema], schema=schema)


def summary_of(profiles: quality.Profiles) -> dict[str, int]:
    """Count the rows, the distinct texts, the rows with each flag, and the profiles that break the grammar."""
    counts = Counter(flag for flag in profiles.flags if flag)
    malformed = sum(
        phrases is None and written
        for phrases, written in zip(profiles.interests, profiles.written.tolist(), strict=True)
    )
    faults = {**dict(sorted(counts.items())), **({"malformed": malformed} if malformed else {})}
    return {"profiles": len(profiles.ids), "distinct": len(set(profiles.texts)), **faults}
