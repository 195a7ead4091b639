"""The record of what ran."""

from pathlib import Path

import pytest

from reclm.errors import WorkspaceError
from reclm.storage import runs
from reclm.storage.files import read_json, write_json
from reclm.storage.workspace import Workspace


class TestRecording:
    def test_a_good_run_says_what_it_did(self, tmp_path: Path) -> None:
        with runs.recorded(Workspace(tmp_path), "build", phase="all") as about:
            about["reused"] = True
        (record,) = runs.history(Workspace(tmp_path))
        assert (record["stage"], record["status"], record["about"]["phase"]) == ("build", "reused", "all")

    @pytest.mark.parametrize(
        ("failure", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")]
    )
    def test_a_failure_is_recorded_and_passed_on(self, tmp_path: Path, failure: BaseException, status: str) -> None:
        with pytest.raises(type(failure)), runs.recorded(Workspace(tmp_path), "train"):
            raise failure
        assert runs.history(Workspace(tmp_path))[0]["status"] == status

    def test_a_run_whose_process_is_gone_was_killed(self, tmp_path: Path) -> None:
        with runs.recorded(Workspace(tmp_path), "train"):
            pass
        (path,) = Workspace(tmp_path).runs.glob("*.json")
        write_json(path, read_json(path) | {"status": "running", "pid": 2**22 + 1})
        assert runs.history(Workspace(tmp_path))[0]["status"] == "killed"

    def test_an_empty_workspace_says_how_to_start(self, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match="reclm demo"):
            runs.history(Workspace(tmp_path))
