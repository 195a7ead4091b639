"""Versioned artifact folders: `<artifacts>/<kind>/<version>/` with a `manifest.json`, written whole or not at all.

A version is the hash of what made the artifact (parameters, seed, parents, layout of the kind), so running a stage
again on the same inputs finds its result instead of making it twice. Work is done in the folder
`<artifacts>/.partial/<kind>-<version>/`. A killed run leaves it behind and the next run continues or clears it; the
last step is one rename.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from reclm.errors import ArtifactError
from reclm.storage.erasures import strike
from reclm.storage.files import read_json, write_json
from reclm.storage.version import ARTIFACT_LAYOUTS, VERSION
from reclm.storage.workspace import Workspace

KINDS = tuple(ARTIFACT_LAYOUTS)
RECORDED_PACKAGES = (
    "duckdb",
    "dbt-duckdb",
    "feast",
    "implicit",
    "numpy",
    "peft",
    "sentence-transformers",
    "torch",
    "transformers",
    "trl",
)


REMOVED = "removed-"


def content_hash(content: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `content` as canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and what its manifest says."""

    kind: str
    version: str
    path: Path
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest["metrics"]


class Draft:
    """An artifact being written: put files under `path`, numbers into `metrics`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: dict[str, Any] = {}


def version_of(kind: str, parameters: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """Return the version of an artifact of this kind: a hash of everything that determines it."""
    layout = ARTIFACT_LAYOUTS[kind]
    return content_hash({"kind": kind, "layout": layout, "parameters": parameters, "parents": parents})


def find(workspace: Workspace, kind: str, version: str) -> Artifact | None:
    """Return the finished artifact of that version, or None."""
    if kind not in KINDS:
        raise ArtifactError(f"no artifact kind is called {kind!r}; the kinds are {', '.join(KINDS)}")
    path = workspace.artifacts / kind / version
    if not (path / "manifest.json").exists():
        return None
    return Artifact(kind, version, path, read_json(path / "manifest.json"))


def load(workspace: Workspace, kind: str, version: str) -> Artifact:
    """Return the finished artifact of that version. Raises ArtifactError when there is none."""
    artifact = find(workspace, kind, version)
    if artifact is None:
        raise ArtifactError(
            f"{workspace.artifacts / kind / version} is not a finished artifact; `reclm status` lists them"
        )
    return artifact


def all_of(workspace: Workspace, kind: str) -> list[Artifact]:
    """Return every finished artifact of a kind, oldest first."""
    folder = workspace.artifacts / kind
    found = [find(workspace, kind, path.name) for path in folder.iterdir()] if folder.exists() else []
    return sorted((a for a in found if a is not None), key=lambda a: (a.manifest["created_at"], a.version))


def ancestor(workspace: Workspace, artifact: Artifact | None, kind: str) -> Artifact | None:
    """Return the artifact of `kind` among an artifact and everything it was made from; None when there is none."""
    waiting = [artifact] if artifact else []
    while waiting:
        one = waiting.pop()
        if one.kind == kind:
            return one
        parents = ((name, version) for name, version in one.manifest["parents"].items() if name in KINDS)
        waiting += [found for name, version in parents if (found := find(workspace, name, version))]
    return None


@contextmanager
def writing(
    workspace: Workspace,
    kind: str,
    parameters: Mapping[str, Any],
    parents: Mapping[str, str],
    *,
    resumable: bool = False,
) -> Iterator[Draft]:
    """Write one artifact; when the block ends without an exception the folder appears under its version, complete.

    `parents` maps an artifact kind (or `landing`, `warehouse`) to the version it was made from. A `resumable` stage
    finds the files an interrupted run left in the draft's folder; any other finds it empty.
    """
    version = version_of(kind, parameters, parents)
    final = workspace.artifacts / kind / version
    partial = workspace.artifacts / ".partial" / f"{kind}-{version}"
    if not resumable:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    draft = Draft(partial)
    started = datetime.now(UTC)
    yield draft
    strike(workspace, partial)
    manifest = {
        "kind": kind,
        "version": version,
        "layout": ARTIFACT_LAYOUTS[kind],
        "parameters": dict(parameters),
        "parents": dict(parents),
        "metrics": draft.metrics,
        "created_at": datetime.now(UTC).isoformat(),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
        "reclm": VERSION,
        "packages": {name: metadata.version(name) for name in RECORDED_PACKAGES},
    }
    write_json(partial / "manifest.json", manifest)
    final.parent.mkdir(parents=True, exist_ok=True)
    replaced = set_aside(workspace, final) if final.exists() else None
    partial.rename(final)
    if replaced is not None:
        shutil.rmtree(replaced)


def set_aside(workspace: Workspace, path: Path) -> Path:
    """Move an artifact's folder out of its place in one step, before it is deleted; return where it went.

    A half-deleted folder in its place would be taken for a finished artifact.
    """
    aside = workspace.artifacts / ".partial" / f"{REMOVED}{path.parent.name}-{path.name}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)
