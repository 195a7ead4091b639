"""New items added to the current profiles: the way of minutes for a cold item.

The current `profiles` artifact and a warehouse that knows new items come in. Out goes an artifact that holds all the
current one holds, and at snapshot `final` a profile of every item it lacks, by the very model that wrote the others: no
model is trained, no user is asked about, and vectors of one artifact stay comparable.
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

from reclm.dataset import Snapshot
from reclm.errors import WorkspaceError
from reclm.generation import stage as engine
from reclm.generation import writer as language
from reclm.llm.engines.answers import GenerationRow
from reclm.profiles import grammar, quality
from reclm.profiles.snapshot_data import Catalogue, SnapshotData, load_catalogue, load_snapshot_data
from reclm.progress import say
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows, write_table
from reclm.storage.schemas import PROFILE_FILES, PROFILE_QUALITY, profile_schema
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import current_profiles

SNAPSHOT: Snapshot = "final"


def add_new_items(settings: Settings, fingerprint: str) -> Artifact:
    """The artifact with the new items, or the current one when it lacks none. Raises WorkspaceError."""
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
        standing = set(_items(current)["item_id"].to_pylist())
        new = [item for item in catalogue.item_ids if item not in standing]
        if not new:
            say(f"profiles {current.version} lack no item: used again")
            return current
        say(f"  {len(new):,} new items; all else stays as profiles {current.version} have it")
        writer = language.writer_of(settings, fingerprint, _model_of(workspace, current))
        teacher = language.teacher_of(settings, fingerprint, writer.model)
        parameters = {**writer.parameters, "new_items": artifacts.content_hash(new)}
        parents = {"warehouse": fingerprint, **writer.parents, "teacher": teacher.version, "profiles": current.version}
        version = artifacts.version_of("profiles", parameters, parents)
        with artifacts.writing(workspace, "profiles", parameters, parents, resumable=True) as draft:
            gathered = language.prompt_batch(settings, writer)
            asked = gathered.add("item", language.facts_of(connection, "item", SNAPSHOT, teacher), new)
            rows, metrics = language.ask(settings, writer, gathered, draft.path, full=False)
            knowledge = load_snapshot_data(connection, SNAPSHOT, catalogue)
            summary = _write(settings, current, _of_items(knowledge, new), asked, rows, draft.path, version)
            draft.metrics.update(metrics, trimmed=asked.trimmed, new_items=len(new), **summary)
    return artifacts.load(workspace, "profiles", version)


def _model_of(workspace: Workspace, current: Artifact) -> Artifact | None:
    """The model that wrote the current profiles; None for an endpoint's. Raises ArtifactError when it is gone."""
    parents = current.manifest["parents"]
    kinds = [kind for kind in language.COMMAND_OF_KIND if kind in parents]
    return artifacts.load(workspace, kinds[0], parents[kinds[0]]) if kinds else None


def _items(current: Artifact) -> pa.Table:
    table = pq.read_table(current.path / PROFILE_FILES["item"])
    return table.filter(pc.equal(table["snapshot"], SNAPSHOT))


def _of_items(knowledge: SnapshotData, item_ids: list[str]) -> SnapshotData:
    """`knowledge` about some items alone."""
    place = {item: row for row, item in enumerate(knowledge.catalogue.item_ids)}
    rows = [place[item] for item in item_ids]
    old = knowledge.catalogue
    catalogue = Catalogue(
        item_ids,
        [old.titles[row] for row in rows],
        [old.categories[row] for row in rows],
        [old.texts[row] for row in rows],
    )
    return replace(
        knowledge,
        catalogue=catalogue,
        histories=knowledge.histories[:, rows],
        item_neighbours=knowledge.item_neighbours[rows][:, rows],
        item_bands=np.asarray(knowledge.item_bands[rows]),
    )


def _write(
    settings: Settings,
    current: Artifact,
    knowledge: SnapshotData,
    asked: language.Asked,
    rows: dict[str, GenerationRow],
    folder: Path,
    version: str,
) -> dict[str, Any]:
    """The three files: the current ones under the new version, with the rows of the new items.

    What `quality.parquet` says of items at `final` is measured on the new ones; the rest is carried over.
    """
    dataset = str(settings.paths.require_dataset()["name"])
    truth = settings.paths.truth if settings.paths.truth.exists() else None
    profiles, _, told = engine.generated("item", knowledge, asked, rows)
    added = engine.table_of(profiles, knowledge, dataset, version, told)
    users, items = (
        _renamed(pq.read_table(current.path / PROFILE_FILES[kind]), profile_schema(kind), version)
        for kind in engine.KINDS
    )
    items = pa.concat_tables([items, added])
    order = pc.sort_indices(items, [("as_of", "ascending"), ("item_id", "ascending")])
    write_table(folder / PROFILE_FILES["user"], users)
    write_table(folder / PROFILE_FILES["item"], items.take(order))
    old = pq.read_table(current.path / "quality.parquet").to_pylist()
    kept = [row for row in old if (row["snapshot"], row["kind"]) != (SNAPSHOT, "item")]
    measured = [{**row, "version": version} for row in kept] + [
        {**row, "version": version} for row in quality.measure(profiles, knowledge, truth, settings.seed)
    ]
    write_rows(folder / "quality.parquet", measured, PROFILE_QUALITY)
    return {f"{SNAPSHOT}.items": engine.summary_of(profiles)}


def _renamed(table: pa.Table, schema: pa.Schema, version: str) -> pa.Table:
    """The rows under the artifact's version, in the columns of today's files: an older file has no phrase lists."""
    columns = {name: table[name] for name in table.column_names}
    columns["version"] = pa.repeat(pa.scalar(version, pa.string()), len(table))
    if "interests" not in columns:
        phrases = [grammar.phrases_of(text) for text in table["profile"].to_pylist()]
        columns["identity"], columns["interests"] = [one for one, _ in phrases], [one for _, one in phrases]
    return pa.table(columns, schema=schema)
