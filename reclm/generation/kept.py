"""Keep profiles whose prompt has not changed in what it says of the user or item itself.

In: the current profiles. Out: those that are written again only when their time has come. A prompt also shows
neighbours. They are found anew by every build, and most are others each day, also where nothing is new about a user. A
profile is kept while the rest of its prompt is the same, for `profiles.keep_days` of the data's time. Artifacts that
profiles were kept from are no parents of the new one: else no two runs would have the same version, and no artifact of
an earlier day could be removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS, EntityKind, Snapshot
from reclm.llm.engines.answers import GenerationRow
from reclm.llm.prompts.requests import EntityPrompts
from reclm.profiles import grammar
from reclm.storage import artifacts
from reclm.storage.schemas import PROFILE_FILES, profile_schema
from reclm.warehouse.sources import current_profiles

if TYPE_CHECKING:
    from reclm.generation.writer import Writer
    from reclm.settings.tree import Settings


@dataclass
class KeptProfiles:
    """Profiles of the current artifacts by the same model: `rows[kind, snapshot]` is {id: row}."""

    keep: timedelta = timedelta(0)
    rows: dict[tuple[EntityKind, str], dict[str, dict[str, Any]]] = field(default_factory=dict)

    def unchanged(
        self, kind: EntityKind, snapshot: Snapshot, as_of: datetime, own: Mapping[str, str]
    ) -> dict[str, dict[str, Any]]:
        """Return {id: row} of the profiles to keep at `as_of`; `own` are the hashes of what prompts say now.

        A profile that was written for a later moment may say more than is known, and is never kept.
        """
        return {
            entity_id: row
            for entity_id, row in self.rows.get((kind, snapshot), {}).items()
            if own.get(entity_id) == row["own_hash"]
            and row["written_as_of"] <= as_of < row["written_as_of"] + self.keep
        }


def load_kept(settings: Settings, writer: Writer) -> KeptProfiles:
    """Load the current profiles that `writer` would write with the same parameters; malformed ones are left out."""
    kept = KeptProfiles(timedelta(days=settings.profiles.keep_days))
    if not kept.keep or not artifacts.all_of(settings.paths, "profiles"):
        return kept
    for artifact in current_profiles(settings.paths):
        parameters = {k: v for k, v in artifact.manifest["parameters"].items() if k != "added_items"}
        if parameters != writer.parameters:
            continue
        for kind in ENTITY_KINDS:
            file = PROFILE_FILES[kind]
            if "own_hash" not in pq.read_schema(artifact.path / file).names:
                continue  # an older release wrote it
            for row in pq.read_table(artifact.path / file, schema=profile_schema(kind)).to_pylist():
                if row["parse_status"] == grammar.OK and row["own_hash"] and row["written_as_of"]:
                    kept.rows.setdefault((kind, row["snapshot"]), {})[row[f"{kind}_id"]] = row
    return kept


def add_kept(
    kind: EntityKind, rows: Mapping[str, Mapping[str, Any]], prompts: EntityPrompts, answers: dict[str, GenerationRow]
) -> None:
    """Add kept profiles to the prompts of a snapshot and to the answers, as if they had been answered now."""
    for entity_id, row in rows.items():
        prompts.hashes[entity_id], prompts.own[entity_id] = row["prompt_hash"], row["own_hash"]
        prompts.flags[entity_id], prompts.written[entity_id] = row["flag"], row["written_as_of"]
        answers[row["prompt_hash"]] = GenerationRow(
            prompt_hash=row["prompt_hash"],
            kind=kind,
            text=row["profile"],
            tokens=row["tokens"],
            latency_ms=row["latency_ms"],
            parse_status=row["parse_status"],
            attempts=1,
            engine=row["engine"],
            engine_version="",
            model_version=row["engine_version"],
            seed=row["seed"],
        )
