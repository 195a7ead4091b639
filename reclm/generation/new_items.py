"""Write profiles of new items with a language model and add them to the current ones.

In: the current profiles and a newer warehouse. Out: a `profiles` artifact, which holds everything that the current one
holds and, at snapshot `serve`, a profile of every item that the current one lacks, written by the same model. No model
is trained, no user's profile is written, and all vectors stay comparable.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS, Snapshot
from reclm.errors import WorkspaceError
from reclm.generation.tables import profile_table, profiles_from_answers, summary_of
from reclm.generation.writer import answer_batch, find_writer, load_facts, new_prompt_batch, teacher_for_prompts
from reclm.llm.engines.answers import GenerationRow
from reclm.llm.lineage import KIND_OF_MODEL
from reclm.llm.prompts.requests import EntityPrompts
from reclm.profiles import grammar, quality
from reclm.profiles.snapshot_data import Catalogue, SnapshotData, load_catalogue, load_snapshot_data
from reclm.progress import detail
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows, write_table
from reclm.storage.schemas import PROFILE_FILES, PROFILE_QUALITY, profile_schema
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import current_profiles

SNAPSHOT: Snapshot = "serve"


def write_new_profiles(settings: Settings, fingerprint: str) -> Artifact:
    """Write the profiles of new items; return the artifact with them, or the current one when it lacks no item.

    Raises WorkspaceError when there are no current profiles or another engine wrote them.
    """
    from reclm.warehouse.reading import connect

    workspace = settings.paths
    current = current_profiles(workspace)
    written_by = current.manifest["parameters"]["engine"]
    if written_by != settings.profiles.engine:
        raise WorkspaceError(
            f"the current profiles {current.version} were written by {written_by!r}, and profiles.engine is "
            f"{settings.profiles.engine!r}; run `reclm profile` for all"
        )
    with closing(connect(settings)) as connection:
        catalogue = load_catalogue(connection, settings.features.max_text_length)
        described = _described_items(current)
        new = [item for item in catalogue.item_ids if item not in described]
        if not new:
            detail(f"reusing profiles {current.version}: they lack no item")
            return current
        detail(f"{len(new):,} new items; all other profiles are kept from {current.version}")
        writer = find_writer(settings, fingerprint, _writing_model(workspace, current))
        teacher = teacher_for_prompts(settings, fingerprint, writer.model)
        parameters = {**writer.parameters, "new_items": artifacts.content_hash(new)}
        parents = {"warehouse": fingerprint, **writer.parents, "teacher": teacher.version, "profiles": current.version}
        version = artifacts.version_of("profiles", parameters, parents)
        with artifacts.writing(workspace, "profiles", parameters, parents, resumable=True) as draft:
            batch = new_prompt_batch(settings, writer)
            prompts = batch.add("item", load_facts(connection, "item", SNAPSHOT, teacher), new)
            answers, metrics = answer_batch(settings, writer, batch, draft.path, full=False)
            snapshot_data = _restricted_to(load_snapshot_data(connection, SNAPSHOT, catalogue), new)
            summary = _write(settings, current, snapshot_data, prompts, answers, draft.path, version)
            draft.metrics.update(metrics, trimmed=prompts.trimmed, new_items=len(new), **summary)
    return artifacts.load(workspace, "profiles", version)


def _writing_model(workspace: Workspace, current: Artifact) -> Artifact | None:
    """Return the model that wrote the current profiles, None for an endpoint's.

    Raises ArtifactError when it is missing.
    """
    parents = current.manifest["parents"]
    kinds = [kind for kind in KIND_OF_MODEL.values() if kind in parents]
    return artifacts.load(workspace, kinds[0], parents[kinds[0]]) if kinds else None


def _described_items(current: Artifact) -> set[str]:
    table = pq.read_table(current.path / PROFILE_FILES["item"])
    return set(table.filter(pc.equal(table["snapshot"], SNAPSHOT))["item_id"].to_pylist())


def _restricted_to(snapshot_data: SnapshotData, item_ids: list[str]) -> SnapshotData:
    """Return the snapshot data with only the items `item_ids`, in that order."""
    row_of = {item: row for row, item in enumerate(snapshot_data.catalogue.item_ids)}
    rows = [row_of[item] for item in item_ids]
    whole = snapshot_data.catalogue
    catalogue = Catalogue(
        item_ids,
        [whole.titles[row] for row in rows],
        [whole.categories[row] for row in rows],
        [whole.texts[row] for row in rows],
    )
    return replace(
        snapshot_data,
        catalogue=catalogue,
        histories=snapshot_data.histories[:, rows],
        item_neighbours=snapshot_data.item_neighbours[rows][:, rows],
        item_bands=np.asarray(snapshot_data.item_bands[rows]),
    )


def _write(
    settings: Settings,
    current: Artifact,
    snapshot_data: SnapshotData,
    prompts: EntityPrompts,
    answers: dict[str, GenerationRow],
    folder: Path,
    version: str,
) -> dict[str, Any]:
    """Write the three files: the rows of the current ones under the new version, and the rows of the new items.

    In `quality.parquet`, the rows about items at `serve` are measured on the new items; the others are copied.
    """
    dataset = str(settings.paths.require_dataset()["name"])
    truth = settings.paths.truth if settings.paths.truth.exists() else None
    profiles, provenance = profiles_from_answers("item", snapshot_data, prompts, answers)
    added = profile_table(profiles, snapshot_data, dataset, version, provenance)
    users, items = (
        _with_version(pq.read_table(current.path / PROFILE_FILES[kind]), profile_schema(kind), version)
        for kind in ENTITY_KINDS
    )
    items = pa.concat_tables([items, added])
    order = pc.sort_indices(items, [("as_of", "ascending"), ("item_id", "ascending")])
    write_table(folder / PROFILE_FILES["user"], users)
    write_table(folder / PROFILE_FILES["item"], items.take(order))
    old = pq.read_table(current.path / "quality.parquet").to_pylist()
    copied = [row for row in old if (row["snapshot"], row["kind"]) != (SNAPSHOT, "item")]
    rows = [
        {**row, "version": version}
        for row in [*copied, *quality.measure(profiles, snapshot_data, truth, settings.seed)]
    ]
    write_rows(folder / "quality.parquet", rows, PROFILE_QUALITY)
    return {f"{SNAPSHOT}.items": summary_of(profiles)}


def _with_version(table: pa.Table, schema: pa.Schema, version: str) -> pa.Table:
    """Return the rows under another version, in the columns of `schema`; older files have no phrase lists."""
    columns = {name: table[name] for name in table.column_names}
    columns["version"] = pa.repeat(pa.scalar(version, pa.string()), len(table))
    if "interests" not in columns:
        phrases = [grammar.phrases_of(text) for text in table["profile"].to_pylist()]
        columns["identity"], columns["interests"] = [one for one, _ in phrases], [one for _, one in phrases]
    return pa.table(columns, schema=schema)
