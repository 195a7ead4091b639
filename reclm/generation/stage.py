"""The profile stage: the published warehouse comes in, one `profiles` artifact goes out.

It holds `user_profiles.parquet` and `item_profiles.parquet`, one row per snapshot and id, and `quality.parquet`; where a
language model wrote (`reclm.generation.writer`) also its new answers, `generations-*.parquet`. The version is the hash of
the settings that matter to the engine, the seed, the model and the warehouse's fingerprint: what stands is used again.
New items alone can be added to the current profiles, by the model that wrote those: the way of minutes for cold items.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from reclm.dataset import SNAPSHOTS
from reclm.generation import writer as language
from reclm.profiles import grammar, quality
from reclm.profiles import keywords as extractive
from reclm.profiles.snapshot_data import SnapshotData, load_catalogue, load_snapshot_data
from reclm.profiles.terms import item_terms
from reclm.progress import say
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows, write_table
from reclm.storage.schemas import PROFILE_FILE_FORMAT, PROFILE_FILES, PROFILE_QUALITY, profile_schema
from reclm.warehouse.reading import warehouse_fingerprint

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.llm.engines.answers import GenerationRow
    from reclm.llm.teacher.stage import Teacher

KINDS: tuple[quality.Kind, ...] = ("user", "item")


def write_profiles(
    settings: Settings,
    *,
    full: bool = False,
    items: Literal["all", "new"] = "all",
    model: Artifact | None = None,
    current: bool = True,
) -> Artifact:
    """Writes the profiles of both snapshots, or finds them standing; makes them the current ones unless told not to.

    `full` asks a language model everything again, also what it has answered before. `items="new"` writes only of items
    that the current profiles lack, at snapshot `final`, by the model that wrote those. `model` writes in place of the
    newest one. Raises WorkspaceError when there is no warehouse, no such model, or nothing to add new items to.
    """
    from reclm.warehouse.sources import set_current_artifact

    workspace = settings.paths
    fingerprint = warehouse_fingerprint(workspace)
    by_keywords = settings.profiles.engine == extractive.ENGINE
    if items == "new" and not by_keywords:
        from reclm.generation.new_items import add_new_items

        artifact = add_new_items(settings, fingerprint)
    else:
        artifact = _write_all(settings, fingerprint, full=full and not by_keywords, model=model)
    if current:
        set_current_artifact(workspace, "profiles", artifact.version)
    return artifact


def _write_all(settings: Settings, fingerprint: str, *, full: bool, model: Artifact | None) -> Artifact:
    from reclm.warehouse.reading import connect

    workspace, parents = settings.paths, {"warehouse": fingerprint}
    write: Callable[[DuckDBPyConnection, Path, str], dict[str, Any]]
    if settings.profiles.engine == extractive.ENGINE:
        parameters = {
            **settings.profiles.model_dump(),
            "engine_version": extractive.ENGINE_VERSION,
            "max_text_length": settings.features.max_text_length,
            "seed": settings.seed,
            "file_format": PROFILE_FILE_FORMAT,
        }

        def write(connection: DuckDBPyConnection, folder: Path, version: str) -> dict[str, Any]:
            return write_files(connection, settings, folder, version)

    else:
        writer = language.writer_of(settings, fingerprint, model)
        teacher = language.teacher_of(settings, fingerprint, writer.model)
        parameters, parents = writer.parameters, {**parents, **writer.parents, "teacher": teacher.version}

        def write(connection: DuckDBPyConnection, folder: Path, version: str) -> dict[str, Any]:
            return write_generated(connection, settings, folder, version, writer, teacher, full=full)

    version = artifacts.version_of("profiles", parameters, parents)
    artifact = artifacts.find(workspace, "profiles", version)
    if artifact is not None and not full:
        say(f"profiles {version} stand already: used again")
        return artifact
    with (
        closing(connect(settings)) as connection,
        artifacts.writing(workspace, "profiles", parameters, parents, resumable=True) as draft,
    ):
        draft.metrics.update(write(connection, draft.path, version))
    return artifacts.load(workspace, "profiles", version)


def write_files(connection: DuckDBPyConnection, settings: Settings, folder: Path, version: str) -> dict[str, Any]:
    """Writes the artifact's three files into `folder` from an open warehouse; returns what the manifest should tell."""
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    terms = item_terms(catalogue)
    if not terms.phrases:
        say("no texts: profiles would carry nothing; every row is flagged no_text and left empty")
    told = {
        "engine": extractive.ENGINE,
        "engine_version": extractive.ENGINE_VERSION,
        "seed": settings.seed,
        "tokens": 0,
    }
    book = _Book(settings, version)
    for snapshot in SNAPSHOTS:
        knowledge = load_snapshot_data(connection, snapshot, catalogue)
        started = time.monotonic()
        users, items = extractive.write_profiles(knowledge, terms, settings.profiles)
        book.metrics[f"{snapshot}.seconds"] = round(time.monotonic() - started, 3)
        book.add(_of_kind("user", knowledge, users.texts, users.flags), knowledge, told)
        book.add(_of_kind("item", knowledge, items.texts, items.flags), knowledge, told)
    return book.write(folder)


def write_generated(
    connection: DuckDBPyConnection,
    settings: Settings,
    folder: Path,
    version: str,
    writer: language.Writer,
    teacher: Teacher,
    *,
    full: bool = False,
) -> dict[str, Any]:
    """The same by a language model; its new answers stand in `folder` too."""
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    gathered = language.prompt_batch(settings, writer)
    asked = {}
    for snapshot in SNAPSHOTS:
        for kind in KINDS:
            facts = language.facts_of(connection, kind, snapshot, teacher)
            asked[snapshot, kind] = gathered.add(kind, facts, facts)
    rows, metrics = language.ask(settings, writer, gathered, folder, full=full)
    book = _Book(settings, version)
    for snapshot in SNAPSHOTS:
        knowledge = load_snapshot_data(connection, snapshot, catalogue)
        for kind in KINDS:
            book.add(*generated(kind, knowledge, asked[snapshot, kind], rows))
    trimmed = sum(one.trimmed for one in asked.values())
    return {**metrics, "trimmed": trimmed, **book.write(folder)}


def generated(
    kind: quality.Kind, knowledge: SnapshotData, asked: language.Asked, rows: Mapping[str, GenerationRow]
) -> tuple[quality.Profiles, SnapshotData, dict[str, Any]]:
    """The profiles that `rows` hold of everybody in `knowledge`, and what their other columns tell."""
    ids = _ids(kind, knowledge)
    answers = [rows[asked.hashes[entity]] for entity in ids]
    profiles = _of_kind(kind, knowledge, [row.text for row in answers], [asked.flags[entity] for entity in ids])
    told = {
        "engine": [row.engine for row in answers],
        "engine_version": [row.model_version for row in answers],
        "prompt_hash": [row.prompt_hash for row in answers],
        "seed": [row.seed for row in answers],
        "tokens": [row.tokens for row in answers],
        "latency_ms": [row.latency_ms for row in answers],
    }
    return profiles, knowledge, told


def _ids(kind: quality.Kind, knowledge: SnapshotData) -> list[str]:
    return knowledge.user_ids if kind == "user" else knowledge.catalogue.item_ids


def _of_kind(
    kind: quality.Kind, knowledge: SnapshotData, texts: Sequence[str], flags: Sequence[str]
) -> quality.Profiles:
    bands = knowledge.user_bands if kind == "user" else knowledge.item_bands
    return quality.Profiles(kind, _ids(kind, knowledge), texts, flags, bands)


class _Book:
    """The tables of an artifact as they fill, and what is measured of them."""

    def __init__(self, settings: Settings, version: str) -> None:
        workspace = settings.paths
        self.version, self.seed = version, settings.seed
        self.dataset = str(workspace.require_dataset()["name"])
        self.truth = workspace.truth if workspace.truth.exists() else None
        self.tables: dict[quality.Kind, list[pa.Table]] = {"user": [], "item": []}
        self.measured: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}

    def add(self, profiles: quality.Profiles, knowledge: SnapshotData, told: Mapping[str, Any]) -> None:
        """The rows of one kind and snapshot. `told` holds what else a column says: a list, or one value for all."""
        self.tables[profiles.kind].append(table_of(profiles, knowledge, self.dataset, self.version, told))
        self.measured += quality.measure(profiles, knowledge, self.truth, self.seed)
        summary = summary_of(profiles)
        self.metrics[f"{knowledge.snapshot}.{profiles.kind}s"] = summary
        say(f"  {knowledge.snapshot} {profiles.kind} profiles: {_sentence(summary)}")

    def write(self, folder: Path) -> dict[str, Any]:
        for kind, parts in self.tables.items():
            write_table(folder / PROFILE_FILES[kind], pa.concat_tables(parts))
        rows = [{"version": self.version, **row} for row in self.measured]
        write_rows(folder / "quality.parquet", rows, PROFILE_QUALITY)
        return self.metrics


def table_of(
    profiles: quality.Profiles, knowledge: SnapshotData, dataset: str, version: str, told: Mapping[str, Any]
) -> pa.Table:
    """The rows of one kind and snapshot, by id."""
    order = sorted(range(len(profiles.ids)), key=profiles.ids.__getitem__)
    statuses = {text: grammar.parse(text).status for text in set(profiles.texts)}
    phrases = {text: grammar.phrases_of(text) for text in statuses}
    columns = {
        **told,
        "dataset": dataset,
        "snapshot": knowledge.snapshot,
        "as_of": knowledge.as_of,
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
    """How many profiles there are, how many texts are distinct, and how many carry each flag or break the grammar."""
    counts = Counter(flag for flag in profiles.flags if flag)
    broken = sum(phrases is None for phrases in profiles.interests)
    marked = {**dict(sorted(counts.items())), **({"malformed": broken} if broken else {})}
    return {"profiles": len(profiles.ids), "distinct": len(set(profiles.texts)), **marked}


def _sentence(summary: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in summary.items())
