"""Write the profiles that a language model learns from (stage `teach`).

In: a warehouse. Out: an artifact with these profiles. `extractive` describes users and items with enough interactions
by keywords, at each snapshot. `openai` asks an OpenAI-compatible endpoint, as RecLM asks ChatGPT (arXiv 2412.19302,
section 3.2): first about users, then about items with the interests of their audiences, at snapshot `select`, from
which alone the model learns. `table` reads profiles that were written elsewhere. An item's profile describes its
audience, so the model learns to write who an item is for. The manifest counts how many profiles parse, before and after
they were brought into the form of the grammar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS, SNAPSHOTS, EntityKind
from reclm.errors import ModelError
from reclm.llm.engines.openai import served_model
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.training_cutoff import CUTOFF_KEY, training_cutoff
from reclm.llm.models.versions import find_reusable
from reclm.llm.teacher import endpoint, table
from reclm.llm.teacher.entries import TeacherProfile, sample_ids
from reclm.llm.teacher.parameters import teacher_parameters
from reclm.profiles import grammar
from reclm.profiles.keywords import ENGINE, ENGINE_VERSION, KNOWN, WrittenProfiles, write_teacher_profiles
from reclm.profiles.snapshot_data import load_catalogue, load_snapshot_data
from reclm.profiles.terms import item_terms
from reclm.progress import detail, say
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows
from reclm.storage.schemas import PROFILE_FILES, profile_schema
from reclm.warehouse.reading import whole_fingerprint

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

KIND = "teacher"
WrittenTeacher = tuple[list[TeacherProfile], dict[str, Any]]


@dataclass(frozen=True)
class Teacher:
    """The profiles of a teacher: `profiles[kind, snapshot]` maps the ids that it described to texts."""

    profiles: dict[tuple[EntityKind, str], dict[str, str]]
    version: str = ""

    def of(self, kind: EntityKind, entity_id: str, snapshot: str = "select") -> str | None:
        """Return the profile of a user or item; None when the teacher wrote none."""
        return self.profiles.get((kind, snapshot), {}).get(entity_id)

    def interests(self, item_id: str, snapshot: str = "select") -> str:
        """Return the interests of an item's audience, separated by commas; '' when the teacher did not describe it.

        Without a profile at `snapshot` the one at `select` is used: what was known then is still known later.
        """
        for moment in dict.fromkeys((snapshot, "select")):
            profile = grammar.parse(self.of("item", item_id, moment)).profile
            if profile is not None:
                return ", ".join(profile.interests)
        return ""


def load_teacher(settings: Settings, artifact: Artifact) -> Teacher:
    """Read the profiles of a teacher artifact; rows that are empty or carry a flag are left out."""
    profiles: dict[tuple[EntityKind, str], dict[str, str]] = {
        (kind, moment): {} for kind in ENTITY_KINDS for moment in SNAPSHOTS
    }
    for kind in ENTITY_KINDS:
        table = pq.read_table(artifact.path / PROFILE_FILES[kind])
        for row in table.select([f"{kind}_id", "snapshot", "profile", "flag"]).to_pylist():
            if row["profile"] and not row["flag"]:
                profiles[kind, row["snapshot"]][row[f"{kind}_id"]] = row["profile"]
    return Teacher(profiles, artifact.version)


def write_teacher(settings: Settings, *, dry_run: bool = False) -> Artifact | None:
    """Write the teacher's profiles, or reuse an artifact with the same inputs.

    A `dry_run` only prints what `openai` would cost and returns None. Raises InputError when a table cannot be read,
    ModelError when an endpoint fails after all retries, WorkspaceError when there is no warehouse.
    """
    from reclm.warehouse.reading import connect

    workspace, engine = settings.paths, settings.teacher.engine
    if dry_run:
        if engine == "openai":
            with closing(connect(settings)) as connection:
                endpoint.report_estimate(settings, connection, "would ask")
        else:
            say(f"teacher.engine = {engine!r} costs nothing")
        return None
    parents = {"warehouse": whole_fingerprint(workspace)}
    if engine == "openai":
        reusable = _differing_in_model_only(settings, parents["warehouse"])
        try:
            served = served_model(settings, retries=0 if reusable else None)
        except ModelError as error:
            if not reusable:
                raise
            say(f"{error}")
            say(f"reusing teacher {reusable[-1].version}: nothing else that it depends on has changed")
            return reusable[-1]
        settings = settings.model_copy(update={"openai": settings.openai.model_copy(update=served._asdict())})
    parameters = teacher_parameters(settings)
    version = artifacts.version_of(KIND, parameters, parents)
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    with write_in_main_process(workspace, KIND, parameters, parents, resumable=True) as draft:
        if is_main_process():
            with closing(connect(settings)) as connection:
                profiles, metrics = _ENGINES[engine](settings, connection, draft.path)
                draft.metrics.update(metrics, **_counts(profiles), **{CUTOFF_KEY: training_cutoff(connection)})
            _write_files(settings, profiles, draft.path, version)
            detail(f"teacher {version} ({engine}): {len(profiles):,} profiles")
    return artifacts.load(workspace, KIND, version)


def preview_teacher(settings: Settings) -> Teacher | None:
    """Return what the teacher of the current warehouse writes, without writing an artifact or asking an endpoint.

    The finished artifact is read if there is one. Otherwise the keyword teacher and a table are computed in memory; for
    an endpoint the newest teacher of an earlier warehouse is read, and without one the result is None.
    """
    from reclm.warehouse.reading import connect

    workspace, engine = settings.paths, settings.teacher.engine
    warehouse = whole_fingerprint(workspace)
    if engine == "openai":
        wanted = _without_model(teacher_parameters(settings))  # profiles are only counted, so any model's will do
        found = [
            one for one in artifacts.all_of(workspace, KIND) if _without_model(one.manifest["parameters"]) == wanted
        ]
        found.sort(key=lambda one: one.manifest["parents"].get("warehouse") == warehouse)
        return load_teacher(settings, found[-1]) if found else None
    version = artifacts.version_of(KIND, teacher_parameters(settings), {"warehouse": warehouse})
    if finished := artifacts.find(workspace, KIND, version):
        return load_teacher(settings, finished)
    with closing(connect(settings)) as connection:
        written, _ = _ENGINES[engine](settings, connection, workspace.artifacts)
    profiles: dict[tuple[EntityKind, str], dict[str, str]] = {
        (kind, moment): {} for kind in ENTITY_KINDS for moment in SNAPSHOTS
    }
    for one in written:
        if one.text and not one.flag:
            profiles[one.kind, one.snapshot][one.entity_id] = one.text
    return Teacher(profiles)


def _differing_in_model_only(settings: Settings, warehouse: str) -> list[Artifact]:
    """Return a warehouse's teachers that differ at most in what settings leave to the endpoint, oldest first.

    That is its model, where none is named, and the revision.
    """
    wanted = teacher_parameters(settings)
    of_build = [
        one for one in artifacts.all_of(settings.paths, KIND) if one.manifest["parents"] == {"warehouse": warehouse}
    ]
    return [
        one
        for one in of_build
        if _without_model(one.manifest["parameters"]) == _without_model(wanted)
        and wanted["model"] in ("", one.manifest["parameters"]["model"])
    ]


def _without_model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in ("model", "revision")}


def _write_by_keywords(settings: Settings, connection: DuckDBPyConnection, folder: Path) -> WrittenTeacher:
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    terms = item_terms(catalogue)
    profiles = []
    for snapshot in SNAPSHOTS:
        data = load_snapshot_data(connection, snapshot, catalogue)
        users, items = write_teacher_profiles(data, terms, settings.profiles)
        of_kind: dict[EntityKind, tuple[list[str], WrittenProfiles]] = {
            "user": (data.user_ids, users),
            "item": (catalogue.item_ids, items),
        }
        for kind, (ids, written) in of_kind.items():
            rows = list(zip(ids, written.texts, written.flags, strict=True))
            sample = sample_ids(settings, kind, [entity_id for entity_id, _, flag in rows if not flag])
            profiles += [
                TeacherProfile(kind, snapshot, data.as_of, entity_id, text, flag)
                for entity_id, text, flag in rows
                if flag or entity_id in sample
            ]
    return profiles, {}


_ENGINES: dict[str, Callable[[Settings, DuckDBPyConnection, Path], WrittenTeacher]] = {
    "extractive": _write_by_keywords,
    "table": table.read_profiles,
    "openai": endpoint.write_profiles,
}


def _write_files(settings: Settings, profiles: Sequence[TeacherProfile], folder: Path, version: str) -> None:
    """Write the two files of the artifact, sorted by snapshot and id."""
    dataset = str(settings.paths.require_dataset()["name"])
    engine = settings.teacher.engine
    engine_version = ENGINE_VERSION if engine == ENGINE else ""
    for kind in ENTITY_KINDS:
        of_kind = [profile for profile in profiles if profile.kind == kind]
        of_kind.sort(key=lambda profile: (profile.as_of, profile.snapshot, profile.entity_id))
        rows = [
            {
                "dataset": dataset,
                "snapshot": profile.snapshot,
                "as_of": profile.as_of,
                f"{kind}_id": profile.entity_id,
                "profile": profile.text,
                **dict(zip(("identity", "interests"), grammar.phrases_of(profile.text), strict=True)),
                "engine": engine,
                "engine_version": profile.answer.model_version if profile.answer else engine_version,
                "prompt_hash": profile.answer.prompt_hash if profile.answer else None,
                "parse_status": grammar.parse(profile.text).status,
                "flag": profile.flag,
                "seed": profile.answer.seed if profile.answer else settings.seed,
                "tokens": profile.answer.tokens if profile.answer else 0,
                "latency_ms": profile.answer.latency_ms if profile.answer else None,
                "version": version,
            }
            for profile in of_kind
        ]
        write_rows(folder / PROFILE_FILES[kind], rows, profile_schema(kind))


def _counts(profiles: Sequence[TeacherProfile]) -> dict[str, Any]:
    """Count profiles, distinct texts and malformed texts per snapshot and kind; rows with a flag are left out."""
    counts: dict[str, Any] = {}
    for snapshot in SNAPSHOTS:
        for kind in ENTITY_KINDS:
            texts = [one.text for one in profiles if (one.kind, one.snapshot, one.flag) == (kind, snapshot, KNOWN)]
            statuses = Counter(grammar.parse(text).status for text in texts)
            counts[f"{snapshot}.{kind}s"] = {
                "profiles": len(texts),
                "distinct": len(set(texts)),
                "malformed": len(texts) - statuses[grammar.OK],
            }
    return counts
