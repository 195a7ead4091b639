"""A log as logs come: a million rows, one in twenty of them garbage of six kinds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from garbage import write_garbage_log

from reclm import stages
from reclm.settings.tree import Settings
from reclm.warehouse.reading import connect


@pytest.mark.full
class TestAMillionRows:
    def test_every_garbage_row_is_counted_under_its_reason_and_every_good_row_is_kept(
        self, workspace_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        settings = workspace_settings()
        planted = write_garbage_log(tmp_path / "log", n_rows=1_000_000, share=0.05)
        stages.ingest(settings, tmp_path / "log")
        stages.build(settings, "features")
        with connect(settings) as connection:
            found = dict(
                connection.execute("select reason, count(*) from quarantine_interactions group by 1").fetchall()
            )
            statuses = dict(connection.execute("select status, count(*) from base_interactions group by 1").fetchall())
        assert {**found, "good": statuses["accepted"], "repeat": statuses["repeat"]} == planted
