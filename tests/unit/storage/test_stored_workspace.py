"""A workspace that the release before made is opened: refused with the command, brought up to date, read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import reclm
from reclm.cli.app import app
from reclm.errors import WorkspaceError
from reclm.maintenance.retention import champions
from reclm.settings.loading import load
from reclm.storage import artifacts
from reclm.storage.files import read_json
from reclm.storage.version import ARTIFACT_LAYOUTS, LAYOUT, OLDEST_LAYOUT
from reclm.storage.workspace import Workspace

STORED = Path(__file__).parents[2] / "workspaces"


@pytest.fixture(params=[f"layout-{number}" for number in range(OLDEST_LAYOUT, LAYOUT)])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    shutil.copytree(STORED / request.param, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


class TestAStoredWorkspace:
    def test_is_refused_by_every_reader_with_the_command_that_helps(self, older: Workspace) -> None:
        for words in (["status"], ["build"], ["recommend", "u1"], ["ingest", "--data", "."], ["serve"]):
            shown = CliRunner().invoke(app, [*words, "--workspace", str(older.root)])
            assert shown.exit_code == WorkspaceError.exit_code, shown.output
            assert "reclm migrate" in shown.output
        with pytest.raises(WorkspaceError, match="reclm migrate"):
            reclm.load_champion(older.root)

    def test_keeps_every_artifact_and_its_champion_after_the_migration(self, older: Workspace) -> None:
        before = {path.relative_to(older.root): path.read_bytes() for path in older.root.rglob("*.parquet")}
        done = CliRunner().invoke(app, ["migrate", "--workspace", str(older.root)])
        assert done.exit_code == 0, done.output
        assert {path: (older.root / path).read_bytes() for path in before} == before
        for kind in artifacts.KINDS:
            for artifact in artifacts.all_of(older, kind):
                assert artifact.manifest["layout"] <= ARTIFACT_LAYOUTS[kind]
        version = read_json(older.champion)["version"]
        assert champions(load(workspace=older.root, environment={}))[0] == version
        item_ids, scores = reclm.load_champion(older.root).recommend(["u1"], k=3)
        assert item_ids.shape == scores.shape == (1, 3)
