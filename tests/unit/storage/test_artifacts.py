"""Artifacts appear whole under their version, or not at all."""

from pathlib import Path

import pytest

from reclm.errors import ArtifactError
from reclm.storage import artifacts
from reclm.storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def make(workspace: Workspace, text: str = "x", **parameters: object) -> str:
    with artifacts.writing(workspace, "profiles", parameters, {"warehouse": "w1"}) as draft:
        (draft.path / "file.txt").write_text(text)
        draft.metrics["n"] = 1
    return artifacts.version_of("profiles", parameters, {"warehouse": "w1"})


class TestWriting:
    def test_a_finished_artifact_carries_its_lineage(self, workspace: Workspace) -> None:
        found = artifacts.load(workspace, "profiles", make(workspace, seed=3))
        assert found.manifest["parents"] == {"warehouse": "w1"}
        assert found.manifest["parameters"] == {"seed": 3}
        assert found.metrics == {"n": 1}
        assert found.manifest["layout"] == artifacts.ARTIFACT_LAYOUTS["profiles"]
        assert found.manifest["packages"]["duckdb"]

    def test_the_version_depends_on_parameters_and_parents_alone(self, workspace: Workspace) -> None:
        assert make(workspace, "a", seed=3) == make(workspace, "b", seed=3) != make(workspace, "a", seed=4)

    def test_a_release_changes_no_version_and_a_raised_layout_that_of_its_kind_alone(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def versions() -> dict[str, str]:
            return {kind: artifacts.version_of(kind, {"seed": 3}, {}) for kind in artifacts.KINDS}

        before = versions()
        monkeypatch.setattr(artifacts, "VERSION", "99.0")
        assert versions() == before
        monkeypatch.setattr(artifacts, "ARTIFACT_LAYOUTS", {**artifacts.ARTIFACT_LAYOUTS, "sft": 99})
        assert [kind for kind, version in versions().items() if version != before[kind]] == ["sft"]

    def test_an_exception_or_interrupt_leaves_no_artifact(self, workspace: Workspace) -> None:
        for failure in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(failure), artifacts.writing(workspace, "profiles", {}, {}) as draft:
                (draft.path / "half.txt").write_text("half")
                raise failure
        assert artifacts.all_of(workspace, "profiles") == []

    def test_what_an_interrupted_run_left_is_cleared_unless_the_stage_resumes(self, workspace: Workspace) -> None:
        for resumable, expected in ((True, True), (False, False)):
            with pytest.raises(RuntimeError), artifacts.writing(workspace, "profiles", {}, {}, resumable=True) as draft:
                (draft.path / "shard-0").write_text("done")
                raise RuntimeError
            with artifacts.writing(workspace, "profiles", {}, {}, resumable=resumable) as draft:
                assert (draft.path / "shard-0").exists() is expected

    def test_writing_again_replaces(self, workspace: Workspace) -> None:
        version = make(workspace, "old")
        make(workspace, "new")
        assert (artifacts.load(workspace, "profiles", version).path / "file.txt").read_text() == "new"
        assert not list((workspace.artifacts / ".partial").iterdir())

    def test_a_kill_while_the_old_one_is_deleted_leaves_a_whole_one_in_its_place(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = make(workspace, "old")
        delete = artifacts.shutil.rmtree

        def killed(path: Path, ignore_errors: bool = False) -> None:
            if not ignore_errors:
                (path / "file.txt").unlink()
                raise KeyboardInterrupt
            delete(path, ignore_errors=True)

        monkeypatch.setattr(artifacts.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            make(workspace, "new")
        found = artifacts.load(workspace, "profiles", version)
        assert (found.path / "file.txt").read_text() == "new"


class TestFinding:
    def test_a_folder_without_manifest_is_not_an_artifact(self, workspace: Workspace) -> None:
        (workspace.artifacts / "profiles" / "abc").mkdir(parents=True)
        assert artifacts.all_of(workspace, "profiles") == []
        with pytest.raises(ArtifactError, match="not a finished artifact"):
            artifacts.load(workspace, "profiles", "abc")

    def test_an_unknown_kind_is_an_error(self, workspace: Workspace) -> None:
        with pytest.raises(ArtifactError, match="backbone"):
            artifacts.find(workspace, "backbones", "abc")
