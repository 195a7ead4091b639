"""Measure the workspace that is served: when features were last published, health, and the share of rows set apart.

In: the workspace. Out: Prometheus gauges. Health is read again when it has been checked again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from reclm.serving.metrics import HEALTH_CHECKS, PUBLISHED_AT, SET_APART
from reclm.storage import artifacts
from reclm.warehouse.sources import current_versions

if TYPE_CHECKING:
    from reclm.storage.workspace import Workspace

log = logging.getLogger("reclm.serve")


class WorkspaceMetrics:
    """Set the gauges of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._health = ""

    def update(self) -> None:
        """Look at the workspace once; a file that cannot be read leaves its gauges as they are."""
        try:
            published = self._workspace.feast / "published.json"
            if published.exists():  # written again by every publish, also by one that changes no row
                PUBLISHED_AT.set(published.stat().st_mtime)
            for version in current_versions(self._workspace, "health") - {self._health}:
                self._read(version)
        except Exception as error:  # whatever is wrong with a file, the next change must still be noticed
            log.warning("the state of the workspace could not be measured: %s: %s", type(error).__name__, error)

    def _read(self, version: str) -> None:
        checked = artifacts.load(self._workspace, "health", version)
        checks = pq.read_table(checked.path / "checks.parquet", columns=["name", "subject", "value"])
        for status, count in checked.metrics.items():
            HEALTH_CHECKS.labels(status).set(count)
        for row in checks.filter(pc.equal(checks["name"], "set_apart")).to_pylist():
            if row["value"] is not None:
                SET_APART.labels(row["subject"]).set(row["value"])
        self._health = version
