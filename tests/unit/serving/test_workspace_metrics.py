"""What the service measures of its workspace, for alerts."""

from __future__ import annotations

import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import REGISTRY

from reclm.serving.workspace_metrics import WorkspaceMetrics
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import write_json
from reclm.storage.schemas import HEALTH_CHECKS
from reclm.storage.workspace import Workspace
from reclm.warehouse.sources import set_current_artifact


def check(workspace: Workspace, share: float, failing: int) -> None:
    with artifacts.writing(workspace, "health", {"share": share}, {}) as draft:
        rows = [{"name": "set_apart", "subject": "interactions", "value": share}, {"name": "volume", "value": 9.0}]
        pq.write_table(pa.Table.from_pylist(rows, schema=HEALTH_CHECKS), draft.path / "checks.parquet")
        draft.metrics.update({"ok": 3, "fail": failing})
    version = artifacts.version_of("health", {"share": share}, {})
    set_current_artifact(workspace, "health", version)


class TestMetricsOfAWorkspace:
    def test_follow_the_last_health_check_and_the_last_publish(
        self, workspace_settings: Callable[..., Settings]
    ) -> None:
        workspace = workspace_settings().paths
        measured = WorkspaceMetrics(workspace)
        measured.update()
        for share, failing in ((0.25, 1), (0.5, 0)):
            check(workspace, share, failing)
            published = workspace.feast / "published.json"
            write_json(published, {})
            os.utime(published, (0, share))
            measured.update()
            assert REGISTRY.get_sample_value("reclm_set_apart_share", {"table": "interactions"}) == share
            assert REGISTRY.get_sample_value("reclm_health_checks", {"status": "fail"}) == failing
            assert REGISTRY.get_sample_value("reclm_health_checks", {"status": "ok"}) == 3
            assert REGISTRY.get_sample_value("reclm_published_at_seconds") == share

    @pytest.mark.parametrize(
        ("name", "content"), [("manifest.json", "{"), ("manifest.json", "{}"), ("checks.parquet", "PAR1")]
    )
    def test_are_left_as_they_are_where_a_file_cannot_be_read(
        self, name: str, content: str, workspace_settings: Callable[..., Settings]
    ) -> None:
        workspace = workspace_settings().paths
        check(workspace, 0.75, 2)
        for file in workspace.artifacts.rglob(name):
            file.write_text(content)
        WorkspaceMetrics(workspace).update()
        assert REGISTRY.get_sample_value("reclm_set_apart_share", {"table": "interactions"}) != 0.75
        assert REGISTRY.get_sample_value("reclm_health_checks", {"status": "fail"}) != 2
