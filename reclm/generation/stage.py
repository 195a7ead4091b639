"""Write the profiles of all users and items (stage `profile`).

In: the published warehouse. Out: one `profiles` artifact. The artifact holds `user_profiles.parquet`,
`item_profiles.parquet` and `quality.parquet`; where a language model wrote them (`reclm.generation.writer`), also its
new answers, `generations-*.parquet`. The version is the hash of the engine's settings, the seed, the model and the
warehouse's fingerprint, so an artifact whose inputs have not changed is reused. Which earlier profiles a language model
need not write again (`reclm.generation.kept`) is no part of the version; the metric `kept_from` names their artifacts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclm.dataset import ENTITY_KINDS, SNAPSHOTS
from reclm.generation.kept import KeptProfiles, add_kept, load_kept
from reclm.generation.new_items import keyword_parameters, keyword_provenance, own_texts, write_new_profiles
from reclm.generation.tables import ProfileTables, profiles_from_answers, profiles_of
from reclm.generation.writer import (
    Writer,
    answer_batch,
    find_writer,
    load_facts,
    new_prompt_batch,
    teacher_for_prompts,
)
from reclm.llm.prompts.requests import own_hash
from reclm.profiles import keywords
from reclm.profiles.snapshot_data import load_catalogue, load_snapshot_data
from reclm.profiles.terms import item_terms
from reclm.progress import detail, say
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.warehouse.reading import features_fingerprint, snapshot_as_of, whole_fingerprint

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.llm.engines.answers import GenerationRow
    from reclm.llm.teacher.stage import Teacher

Write = Callable[["DuckDBPyConnection", Path, str], dict[str, Any]]


def write_profiles(
    settings: Settings,
    *,
    full: bool = False,
    items: Literal["all", "new"] = "all",
    model: Artifact | None = None,
    current: bool = True,
) -> Artifact:
    """Write the profiles of all users and items at each snapshot, or reuse an artifact with the same inputs.

    `full` sends every prompt to the language model again. `items="new"` adds, at snapshot `serve`, profiles of items
    that the current ones lack or whose text has changed, by the model that wrote those. `model` replaces the newest
    model. `current` makes the profiles the current ones; others keep nothing of the current ones, so that they can be
    compared. Returns the newest artifact of the current ones. Raises WorkspaceError when the warehouse, the model or
    the current profiles are missing.
    """
    from reclm.warehouse.sources import current_profiles, current_versions, set_current_artifacts

    workspace = settings.paths
    in_use = current_versions(workspace, "profiles")
    profiles = current_profiles(workspace) if in_use or items == "new" else []
    if items == "all":
        by_keywords = settings.profiles.engine == keywords.ENGINE
        whole = _write_all(settings, full=full and not by_keywords, model=model, keep=current)
        if not current:
            return whole
        if not profiles or profiles[0].version != whole.version or full:
            profiles = [whole]
    if items == "new" or whole.manifest["parents"]["warehouse"] != features_fingerprint(workspace):
        # of items that came since the build of all tables, the artifact of everybody may know nothing
        profiles = [*profiles, *write_new_profiles(settings, profiles)]
    if in_use != {artifact.version for artifact in profiles}:
        set_current_artifacts(workspace, "profiles", [artifact.version for artifact in profiles])
    return profiles[-1]


def _write_all(settings: Settings, *, full: bool, model: Artifact | None, keep: bool) -> Artifact:
    from reclm.warehouse.reading import connect

    workspace, whole = settings.paths, whole_fingerprint(settings.paths)
    parents: dict[str, str] = {}
    write: Write
    if settings.profiles.engine == keywords.ENGINE:
        parameters = keyword_parameters(settings)

        def write(connection: DuckDBPyConnection, folder: Path, version: str) -> dict[str, Any]:
            return write_by_keywords(connection, settings, folder, version)

    else:
        writer = find_writer(settings, whole, model)
        teacher = teacher_for_prompts(settings, whole, writer.model)
        parameters, parents = writer.parameters, {**writer.parents, "teacher": teacher.version}

        def write(connection: DuckDBPyConnection, folder: Path, version: str) -> dict[str, Any]:
            earlier = load_kept(settings, writer) if keep and not full else KeptProfiles()
            return write_by_language_model(connection, settings, folder, version, writer, teacher, earlier, full=full)

    for warehouse in dict.fromkeys((whole, features_fingerprint(workspace))):
        parents = {**parents, "warehouse": warehouse}
        version = artifacts.version_of("profiles", parameters, parents)
        artifact = artifacts.find(workspace, "profiles", version)
        if artifact is not None and not full:
            detail(f"reusing profiles {version}: nothing they depend on has changed")
            return artifact
    with (
        closing(connect(settings)) as connection,
        artifacts.writing(workspace, "profiles", parameters, parents, resumable=True) as draft,
    ):
        draft.metrics.update(write(connection, draft.path, version))
    return artifacts.load(workspace, "profiles", version)


def write_by_keywords(connection: DuckDBPyConnection, settings: Settings, folder: Path, version: str) -> dict[str, Any]:
    """Write the three files into `folder` with the keyword engine; return the metrics for the manifest."""
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    terms = item_terms(catalogue)
    if not terms.phrases:
        say("the items have no texts: profiles are left empty and every row is flagged no_text")
    own = own_texts(catalogue)
    tables = ProfileTables(settings, version)
    for snapshot in SNAPSHOTS:
        snapshot_data = load_snapshot_data(connection, snapshot, catalogue)
        started = time.monotonic()
        users, items = keywords.write_profiles(snapshot_data, terms, settings.profiles)
        tables.metrics[f"{snapshot}.seconds"] = round(time.monotonic() - started, 3)
        provenance = keyword_provenance(settings, snapshot_data)
        tables.add(profiles_of("user", snapshot_data, users.texts, users.flags), snapshot_data, provenance)
        tables.add(
            profiles_of("item", snapshot_data, items.texts, items.flags), snapshot_data, provenance | {"own_hash": own}
        )
    return tables.write(folder)


def write_by_language_model(
    connection: DuckDBPyConnection,
    settings: Settings,
    folder: Path,
    version: str,
    writer: Writer,
    teacher: Teacher,
    earlier: KeptProfiles,
    *,
    full: bool = False,
) -> dict[str, Any]:
    """Write the three files and the new answers into `folder` with a language model; return the manifest's metrics.

    Profiles of `earlier` are kept where they still hold.
    """
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    batch = new_prompt_batch(settings, writer)
    kept_answers: dict[str, GenerationRow] = {}
    kept_from: list[str] = []
    prompts = {}
    for snapshot in SNAPSHOTS:
        as_of = snapshot_as_of(settings, snapshot)
        for kind in ENTITY_KINDS:
            facts = load_facts(connection, kind, snapshot, teacher)
            own = {entity_id: own_hash(one, batch.shape) for entity_id, one in facts.items()}
            kept = earlier.unchanged(kind, snapshot, as_of, own)
            prompts[snapshot, kind] = batch.add(kind, facts, own, [one for one in facts if one not in kept])
            add_kept(kind, kept, prompts[snapshot, kind], kept_answers)
            kept_from += [row["version"] for row in kept.values()]
    answers, metrics = answer_batch(settings, writer, batch, folder, full=full)
    answers = kept_answers | answers
    tables = ProfileTables(settings, version)
    for snapshot in SNAPSHOTS:
        snapshot_data = load_snapshot_data(connection, snapshot, catalogue)
        for kind in ENTITY_KINDS:
            profiles, provenance = profiles_from_answers(kind, snapshot_data, prompts[snapshot, kind], answers)
            tables.add(profiles, snapshot_data, provenance)
    trimmed = sum(added.trimmed for added in prompts.values())
    kept_of = {"kept": len(kept_from), "kept_from": sorted(set(kept_from))}
    return {**metrics, **kept_of, "trimmed": trimmed, **tables.write(folder)}
