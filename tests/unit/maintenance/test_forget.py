"""Removing a person's rows from a parquet file."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.maintenance.forget import _is_remembered, _remember, digest, drop_rows, remove_user
from reclm.settings.tree import Settings
from reclm.storage.files import write_json
from reclm.storage.workspace import Workspace


class TestDropRows:
    def test_only_the_persons_rows_go_and_order_and_types_stay(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        table = pa.table(
            {
                "user_id": pa.array(["a", "b", None, "a'; drop table x", "a"]),
                "vector": pa.array([[1.0], [2.0], [3.0], [4.0], [5.0]]),
            }
        )
        pq.write_table(table, file)
        assert drop_rows(file, "a") == 2
        left = pq.read_table(file)
        assert left.to_pylist() == table.take([1, 2, 3]).to_pylist()
        assert left.schema.equals(table.schema)

    def test_a_file_without_user_ids_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"item_id": ["a"]}), file)
        before = file.read_bytes()
        assert drop_rows(file, "a") == 0
        assert file.read_bytes() == before

    def test_a_person_alone_in_a_file_leaves_an_empty_file_of_the_same_shape(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"user_id": ["a"], "n": [1]}), file)
        assert drop_rows(file, "a") == 1
        assert pq.read_table(file).num_rows == 0


class TestDigest:
    def test_a_forgotten_id_cannot_be_read_back_and_depends_on_the_salt(self) -> None:
        assert "ann" not in digest("s1", "ann")
        assert digest("s1", "ann") != digest("s2", "ann")


class TestStartingAgain:
    def test_a_person_whose_forgetting_began_is_known_though_no_row_is_left(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path)
        assert not _is_remembered(workspace, "ann")
        _remember(workspace, "ann")
        assert _is_remembered(workspace, "ann")
        assert not _is_remembered(workspace, "bob")


class TestTheReport:
    def test_is_removed_because_the_user_may_be_its_example(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = workspace_settings()
        write_json(settings.paths.dataset, {"name": "shop", "batches": []})
        pq.write_table(pa.table({"user_id": ["ann", "bob"]}), settings.paths.landing / "log.parquet")
        settings.paths.report.parent.mkdir()
        settings.paths.report.write_text("ann")
        monkeypatch.setattr("reclm.features.online_writer.forget_user", lambda settings, user_id: 0)
        remove_user(settings, "ann")
        assert not settings.paths.report.parent.exists()
