"""The list of erased users, its key outside the workspace, and the writes that it filters."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.errors import WorkspaceError
from reclm.storage import artifacts, erasures
from reclm.storage.erasures import erased_users, identify, is_listed, remember
from reclm.storage.files import read_json, write_json
from reclm.storage.workspace import Workspace

IDS = ["ann", "bob", None, "None", "12"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv(erasures.FOLDER_VARIABLE, str(tmp_path / "outside"))
    return Workspace(tmp_path / "shop")


def known(workspace: Workspace) -> set[str]:
    with erased_users(workspace) as erased:
        return erased.among(IDS)


class TestTheList:
    def test_an_erased_user_is_known_and_nobody_else(self, workspace: Workspace) -> None:
        assert known(workspace) == set()
        remember(workspace, ["ann"])
        remember(workspace, ["12"])
        assert known(workspace) == {"ann", "12"}
        assert is_listed(workspace, "ann")
        assert not is_listed(workspace, "bob")

    def test_neither_file_holds_the_id_and_the_key_is_outside_and_private(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        files = [path for path in workspace.root.parent.rglob("*") if path.is_file()]
        assert not any("ann" in path.read_text() for path in files)
        key = erasures.folder() / "key"
        assert not key.is_relative_to(workspace.root)
        assert key.stat().st_mode & 0o077 == 0

    def test_without_the_key_ids_cannot_be_tried_out(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        content = read_json(workspace.landing / "forgotten.json")
        assert hashlib.sha256(f"{content['salt']}ann".encode()).hexdigest() not in content["digests"]

    def test_who_erased_and_when_is_kept_outside_in_order(self, workspace: Workspace) -> None:
        for user_id in ("ann", "bob", "ann"):
            remember(workspace, [user_id])
        (record,) = erasures.folder().glob("*.jsonl")
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        assert [sorted(line) for line in lines] == [["at", "by", "digest"]] * 2

    def test_is_read_again_only_after_a_change(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        remember(workspace, ["ann"])
        assert known(workspace) == {"ann"}
        with monkeypatch.context() as patched:
            for parse in ("reclm.storage.erasures.read_json", "reclm.storage.erasures.json.loads"):
                patched.setattr(parse, lambda *_: pytest.fail("an unchanged list was read"))
            assert known(workspace) == {"ann"}
        remember(workspace, ["bob"])
        assert known(workspace) == {"ann", "bob"}

    def test_goes_on_outside_after_a_line_that_a_kill_has_cut(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        (record,) = erasures.folder().glob("*.jsonl")
        for torn in ('{"at": "2026', record.read_text().removesuffix("\n")):
            with record.open("a") as file:
                file.write(torn)
            assert known(workspace) == {"ann"}
        remember(workspace, ["bob"])
        assert known(workspace) == {"ann", "bob"}
        assert len(record.read_text().splitlines()) == 2

    def test_a_line_outside_that_cannot_be_read_is_named(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        (record,) = erasures.folder().glob("*.jsonl")
        for nonsense in ("nonsense", '{"at": "2026"}', "[]"):
            record.write_text(f"{record.read_text().splitlines()[0]}\n{nonsense}\n")
            with pytest.raises(WorkspaceError, match=r"\.jsonl, line 2 does not say who was erased.*restore"):
                known(workspace)

    def test_a_missing_or_other_key_stops_whoever_would_write(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        key = erasures.folder() / "key"
        content = key.read_text()
        key.write_text("00" * 32)
        with pytest.raises(WorkspaceError, match=r"does not hold; set RECLM_ERASURES"):
            known(workspace)
        key.unlink()
        with pytest.raises(WorkspaceError, match=r"lacks; set RECLM_ERASURES"):
            known(workspace)
        key.write_text(content)
        assert known(workspace) == {"ann"}


class TestACopyFromBeforeAnErasure:
    def test_is_noticed_before_anything_is_written(self, workspace: Workspace) -> None:
        identify(workspace)
        copy = Workspace(workspace.root.with_name("copy"))
        shutil.copytree(workspace.root, copy.root)
        remember(workspace, ["ann"])
        with pytest.raises(WorkspaceError, match=r"holds 1 users who were erased after.*reclm forget --again"):
            known(copy)
        assert is_listed(copy, "ann")
        remember(copy, [])
        assert known(copy) == {"ann"}

    def test_another_data_set_has_its_own_list(self, workspace: Workspace) -> None:
        remember(workspace, ["ann"])
        other = Workspace(workspace.root.with_name("other"))
        identify(other)
        assert known(other) == set()


class TestTheListOfAnEarlierLayout:
    def test_still_works_and_gets_a_key_with_the_next_erasure(self, workspace: Workspace) -> None:
        path = workspace.landing / "forgotten.json"
        write_json(path, {"salt": "s", "digests": [hashlib.sha256(b"sann").hexdigest()]})
        assert known(workspace) == {"ann"}
        assert not (erasures.folder() / "key").exists()
        remember(workspace, ["bob"])
        assert known(workspace) == {"ann", "bob"}
        assert hashlib.sha256(b"sann").hexdigest() not in path.read_text()


class TestAnArtifact:
    def test_loses_the_rows_of_users_erased_while_it_was_written(self, workspace: Workspace) -> None:
        with artifacts.writing(workspace, "teacher", {}, {}) as draft:
            pq.write_table(pa.table({"user_id": ["ann", "bob"]}), draft.path / "rows.parquet")
            remember(workspace, ["ann"])
        (artifact,) = artifacts.all_of(workspace, "teacher")
        assert pq.read_table(artifact.path / "rows.parquet")["user_id"].to_pylist() == ["bob"]
