"""Workspaces that another version of reclm made are refused, with the command that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import reclm
from reclm.cli.app import app
from reclm.errors import WorkspaceError
from reclm.ingest import ingest
from reclm.settings.loading import load
from reclm.storage.files import read_json, write_json
from reclm.storage.version import LAYOUT, OLDEST_LAYOUT
from reclm.storage.workspace import Workspace

DEMO = {"name": "demo", "importer": "demo", "source": "demo", "batches": [], "split_mode": "temporal"}


def workspace_of(folder: Path, **dataset: Any) -> Workspace:
    workspace = Workspace(folder)
    write_json(workspace.dataset, DEMO | dataset)
    return workspace


class TestAWorkspaceOfAnOlderVersion:
    @pytest.mark.parametrize(
        ("dataset", "command"),
        [
            ({}, "reclm demo --workspace"),
            ({"importer": "movielens", "source": "/data/ml-100k"}, "reclm run --data /data/ml-100k --workspace"),
        ],
    )
    def test_it_is_refused_with_the_command_that_makes_a_new_one(
        self, tmp_path: Path, dataset: dict[str, Any], command: str
    ) -> None:
        with pytest.raises(WorkspaceError, match=f"layout 1.*{command}"):
            workspace_of(tmp_path, **dataset).require_dataset()

    def test_one_that_can_be_migrated_is_refused_with_the_command_that_does_it(self, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match=f"layout {OLDEST_LAYOUT}.*reclm migrate --workspace {tmp_path}"):
            workspace_of(tmp_path, layout=OLDEST_LAYOUT).require_dataset()

    def test_one_of_a_newer_version_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match=f"layout {LAYOUT + 1}.*a newer one"):
            workspace_of(tmp_path, layout=LAYOUT + 1).require_dataset()

    def test_commands_python_and_ingestion_refuse_it(self, tmp_path: Path) -> None:
        workspace_of(tmp_path)
        shown = CliRunner().invoke(app, ["recommend", "u1", "--workspace", str(tmp_path)])
        assert shown.exit_code == WorkspaceError.exit_code
        assert "another version of reclm" in shown.output
        with pytest.raises(WorkspaceError, match="another version"):
            reclm.load_champion(tmp_path)
        with pytest.raises(WorkspaceError, match="another version"):
            ingest(load(workspace=tmp_path, environment={}), None)

    def test_one_of_this_version_and_an_empty_one_are_read(self, tmp_path: Path) -> None:
        assert workspace_of(tmp_path / "now", layout=LAYOUT).require_dataset()["name"] == "demo"
        Workspace(tmp_path / "empty").require_current_layout()


class TestANewWorkspace:
    def test_it_records_its_layout_and_no_path(self, tmp_path: Path) -> None:
        log = tmp_path / "logs" / "log.csv"
        log.parent.mkdir()
        log.write_text("user_id,item_id\nu1,i1\nu2,i2\n")
        ingest(load(workspace=tmp_path / "ws", environment={}), log.parent)
        dataset = read_json(tmp_path / "ws" / "landing" / "dataset.json")
        assert dataset["layout"] == LAYOUT
        assert dataset["source"] == "logs"


class TestAFileInPlaceOfAFolder:
    def test_is_refused_with_what_a_workspace_is(self, tmp_path: Path) -> None:
        (tmp_path / "log.csv").write_text("user_id,item_id\n")
        with pytest.raises(WorkspaceError, match=r"log\.csv is a file; --workspace names the folder"):
            Workspace(tmp_path / "log.csv").require_current_layout()


@pytest.mark.parametrize("content", [["interactions"], "interactions", {"importer": "demo", "batches": "none"}])
def test_a_list_of_batches_that_somebody_else_wrote_is_refused(tmp_path: Path, content: Any) -> None:
    workspace = Workspace(tmp_path)
    write_json(workspace.dataset, content)
    for words in (["status"], ["recommend", "u1"], ["ingest", "--events"], ["sql", "select 1"]):
        shown = CliRunner().invoke(app, [*words, "--workspace", str(tmp_path)])
        assert shown.exit_code == WorkspaceError.exit_code, shown.output
        assert "new workspace from the same log" in " ".join(shown.output.split())
