"""Write the profiles of new items and add them to the current ones.

In: the current profiles and a newer warehouse. Out: a `profiles` artifact that holds, at snapshot `serve`, a profile of
every item that the current ones lack, or whose text has changed, and nothing else; it names the one before it as its
parent. The same engine and model write them. No model is trained, no user's profile is written, and all vectors stay
comparable. The next artifact of everybody takes the place of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from reclm.dataset import Snapshot
from reclm.errors import WorkspaceError
from reclm.generation.tables import ProfileTables, profiles_from_answers, profiles_of
from reclm.generation.writer import (
    answer_batch,
    find_writer,
    load_facts,
    new_prompt_batch,
    teacher_for_prompts,
)
from reclm.llm.lineage import KIND_OF_MODEL
from reclm.llm.prompts.requests import own_hash
from reclm.profiles import keywords
from reclm.profiles.snapshot_data import Catalogue, SnapshotData, load_catalogue, load_snapshot_data
from reclm.profiles.terms import item_terms
from reclm.progress import detail
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, content_hash
from reclm.storage.schemas import PROFILE_FILES
from reclm.storage.workspace import Workspace
from reclm.warehouse.reading import features_fingerprint, whole_fingerprint

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SNAPSHOT: Snapshot = "serve"


def write_new_profiles(settings: Settings, current: Sequence[Artifact]) -> list[Artifact]:
    """Write the profiles of items that `current` lacks; return the artifact with them, none when no item is lacking.

    Raises WorkspaceError when another engine wrote the current profiles.
    """
    from reclm.warehouse.reading import connect

    written_by = current[0].manifest["parameters"]["engine"]
    if written_by != settings.profiles.engine:
        raise WorkspaceError(
            f"the current profiles {current[0].version} were written by {written_by!r}, and profiles.engine is "
            f"{settings.profiles.engine!r}; run `reclm profile` for all"
        )
    with closing(connect(settings)) as connection:
        catalogue = load_catalogue(connection, settings.features.max_text_length)
        if written_by == keywords.ENGINE:
            return _by_keywords(settings, connection, current, catalogue)
        return _by_language_model(settings, connection, current, catalogue)


def keyword_parameters(settings: Settings) -> dict[str, Any]:
    """Return what the keyword engine's profiles depend on besides the warehouse."""
    return {
        **settings.profiles.model_dump(),
        "engine_version": keywords.ENGINE_VERSION,
        "max_text_length": settings.features.max_text_length,
        "seed": settings.seed,
    }


def keyword_provenance(settings: Settings, snapshot_data: SnapshotData) -> dict[str, Any]:
    """Return the columns that say how the keyword engine wrote the profiles of a snapshot."""
    return {
        "engine": keywords.ENGINE,
        "engine_version": keywords.ENGINE_VERSION,
        "seed": settings.seed,
        "tokens": 0,
        "written_as_of": snapshot_data.as_of,
    }


def own_texts(catalogue: Catalogue) -> list[str]:
    """Return a hash of each item's title, categories and text."""
    return [content_hash(about) for about in zip(catalogue.titles, catalogue.categories, catalogue.texts, strict=True)]


def _by_keywords(
    settings: Settings, connection: DuckDBPyConnection, current: Sequence[Artifact], catalogue: Catalogue
) -> list[Artifact]:
    own = dict(zip(catalogue.item_ids, own_texts(catalogue), strict=True))
    wanted = _lacking(connection, current, own)
    if not wanted:
        return []
    parameters = keyword_parameters(settings) | {"added_items": content_hash([(item, own[item]) for item in wanted])}
    parents = {"warehouse": features_fingerprint(settings.paths), "profiles": current[-1].version}
    version = artifacts.version_of("profiles", parameters, parents)
    with artifacts.writing(settings.paths, "profiles", parameters, parents, resumable=True) as draft:
        data = load_snapshot_data(connection, SNAPSHOT, catalogue)
        mask = np.isin(np.array(catalogue.item_ids, dtype=object), wanted)
        written = keywords.write_item_profiles(data, item_terms(catalogue), settings.profiles, mask)
        ids = [item for item, is_wanted in zip(catalogue.item_ids, mask.tolist(), strict=True) if is_wanted]
        data = _restricted_to(data, ids)
        tables = ProfileTables(settings, version)
        provenance = keyword_provenance(settings, data) | {"own_hash": [own[item] for item in ids]}
        tables.add(profiles_of("item", data, written.texts, written.flags), data, provenance)
        draft.metrics.update(new_items=len(ids), **tables.write(draft.path))
    return [artifacts.load(settings.paths, "profiles", version)]


def _by_language_model(
    settings: Settings, connection: DuckDBPyConnection, current: Sequence[Artifact], catalogue: Catalogue
) -> list[Artifact]:
    warehouse = whole_fingerprint(settings.paths)
    writer = find_writer(settings, warehouse, _writing_model(settings.paths, current[0]))
    teacher = teacher_for_prompts(settings, warehouse, writer.model)
    batch = new_prompt_batch(settings, writer)
    facts = load_facts(connection, "item", SNAPSHOT, teacher)
    own = {item: own_hash(about, batch.shape) for item, about in facts.items()}
    wanted = _lacking(connection, current, own)
    if not wanted:
        return []
    parameters = writer.parameters | {"added_items": content_hash([(item, own[item]) for item in wanted])}
    parents = {"warehouse": features_fingerprint(settings.paths), **writer.parents, "teacher": teacher.version}
    parents["profiles"] = current[-1].version
    version = artifacts.version_of("profiles", parameters, parents)
    with artifacts.writing(settings.paths, "profiles", parameters, parents, resumable=True) as draft:
        prompts = batch.add("item", facts, own, wanted)
        answers, metrics = answer_batch(settings, writer, batch, draft.path, full=False)
        data = _restricted_to(load_snapshot_data(connection, SNAPSHOT, catalogue), wanted)
        profiles, provenance = profiles_from_answers("item", data, prompts, answers)
        tables = ProfileTables(settings, version)
        tables.add(profiles, data, provenance)
        draft.metrics.update(metrics, trimmed=prompts.trimmed, new_items=len(wanted), **tables.write(draft.path))
    return [artifacts.load(settings.paths, "profiles", version)]


def _lacking(connection: DuckDBPyConnection, current: Iterable[Artifact], own: Mapping[str, str]) -> list[str]:
    """Return the items without a profile, and those without interactions whose own text is another one than it was.

    The profile of an item with interactions waits for the next profiles of everybody.
    """
    described: dict[str, str | None] = {}
    for artifact in current:
        file = artifact.path / PROFILE_FILES["item"]
        names = [name for name in ("item_id", "own_hash") if name in pq.read_schema(file).names]
        rows = pq.read_table(file, columns=names, filters=[("snapshot", "=", SNAPSHOT)]).to_pylist()
        described.update((row["item_id"], row.get("own_hash")) for row in rows)
    status = "select item_id from fct_item_status where snapshot = $1 and coalesce(coldness, '0') = '0'"
    cold = {row[0] for row in connection.execute(status, [SNAPSHOT]).fetchall()}
    lacking = [item for item in own if item not in described]
    changed = [item for item in own if described.get(item) and described[item] != own[item] and item in cold]
    if lacking or changed:
        detail(f"{len(lacking):,} new items and {len(changed):,} with a new text; all other profiles are kept")
    return [*lacking, *changed]


def _writing_model(workspace: Workspace, current: Artifact) -> Artifact | None:
    """Return the model that wrote the current profiles, None for an endpoint's.

    Raises ArtifactError when it is missing.
    """
    parents = current.manifest["parents"]
    kinds = [kind for kind in KIND_OF_MODEL.values() if kind in parents]
    return artifacts.load(workspace, kinds[0], parents[kinds[0]]) if kinds else None


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
