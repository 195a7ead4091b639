"""Name every path in a workspace, the folder of one data set.

In: the folder. Out: paths in it. The folder is named by `--workspace`, else `RECLM_WORKSPACE`, else it is
`./workspace`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reclm.errors import WorkspaceError
from reclm.storage.files import read_json
from reclm.storage.locks import TIMEOUT
from reclm.storage.version import LAYOUT, OLDEST_LAYOUT, VERSION

REPOSITORY_VARIABLE = "RECLM_REPOSITORY"


def in_repository(folder: str, marker: str) -> Path:
    """Return `folder` of the repository this package runs from, or of the one that RECLM_REPOSITORY names.

    Raises WorkspaceError when `marker` is not in it: the wheel holds the Python package alone.
    """
    root = Path(os.environ.get(REPOSITORY_VARIABLE) or Path(__file__).resolve().parents[2])
    if not (root / folder / marker).exists():
        raise WorkspaceError(
            f"{root / folder} does not hold {marker}: the wheel holds the Python package alone. Work in a clone of "
            f"the repository (`pip install -e .`), or name it in the environment variable {REPOSITORY_VARIABLE}"
        )
    return root / folder


@dataclass(frozen=True)
class Workspace:
    """The folder layout. Every path is absolute. `lock_timeout` are the seconds to wait for one of its locks."""

    root: Path
    lock_timeout: float = field(default=TIMEOUT, compare=False)

    @property
    def landing(self) -> Path:
        """Logs and item texts as ingested: `dataset.json`; one folder a table, one parquet a batch."""
        return self.root / "landing"

    @property
    def dataset(self) -> Path:
        return self.landing / "dataset.json"

    @property
    def truth(self) -> Path:
        """The demo world's ground truth; absent for real data, read by evaluation of profiles alone."""
        return self.landing / "truth"

    @property
    def events(self) -> Path:
        """What services have logged and ingest has not landed yet: `interactions/` and `impressions/`."""
        return self.root / "events"

    @property
    def parameters(self) -> Path:
        """One parquet row: the settings that dbt's models depend on."""
        return self.root / "parameters.parquet"

    @property
    def remembered_settings(self) -> Path:
        """The settings that people gave to commands of this workspace (`reclm/settings/memory.py`)."""
        return self.root / "settings.json"

    @property
    def build_database(self) -> Path:
        """The DuckDB file that dbt writes. Only `reclm build` (or a bare `dbt build`) opens it."""
        return self.root / "warehouse" / "build.duckdb"

    @property
    def warehouse(self) -> Path:
        """The published copy: read-only, replaced whole after each good build."""
        return self.root / "warehouse" / "warehouse.duckdb"

    @property
    def current_build(self) -> Path:
        """`{build_id, fingerprint, marts, …}` of the published build."""
        return self.root / "warehouse" / "current.json"

    @property
    def external(self) -> Path:
        """One folder a build: the marts Feast reads, as parquet."""
        return self.root / "warehouse" / "external"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def feast(self) -> Path:
        """Registry, online store and the validated offline files (`offline/current` points at the newest set)."""
        return self.root / "feast"

    @property
    def champion(self) -> Path:
        return self.root / "champion.json"

    @property
    def challenger(self) -> Path:
        return self.root / "challenger.json"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def runs(self) -> Path:
        """One JSON file per stage run: what ran, on what, when, and how it went."""
        return self.root / "runs"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def layout(self) -> int | None:
        """The layout number of the version of reclm that made this workspace; None where it holds no data.

        Raises WorkspaceError when `dataset.json` is not what reclm writes.
        """
        dataset = read_json(self.dataset) if self.dataset.exists() else {}
        if not isinstance(dataset, dict) or not isinstance(dataset.get("batches", []), list):
            raise WorkspaceError(
                f"{self.dataset} is not what reclm writes: it names no batches. Restore it from a back-up, or make a "
                "new workspace from the same log"
            )
        return int(dataset.get("layout", 1)) if "importer" in dataset else None

    def require_current_layout(self) -> None:
        """Raise WorkspaceError when another version of reclm made this workspace; one that holds no data passes.

        The message names the command that brings it up to date, or makes a new one where none can. A path with a comma
        is refused too (DuckDB would look for files elsewhere), and a file.
        """
        if "," in str(self.root):
            raise WorkspaceError(f"the path of a workspace must hold no comma: {self.root}")
        if self.root.exists() and not self.root.is_dir():
            raise WorkspaceError(f"{self.root} is a file; --workspace names the folder of one data set")
        layout = self.layout
        if layout is None or layout == LAYOUT:
            return
        if layout > LAYOUT:
            remedy = "Use the version of reclm that made it, or a newer one"
        elif layout >= OLDEST_LAYOUT:
            remedy = f"Bring it up to date: `reclm migrate --workspace {self.root}` (`--dry-run` only lists the steps)"
        else:
            dataset = read_json(self.dataset)
            command = "reclm demo" if dataset["importer"] == "demo" else f"reclm run --data {dataset['source']}"
            remedy = f"Make a new workspace from the same log: `{command} --workspace {self.root}-new`"
        raise WorkspaceError(
            f"{self.root} was made by another version of reclm (layout {layout}; reclm {VERSION} reads layout "
            f"{LAYOUT}). {remedy}"
        )

    def require_dataset(self) -> dict[str, Any]:
        """Return the content of `dataset.json`.

        Raises WorkspaceError when nothing has been ingested, and when an older version of reclm made the workspace.
        """
        self.require_current_layout()
        if not self.dataset.exists():
            raise WorkspaceError(
                f"{self.root} holds no data yet; run `reclm ingest --data FOLDER` or `reclm demo` first"
            )
        return read_json(self.dataset)
