"""Write the files that dbt reads besides the landing zone, and compute the fingerprints of a build.

Settings, artifacts and the content of `dataset.json` come in. Out go `parameters.parquet`, `batches.parquet`,
`current_artifacts.parquet` and an empty file of each artifact kind, so that all models can be built before there are
artifacts; and for each phase of the build a fingerprint of everything it is made from. A build reads `dataset.json`
once: what lands while it runs is for the next one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, content_hash, find
from reclm.storage.files import ensure_empty_table, has_columns, read_json, write_rows
from reclm.storage.locks import alone
from reclm.storage.version import LAYOUT
from reclm.storage.workspace import Workspace, in_repository

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Dataset = Mapping[str, Any]
"""The content of `dataset.json`."""
LATER_MODELS = ("models/marts/profiles/", "models/marts/evaluation/results/")
PROJECT_FILES = {".sql", ".py", ".csv", ".yml", ".md"}
IMPORTED_BY_MODELS = ("text/tfidf.py",)
"""Files of this package that dbt's Python models import. They are part of the fingerprints too."""


def dbt_project() -> Path:
    """Return the folder of the dbt project. Raises WorkspaceError where only the wheel is installed."""
    return in_repository("dbt", "dbt_project.yml")


def write_parameters(settings: Settings, dataset: Dataset) -> None:
    """Write `parameters.parquet`, one row with the settings that dbt's models depend on."""
    from reclm.storage.schemas import PARAMETERS

    write_rows(settings.paths.parameters, [_parameters(settings, dataset)], PARAMETERS)


def _parameters(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    split, features = settings.split, settings.features
    return {
        "dataset": str(dataset["name"]),
        "regime": str(settings.data.regime),
        "split_mode": str(dataset["split_mode"]),
        "has_event_ts": bool(dataset["has_event_ts"]),
        "seed": settings.seed,
        "train_share": float(split.train_share),
        "valid_share": float(split.valid_share),
        "zero_shot_share": float(split.zero_shot_share),
        "pseudo_cold_share": float(split.pseudo_cold_share),
        "neighbours": features.neighbours,
        "recent_items": features.recent_items,
        "prompt_history": features.prompt_history,
        "prompt_neighbours": features.prompt_neighbours,
        "max_text_length": features.max_text_length,
        "sparse_views": settings.tune.sparse_views,
        "as_of": settings.data.as_of,
        "event_weights": json.dumps(settings.data.weight_of_event, sort_keys=True),
        "answer_days": settings.data.answer_days,
        "timestamp_format": json.dumps(settings.data.timestamp_format),
        "time_zone": settings.data.time_zone,
    }


def write_delivered_items(workspace: Workspace, items: Iterable[str]) -> None:
    """Write `delivered_items.parquet`, the items whose rows incremental models write."""
    from reclm.storage.schemas import DELIVERED_ITEMS

    write_rows(workspace.root / "delivered_items.parquet", [{"item_id": item} for item in items], DELIVERED_ITEMS)


def prepare_sources(workspace: Workspace, dataset: Dataset) -> None:
    """Write the list of landed batches to read, and empty landing and artifact files and an empty list of current
    artifacts, for dbt to read before there are any, and where an older release wrote files with fewer columns.

    Also makes the folder to which a bare `dbt build` writes external marts.
    """
    from reclm.storage.schemas import BATCHES, CURRENT_ARTIFACTS, LANDING, READ_BY_DBT, REJECTED

    write_rows(workspace.root / "batches.parquet", _batches(dataset), BATCHES)
    for table, schema in {**LANDING, "rejected": REJECTED}.items():
        ensure_empty_table(workspace.landing / table / "_empty.parquet", schema)
    for name, schema in READ_BY_DBT.items():
        kind, file = name.split("/")
        ensure_empty_table(workspace.artifacts / kind / "_schema" / f"{file}.parquet", schema)
    if not has_columns(_current_path(workspace), CURRENT_ARTIFACTS):
        write_rows(_current_path(workspace), _current_artifacts(workspace), CURRENT_ARTIFACTS)
    (workspace.external / "manual").mkdir(parents=True, exist_ok=True)


def _batches(dataset: Dataset) -> list[dict[str, Any]]:
    listed = {(entry["table"], entry["batch"]): entry for entry in dataset["batches"]}
    return [
        {"table_name": table, "batch": batch, "batch_number": n, "before_items": bool(entry.get("before_items"))}
        for n, ((table, batch), entry) in enumerate(listed.items(), start=1)
    ]


@contextmanager
def warehouse_lock(workspace: Workspace) -> Iterator[None]:
    """Hold the lock of the warehouse and of the files its builds read; wait, with a message, while a build runs."""
    busy = f"another build is writing {workspace.build_database}"
    with alone(workspace.locks / "warehouse.lock", busy, workspace.lock_timeout):
        yield


def set_current_artifact(workspace: Workspace, kind: str, version: str) -> None:
    """Make `version` the current one of its kind: the one that the warehouse's current tables show."""
    set_current_artifacts(workspace, kind, [version])


def set_current_artifacts(workspace: Workspace, kind: str, versions: Sequence[str]) -> None:
    """Make `versions` the current ones of a kind that has several (a backbone for each model, variant and seed).

    Waits while a build runs, because the build reads the file that is replaced here.
    """
    with warehouse_lock(workspace):
        _set_current_artifacts(workspace, kind, versions)


def _set_current_artifacts(workspace: Workspace, kind: str, versions: Sequence[str]) -> None:
    from reclm.storage.schemas import CURRENT_ARTIFACTS

    rows = [row for row in _current_artifacts(workspace) if row["kind"] != kind]
    for position, version in enumerate(versions):
        artifact = find(workspace, kind, version)
        parameters = artifact.manifest["parameters"] if artifact else {}
        encoder = parameters.get("model") if kind == "embeddings" else None
        rows.append({"kind": kind, "version": version, "encoder": encoder, "position": position})
    rows.sort(key=lambda row: (row["kind"], row["version"]))
    write_rows(_current_path(workspace), rows, CURRENT_ARTIFACTS)


def current_versions(workspace: Workspace, kind: str) -> set[str]:
    """Return the current versions of that kind; empty when none has been made current."""
    return {str(row["version"]) for row in _current_artifacts(workspace) if row["kind"] == kind}


def _current_path(workspace: Workspace) -> Path:
    return workspace.root / "current_artifacts.parquet"


def _current_artifacts(workspace: Workspace) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    path = _current_path(workspace)
    return pq.read_table(path).to_pylist() if path.exists() else []


def inputs_of_build(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """Return what the tables are made from, in parts that can be compared: `base` (code, settings, who was forgotten),
    `as_of`, the landed `batches`, the artifacts of the phases `profiles` and `evaluation`."""
    workspace = settings.paths
    parameters = {name: value for name, value in _parameters(settings, dataset).items() if name != "as_of"}
    forgotten = workspace.landing / "forgotten.json"
    base = {
        "parameters": parameters,
        "project": _code_files(_digest),
        "layout": LAYOUT,
        "forgotten": read_json(forgotten)["digests"] if forgotten.exists() else [],
    }
    return {
        "base": content_hash(base),
        "as_of": settings.data.as_of,
        "batches": _landed_batches(workspace, dataset),
        "profiles": _artifact_state(workspace, ("profiles", "embeddings")),
        "evaluation": content_hash(_artifact_state(workspace, ("backbone", "evaluation", "promotion", "health"))),
    }


def fingerprints(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return {phase: hash of everything that the phase is made from besides earlier phases}."""
    return {
        "features": content_hash([inputs["base"], inputs["as_of"], inputs["batches"]]),
        "profiles": content_hash(inputs["profiles"]),
        "evaluation": content_hash(inputs["evaluation"]),
    }


def content_fingerprint(settings: Settings, dataset: Dataset, rows: Any) -> str:
    """Return a hash of what determines the tables of the features phase: code, settings, digests of known `rows`.

    It stays the same when rows land that are rejected or not known yet, and when comments of the SQL change.
    """
    parameters = {name: value for name, value in _parameters(settings, dataset).items() if name != "as_of"}
    code = {name: digest for name, digest in _code_files(_code_digest).items() if _is_features_code(name)}
    return content_hash({"code": code, "parameters": parameters, "rows": rows})


def project_files() -> dict[str, Path]:
    """Return {name below the dbt project: path} of all files of the dbt project."""
    root = dbt_project()
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.suffix in PROJECT_FILES}
    return {name.as_posix(): path for name, path in files.items() if name.parts[0] not in ("target", "logs")}


def _code_files(digest: Callable[[Path], str]) -> dict[str, str]:
    """Return {name: digest} of all files of the dbt project, and of the modules that its models import."""
    imported = {f"reclm/{name}": Path(__file__).parents[1] / name for name in IMPORTED_BY_MODELS}
    return {name: digest(path) for name, path in {**project_files(), **imported}.items()}


def _is_features_code(name: str) -> bool:
    is_code = name.endswith((".sql", ".py", ".csv")) and name.startswith(("models/", "macros/", "seeds/", "reclm/"))
    return is_code and not name.startswith(LATER_MODELS)


def _landed_batches(workspace: Workspace, dataset: Dataset) -> list[list[Any]]:
    """Return [table, batch, whether it is a log before the first item table, bytes] of each landed batch.

    The name is a hash of the content; the size changes when rows are removed.
    """
    rows = [(row["table_name"], row["batch"], row["before_items"]) for row in _batches(dataset)]
    paths = [workspace.landing / table / f"{batch}.parquet" for table, batch, _ in rows]
    return [[*row, path.stat().st_size if path.exists() else 0] for row, path in zip(rows, paths, strict=True)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _code_digest(path: Path) -> str:
    """Return a digest of what a file computes: of SQL without comments and with blanks and line ends as one blank."""
    if path.suffix != ".sql":
        return _digest(path)
    code = re.sub(r"\{#.*?#\}|--[^\n]*", " ", path.read_text(), flags=re.DOTALL)
    return hashlib.sha256(" ".join(code.split()).encode()).hexdigest()


def _artifact_state(workspace: Workspace, kinds: Iterable[str]) -> list[Any]:
    manifests = (path for kind in kinds for path in sorted((workspace.artifacts / kind).glob("*/manifest.json")))
    current = [row for row in _current_artifacts(workspace) if row["kind"] in kinds]
    return [current, [[path.parent.parent.name, path.parent.name, _digest(path)] for path in manifests]]


def current_profiles(workspace: Workspace) -> list[Artifact]:
    """Return the current profiles: the artifact with those of everybody, then the additions to it, oldest first.

    Where none is current, the newest. Raises WorkspaceError when there are none.
    """
    found = artifacts.all_of(workspace, "profiles")
    if not found:
        raise WorkspaceError(f"{workspace.root} holds no profiles; run `reclm profile` first")
    rows = [row for row in _current_artifacts(workspace) if row["kind"] == "profiles"]
    position = {row["version"]: row.get("position") or 0 for row in rows}
    current = sorted((one for one in found if one.version in position), key=lambda one: position[one.version])
    return current or [one for one in found if not is_addition(one)][-1:] or found[-1:]


def is_addition(profiles: Artifact) -> bool:
    """Return whether an artifact holds profiles that were added to those of its parent, and no others."""
    return "added_items" in profiles.manifest["parameters"]
