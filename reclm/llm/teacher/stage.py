"""Whoever writes the profiles that the language model learns from: a warehouse comes in, a `teacher` artifact goes out.

`extractive` writes of everybody well known, at both snapshots, from full histories and audiences. `openai` asks an
OpenAI-compatible endpoint, as RecLM asks ChatGPT (arXiv 2412.19302, section 3.2): of users first, then of items with the
interests of their audiences, at snapshot `select`, which is all that the model learns from. `table` takes profiles written
elsewhere. Of an item a teacher tells what its audience tells, so what is learned from it is who an item is for.
How many of its profiles parse, before and after they were brought into the form of the grammar, stands in the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import SNAPSHOTS
from reclm.errors import ModelError
from reclm.llm.engines.openai import served_model
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.training_cutoff import CUTOFF_KEY, training_cutoff
from reclm.llm.models.versions import find_reusable
from reclm.llm.prompts.messages import Kind
from reclm.llm.teacher import endpoint as teacher_endpoint
from reclm.llm.teacher import table as teacher_table
from reclm.llm.teacher.entries import KINDS, TeacherProfile, sample_ids
from reclm.llm.teacher.parameters import teacher_parameters
from reclm.profiles import grammar
from reclm.profiles import keywords as extractive
from reclm.profiles.snapshot_data import SnapshotData, load_catalogue, load_snapshot_data
from reclm.profiles.terms import Terms, item_terms
from reclm.progress import say
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows
from reclm.storage.schemas import PROFILE_FILES, profile_schema
from reclm.warehouse.reading import features_fingerprint

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

KIND = "teacher"
Written = tuple[list[TeacherProfile], dict[str, Any]]


@dataclass(frozen=True)
class Teacher:
    """What a teacher wrote: `profiles[kind, snapshot]` maps ids to texts; who is not in it was not written of."""

    profiles: dict[tuple[Kind, str], dict[str, str]]
    version: str = ""

    def of(self, kind: Kind, entity_id: str, snapshot: str = "select") -> str | None:
        return self.profiles.get((kind, snapshot), {}).get(entity_id)

    def interests(self, item_id: str, snapshot: str = "select") -> str:
        """The interests of an item's audience, by comma; '' when nobody told. What was known at `select` is still known
        at `final`, so a teacher that wrote of `select` alone is asked there."""
        for moment in dict.fromkeys((snapshot, "select")):
            profile = grammar.parse(self.of("item", item_id, moment)).profile
            if profile is not None:
                return ", ".join(profile.interests)
        return ""


def load_teacher(settings: Settings, artifact: Artifact) -> Teacher:
    """The profiles of a teacher artifact; those it has nothing to say about are left out."""
    profiles: dict[tuple[Kind, str], dict[str, str]] = {(kind, moment): {} for kind in KINDS for moment in SNAPSHOTS}
    for kind in KINDS:
        table = pq.read_table(artifact.path / PROFILE_FILES[kind])
        for row in table.select([f"{kind}_id", "snapshot", "profile", "flag"]).to_pylist():
            if row["profile"] and not row["flag"]:
                profiles[kind, row["snapshot"]][row[f"{kind}_id"]] = row["profile"]
    return Teacher(profiles, artifact.version)


def write_teacher(settings: Settings, *, dry_run: bool = False) -> Artifact | None:
    """The teacher's profiles, written or found standing; None after a `dry_run`, which only says what `openai` would cost.

    Raises InputError when a table cannot be read, ModelError when an endpoint fails for good, WorkspaceError when there is
    no warehouse.
    """
    from reclm.warehouse.reading import connect

    workspace, engine = settings.paths, settings.teacher.engine
    if dry_run:
        if engine == "openai":
            with closing(connect(settings)) as connection:
                teacher_endpoint.report_estimate(settings, connection, "would ask")
        else:
            say(f"teacher.engine = {engine!r} costs nothing")
        return None
    parents = {"warehouse": features_fingerprint(workspace)}
    if engine == "openai" and not settings.openai.model:
        alike = _alike(settings, parents["warehouse"])
        try:
            model = served_model(settings, retries=0 if alike else None)
        except ModelError as error:
            if not alike:
                raise
            say(f"{error}")
            say(f"teacher {alike[-1].version} stands already: used again")
            return alike[-1]
        settings = settings.model_copy(update={"openai": settings.openai.model_copy(update={"model": model})})
    parameters = teacher_parameters(settings)
    version = artifacts.version_of(KIND, parameters, parents)
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    with write_in_main_process(workspace, KIND, parameters, parents, resumable=True) as draft:
        if is_main_process():
            with closing(connect(settings)) as connection:
                entries, metrics = _ENGINES[engine](settings, connection, draft.path)
                draft.metrics.update(metrics, **_account(entries), **{CUTOFF_KEY: training_cutoff(connection)})
            _write_entries(settings, entries, draft.path, version)
            say(f"  teacher {version} ({engine}): {json.dumps(draft.metrics)}")
    return artifacts.load(workspace, KIND, version)


def preview_teacher(settings: Settings) -> Teacher | None:
    """Return what the teacher of the current warehouse writes, without writing an artifact or asking an endpoint.

    The finished artifact is read if there is one. Otherwise the keyword teacher and a table are computed in memory; for an
    endpoint the newest teacher of an earlier warehouse stands in, and without one the result is None.
    """
    from reclm.warehouse.reading import connect

    workspace, engine = settings.paths, settings.teacher.engine
    warehouse = features_fingerprint(workspace)
    if engine == "openai":
        wanted = {**teacher_parameters(settings), "model": ""}  # whichever model answered: it is only counted how much
        found = [
            one for one in artifacts.all_of(workspace, KIND) if {**one.manifest["parameters"], "model": ""} == wanted
        ]
        found.sort(key=lambda one: one.manifest["parents"].get("warehouse") == warehouse)
        return load_teacher(settings, found[-1]) if found else None
    version = artifacts.version_of(KIND, teacher_parameters(settings), {"warehouse": warehouse})
    if finished := artifacts.find(workspace, KIND, version):
        return load_teacher(settings, finished)
    with closing(connect(settings)) as connection:
        entries, _ = _ENGINES[engine](settings, connection, workspace.artifacts)
    profiles: dict[tuple[Kind, str], dict[str, str]] = {(kind, moment): {} for kind in KINDS for moment in SNAPSHOTS}
    for entry in entries:
        if entry.profile and not entry.flag:
            profiles[entry.kind, entry.snapshot][entry.entity_id] = entry.profile
    return Teacher(profiles)


def _alike(settings: Settings, warehouse: str) -> list[Artifact]:
    """The teachers of a warehouse that differ from the settings' in the endpoint's model alone, oldest first."""
    wanted = {**teacher_parameters(settings), "model": ""}
    found = artifacts.all_of(settings.paths, KIND)
    return [
        one
        for one in found
        if one.manifest["parents"] == {"warehouse": warehouse} and {**one.manifest["parameters"], "model": ""} == wanted
    ]


def extractive_teacher(
    knowledge: SnapshotData, terms: Terms, settings: Settings
) -> dict[Kind, tuple[Sequence[str], extractive.WrittenProfiles]]:
    """{kind: (ids, texts and flags row for row)}: what the keyword teacher says at one snapshot."""
    users, items = extractive.write_teacher_profiles(knowledge, terms, settings.profiles)
    return {"user": (knowledge.user_ids, users), "item": (knowledge.catalogue.item_ids, items)}


def _write_extractive(settings: Settings, connection: DuckDBPyConnection, folder: Path) -> Written:
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    terms = item_terms(catalogue)
    entries = []
    for snapshot in SNAPSHOTS:
        knowledge = load_snapshot_data(connection, snapshot, catalogue)
        for kind, (ids, written) in extractive_teacher(knowledge, terms, settings).items():
            chosen = sample_ids(settings, kind, [i for i, flag in zip(ids, written.flags, strict=True) if not flag])
            entries += [
                TeacherProfile(kind, snapshot, knowledge.as_of, entity, text, flag)
                for entity, text, flag in zip(ids, written.texts, written.flags, strict=True)
                if flag or entity in chosen
            ]
    return entries, {}


_ENGINES: dict[str, Callable[[Settings, DuckDBPyConnection, Path], Written]] = {
    "extractive": _write_extractive,
    "table": teacher_table.write_entries,
    "openai": teacher_endpoint.write_entries,
}


def _write_entries(settings: Settings, entries: Sequence[TeacherProfile], folder: Path, version: str) -> None:
    """The two files of the artifact, in order of snapshot and id."""
    dataset = str(settings.paths.require_dataset()["name"])
    engine = settings.teacher.engine
    made_by = extractive.ENGINE_VERSION if engine == extractive.ENGINE else ""
    for kind in KINDS:
        chosen = [entry for entry in entries if entry.kind == kind]
        chosen.sort(key=lambda entry: (entry.as_of, entry.snapshot, entry.entity_id))
        rows = [
            {
                "dataset": dataset,
                "snapshot": entry.snapshot,
                "as_of": entry.as_of,
                f"{kind}_id": entry.entity_id,
                "profile": entry.profile,
                **dict(zip(("identity", "interests"), grammar.phrases_of(entry.profile), strict=True)),
                "engine": engine,
                "engine_version": entry.row.model_version if entry.row else made_by,
                "prompt_hash": entry.row.prompt_hash if entry.row else None,
                "parse_status": grammar.parse(entry.profile).status,
                "flag": entry.flag,
                "seed": entry.row.seed if entry.row else settings.seed,
                "tokens": entry.row.tokens if entry.row else 0,
                "latency_ms": entry.row.latency_ms if entry.row else None,
                "version": version,
            }
            for entry in chosen
        ]
        write_rows(folder / PROFILE_FILES[kind], rows, profile_schema(kind))


def _account(entries: Sequence[TeacherProfile]) -> dict[str, Any]:
    """Profiles, distinct texts and profiles that do not parse, per snapshot and kind; the flagged are not counted."""
    account: dict[str, Any] = {}
    for snapshot in SNAPSHOTS:
        for kind in KINDS:
            texts = [e.profile for e in entries if (e.kind, e.snapshot, e.flag) == (kind, snapshot, extractive.KNOWN)]
            statuses = Counter(grammar.parse(text).status for text in texts)
            broken = len(texts) - statuses[grammar.OK]
            account[f"{snapshot}.{kind}s"] = {
                "profiles": len(texts), "distinct": len(set(texts)), "malformed": broken
            }  # fmt: skip
    return account
