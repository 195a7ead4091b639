"""The profile stage: the published warehouse comes in, one `profiles` artifact goes out.

It holds `user_profiles.parquet` and `item_profiles.parquet`, one row per snapshot and id, and `quality.parquet`. The
version is the hash of the profile settings, the seed and the warehouse's fingerprint: what stands is used again, and
the same inputs give the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from reclm import artifacts
from reclm.artifacts import Artifact
from reclm.dataset import SNAPSHOTS
from reclm.llm.generate import extractive
from reclm.profiles import grammar, quality
from reclm.profiles.knowledge import Knowledge, load_catalogue, load_knowledge
from reclm.profiles.terms import Terms, item_terms
from reclm.progress import say
from reclm.settings import Settings
from reclm.workspace import Workspace, read_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILES = {"user": "user_profiles.parquet", "item": "item_profiles.parquet"}


def profile_schema(kind: quality.Kind) -> pa.Schema:
    """The columns of `<kind>_profiles.parquet`."""
    return pa.schema(
        [
            ("dataset", pa.string()),
            ("snapshot", pa.string()),
            ("as_of", pa.timestamp("us", tz="UTC")),
            (f"{kind}_id", pa.string()),
            ("profile", pa.string()),
            ("engine", pa.string()),
            ("engine_version", pa.string()),
            ("prompt_hash", pa.string()),
            ("parse_status", pa.string()),
            ("flag", pa.string()),
            ("seed", pa.int64()),
            ("tokens", pa.int64()),
            ("latency_ms", pa.float64()),
            ("version", pa.string()),
        ]
    )


def warehouse_fingerprint(workspace: Workspace) -> str:
    """What the profiles depend on in the published warehouse. Raises WorkspaceError when none is published."""
    build = read_json(workspace.current_build)
    return str(build.get("features_fingerprint") or build["fingerprint"])


def write_profiles(settings: Settings) -> Artifact:
    """Writes the profiles of both snapshots, or finds them standing; makes them the current ones."""
    from reclm import warehouse

    workspace = settings.paths
    parameters = {
        **settings.profiles.model_dump(),
        "engine_version": extractive.ENGINE_VERSION,
        "max_text_length": settings.features.max_text_length,
        "seed": settings.seed,
    }
    parents = {"warehouse": warehouse_fingerprint(workspace)}
    version = artifacts.version_of("profiles", parameters, parents)
    artifact = artifacts.find(workspace, "profiles", version)
    if artifact is not None:
        say(f"profiles {version} stand already: used again")
    else:
        with (
            closing(warehouse.connect(settings)) as connection,
            artifacts.writing(workspace, "profiles", parameters, parents) as draft,
        ):
            draft.metrics.update(write_files(connection, settings, draft.path, version))
        artifact = artifacts.load(workspace, "profiles", version)
    warehouse.set_current_artifact(workspace, "profiles", version)
    return artifact


def write_files(connection: DuckDBPyConnection, settings: Settings, folder: Path, version: str) -> dict[str, Any]:
    """Writes the artifact's three files into `folder` from an open warehouse; returns what the manifest should tell."""
    workspace = settings.paths
    dataset = str(workspace.require_dataset()["name"])
    truth = workspace.truth if workspace.truth.exists() else None
    catalogue = load_catalogue(connection, settings.features.max_text_length)
    terms = item_terms(catalogue)
    if not terms.phrases:
        say("no texts: profiles would carry nothing; every row is flagged no_text and left empty")
    tables: dict[quality.Kind, list[pa.Table]] = {"user": [], "item": []}
    measured: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    for snapshot in SNAPSHOTS:
        knowledge = load_knowledge(connection, snapshot, catalogue)
        started = time.monotonic()
        written = _write(knowledge, terms, settings)
        metrics[f"{snapshot}.seconds"] = round(time.monotonic() - started, 3)
        for profiles in written:
            tables[profiles.kind].append(_table(profiles, knowledge, dataset, settings.seed, version))
            measured += quality.measure(profiles, knowledge, truth, settings.seed)
            metrics[f"{snapshot}.{profiles.kind}s"] = _summary(profiles)
            say(f"  {snapshot} {profiles.kind} profiles: {_sentence(metrics[f'{snapshot}.{profiles.kind}s'])}")
    for kind, parts in tables.items():
        pq.write_table(pa.concat_tables(parts), folder / FILES[kind], compression="zstd")
    pq.write_table(quality.to_table(measured, version), folder / "quality.parquet", compression="zstd")
    return metrics


def _write(knowledge: Knowledge, terms: Terms, settings: Settings) -> tuple[quality.Profiles, quality.Profiles]:
    users, items = extractive.write_profiles(knowledge, terms, settings.profiles)
    return (
        quality.Profiles("user", knowledge.user_ids, users.texts, users.flags, knowledge.user_bands),
        quality.Profiles("item", knowledge.catalogue.item_ids, items.texts, items.flags, knowledge.item_bands),
    )


def _table(profiles: quality.Profiles, knowledge: Knowledge, dataset: str, seed: int, version: str) -> pa.Table:
    """The rows of one kind and snapshot, by id. No prompt was asked, no token made, and time is not the row's own."""
    order = sorted(range(len(profiles.ids)), key=profiles.ids.__getitem__)
    statuses = {text: grammar.parse(text).status for text in set(profiles.texts)}
    n = len(order)

    def repeated(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n)

    def picked(values: Sequence[str]) -> pa.Array:
        return pa.array([values[row] for row in order], pa.string())

    schema = profile_schema(profiles.kind)
    texts = picked(profiles.texts)
    columns = {
        f"{profiles.kind}_id": picked(profiles.ids),
        "profile": texts,
        "parse_status": pa.array([statuses[text] for text in texts.to_pylist()], pa.string()),
        "flag": picked(profiles.flags),
    }
    constants = {
        "dataset": dataset,
        "snapshot": knowledge.snapshot,
        "as_of": knowledge.as_of,
        "engine": extractive.ENGINE,
        "engine_version": extractive.ENGINE_VERSION,
        "seed": seed,
        "tokens": 0,
        "version": version,
    }
    arrays = [columns.get(field.name, repeated(constants.get(field.name), field.type)) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _summary(profiles: quality.Profiles) -> dict[str, int]:
    """How many profiles there are, how many texts are distinct, and how many carry each flag."""
    flags = Counter(flag for flag in profiles.flags if flag)
    return {"profiles": len(profiles.ids), "distinct": len(set(profiles.texts)), **dict(sorted(flags.items()))}


def _sentence(summary: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in summary.items())
