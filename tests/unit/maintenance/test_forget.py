"""Removing a user from every file of a workspace, and from what is written afterwards."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.errors import ErasureError, InputError
from reclm.maintenance import deliveries
from reclm.maintenance.deliveries import require_no_delivery
from reclm.maintenance.forget import MASK, masking, remove_again, remove_user
from reclm.settings.tree import Settings
from reclm.storage import artifacts, runs
from reclm.storage.erasures import drop_rows, is_listed, remember
from reclm.storage.files import read_json, write_json
from reclm.storage.schemas import GENERATIONS, VECTORS, profile_schema
from reclm.storage.workspace import Workspace
from reclm.text.encoder import text_hash


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A workspace with a log of ann and bob, without a feature store."""
    settings = workspace_settings()
    monkeypatch.setattr("reclm.ingest.collected.land_collected", lambda settings: {})
    write_json(settings.paths.dataset, {"name": "shop", "batches": []})
    write(settings.paths.landing / "interactions" / "b.parquet", user_id=["ann", "bob", None], item_id=["x", "y", "z"])
    return settings


def write(file: Path, schema: pa.Schema | None = None, **columns: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def write_compressed(file: Path, content: bytes, compression: str) -> None:
    with pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), compression) as stream:
        stream.write(content)


def column(file: Path, name: str) -> list[Any]:
    return pq.read_table(file)[name].to_pylist()


class TestDroppingRows:
    def test_only_the_users_rows_go_and_order_and_types_stay(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        table = pa.table(
            {
                "user_id": pa.array(["a", "b", None, "a'; drop table x", "a"]),
                "vector": pa.array([[1.0], [2.0], [3.0], [4.0], [5.0]]),
            }
        )
        pq.write_table(table, file)
        assert drop_rows(file, {"a"}) == 2
        left = pq.read_table(file)
        assert left.to_pylist() == table.take([1, 2, 3]).to_pylist()
        assert left.schema.equals(table.schema)

    def test_a_file_without_user_ids_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        write(file, item_id=["a"])
        before = file.read_bytes()
        assert drop_rows(file, {"a"}) == 0
        assert file.read_bytes() == before

    def test_a_user_alone_in_a_file_leaves_an_empty_file_of_the_same_shape(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        write(file, user_id=["a"], n=[1])
        assert drop_rows(file, {"a"}) == 1
        assert pq.read_table(file).num_rows == 0


class TestRemovingAUser:
    def test_takes_the_rows_and_counts_them_by_folder(self, settings: Settings) -> None:
        assert remove_user(settings, "ann")["landing"] == 1
        assert column(settings.paths.landing / "interactions" / "b.parquet", "user_id") == ["bob", None]

    def test_a_mistyped_id_is_an_error_and_nothing_is_recorded(self, settings: Settings) -> None:
        with pytest.raises(InputError, match=r"no row in .* carries user id 'anne'"):
            remove_user(settings, "anne")
        assert not is_listed(settings.paths, "anne")

    def test_that_was_cut_short_is_done_again_though_no_row_is_left(self, settings: Settings) -> None:
        remember(settings.paths, ["gone"])
        assert remove_user(settings, "gone")["landing"] == 0

    def test_takes_answers_and_vectors_that_were_the_users_alone(self, settings: Settings) -> None:
        with artifacts.writing(settings.paths, "profiles", {}, {}) as draft:
            people = {"user_id": ["ann", "ann", "bob"], "prompt_hash": ["p1", "p2", "p2"], "profile": ["A", "S", "S"]}
            write(draft.path / "user_profiles.parquet", profile_schema("user"), **people)
            things = {"item_id": ["x"], "prompt_hash": ["p3"], "profile": ["X"]}
            write(draft.path / "item_profiles.parquet", profile_schema("item"), **things)
            write(draft.path / "generations-00000.parquet", GENERATIONS, prompt_hash=["p1", "p2", "p3"])
        with artifacts.writing(settings.paths, "embeddings", {}, {}) as vectors:
            write(vectors.path / "vectors-00000.parquet", VECTORS, text_hash=[text_hash(text) for text in "ASX"])
        remove_user(settings, "ann")
        (profiles,), (embeddings,) = (artifacts.all_of(settings.paths, kind) for kind in ("profiles", "embeddings"))
        assert column(profiles.path / "generations-00000.parquet", "prompt_hash") == ["p2", "p3"]
        hashes = column(embeddings.path / "vectors-00000.parquet", "text_hash")
        assert hashes == [text_hash(text) for text in "SX"]

    def test_masks_the_id_in_messages(self, settings: Settings) -> None:
        workspace = settings.paths
        with pytest.raises(InputError), runs.recorded(workspace, "publish"):
            raise InputError("row 5 (user_id 'ann'), beside annual and ann-marie")
        rejected = workspace.landing / "rejected" / "b.parquet"
        write(rejected, source_row=[3], reason=['Original Line: ann,"x'], line=[None])
        log = workspace.root / "airflow" / "logs" / "a.log"
        log.parent.mkdir(parents=True)
        log.write_text("task of ann failed\n")
        write_json(workspace.dataset, {"name": "shop", "batches": [{"table": "x", "notes": ["user 'ann' has 3 rows"]}]})
        remove_user(settings, "ann")
        (record,) = workspace.runs.glob("*.json")
        assert read_json(record)["error"] == f"InputError: row 5 (user_id '{MASK}'), beside annual and ann-marie"
        assert column(rejected, "reason") == [f'Original Line: {MASK},"x']
        assert read_json(workspace.dataset)["batches"][0]["notes"] == [f"user '{MASK}' has 3 rows"]
        assert log.read_text() == f"task of {MASK} failed\n"

    def test_masks_the_id_where_a_line_of_a_refused_file_is_quoted(self, settings: Settings) -> None:
        workspace = settings.paths
        why = "events.csv, line 3 cannot be read: 'ann,\"x'"
        refused = {"file": "events.csv", "kind": "refused", "why": why}
        write_json(workspace.landing / "inbox.json", {"files": {"events.csv": refused}, "not_taken": [refused]})
        with runs.recorded(workspace, "ingest") as about:
            about["not_taken"] = {"events.csv": why}
        staged = [["inbox_files", "refused", 1.0, why]]  # as an earlier release wrote it
        with artifacts.writing(workspace, "health", {"staged": staged}, {}) as draft:
            write(draft.path / "checks.parquet", name=["inbox_files"], advice=[why])
        remove_user(settings, "ann")
        kept = [file for file in workspace.root.rglob("*") if file.is_file() and b"'ann" in file.read_bytes()]
        assert kept == []
        (health,) = artifacts.all_of(workspace, "health")
        masked = why.replace("'ann", f"'{MASK}")
        assert column(health.path / "checks.parquet", "advice") == [masked]
        inbox = read_json(workspace.landing / "inbox.json")
        assert inbox["not_taken"] == [inbox["files"]["events.csv"]] == [refused | {"why": masked}]

    def test_removes_the_report_and_unfinished_work(self, settings: Settings) -> None:
        workspace = settings.paths
        places = [workspace.report, workspace.artifacts / ".partial" / "profiles-1" / "generations-00000.parquet"]
        places += [workspace.external / "manual" / "a.parquet", workspace.landing / ".b.parquet.77.tmp"]
        places += [workspace.root / "warehouse" / "dbt" / "logs" / "dbt.log", workspace.build_database]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, user_id=["ann"])
        remove_user(settings, "ann")
        assert [place for place in places if place.exists()] == []


class TestARestoredCopy:
    def test_loses_whoever_was_erased_since(self, settings: Settings) -> None:
        remember(settings.paths, ["bob", "somebody who is not here"])
        assert remove_again(settings)["landing"] == 1
        assert column(settings.paths.landing / "interactions" / "b.parquet", "user_id") == ["ann", None]

    def test_that_lacks_nobody_keeps_its_tables(self, settings: Settings) -> None:
        settings.paths.build_database.parent.mkdir(parents=True)
        settings.paths.build_database.touch()
        assert remove_again(settings) == {}
        assert settings.paths.build_database.exists()


class TestMasking:
    @pytest.mark.parametrize("user_id", ["12", "ann@example.org", "a.b", "(x)", "ann"])
    def test_only_whole_words_go(self, user_id: str) -> None:
        mask = masking({user_id})
        assert mask(f"{user_id}, '{user_id}' and x{user_id}x") == f"{MASK}, '{MASK}' and x{user_id}x"

    def test_nobody_to_mask_changes_nothing(self) -> None:
        assert masking(set())("ann") == "ann"


class TestDeliveries:
    @pytest.fixture
    def inbox(self, settings: Settings) -> Path:
        inbox = settings.paths.root / "inbox"
        inbox.mkdir(parents=True)
        remember(settings.paths, ["12"])
        return inbox

    def test_that_hold_the_user_are_named_until_they_are_gone(self, settings: Settings, inbox: Path) -> None:
        (inbox / "events-1.csv").write_text("user_id,item_id\n1,12\n2,12\n")
        (inbox / "events-2.csv").write_text('user_id,item_id\n1,"a\nb"\n12,x\n')
        write(inbox / "events-3.parquet", user=[12], item=[1])
        with gzip.open(inbox / "events-4.jsonl.gz", "wt") as file:
            file.write('{"customer_id": 12, "sku": 1}\n')
        with pytest.raises(ErasureError, match=r"3 delivered files.*events-2.csv.*events-3.*events-4.*delete them"):
            require_no_delivery(settings, "12")
        for number in (2, 3, 4):
            next(inbox.glob(f"events-{number}.*")).unlink()
        require_no_delivery(settings, "12")

    def test_are_searched_while_another_user_can_be_erased(
        self, settings: Settings, inbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        impatient = Workspace(settings.paths.root, lock_timeout=0)
        monkeypatch.setattr(deliveries, "deliveries_with", lambda *_: ([remember(impatient, ["13"]) and inbox], []))
        with pytest.raises(ErasureError, match="1 delivered files"):
            require_no_delivery(settings, "12")
        assert is_listed(settings.paths, "13")

    def test_that_are_no_tables_are_searched_for_the_id_as_a_word(self, settings: Settings, inbox: Path) -> None:
        (inbox / "notes.txt").write_text("customer 12 called")
        (inbox / "other.txt").write_text("customer 123 called, and 4-12")
        with zipfile.ZipFile(inbox / "old.zip", "w") as archive:
            archive.writestr("a.txt", "12;3")
        with pytest.raises(ErasureError, match=r"2 delivered files.*notes.txt.*old.zip"):
            require_no_delivery(settings, "12")

    @pytest.mark.parametrize(
        "give",
        [
            lambda inbox: write_compressed(inbox / "a.zst", b"customer 12", "zstd"),
            lambda inbox: write_compressed(inbox / "a", b"customer 12", "gzip"),
            lambda inbox: (inbox / "a.dump").write_bytes("customer 12".encode("utf-16")),
            lambda inbox: (inbox / "a.dump").write_bytes("12 called".encode("utf-16-be")),
            lambda inbox: write(inbox / "a.parquet", note=["customer 12 called"] * 100, n=[{"of": 1}] * 100),
            lambda inbox: write(inbox / "a.parquet", patron_no=[1, 12], n=[1, 1]),
        ],
        ids=["zstandard", "no suffix", "UTF-16", "UTF-16 without a mark", "a text in parquet", "an unknown column"],
    )
    def test_are_searched_however_they_are_written(
        self, settings: Settings, inbox: Path, give: Callable[[Path], object]
    ) -> None:
        give(inbox)
        with pytest.raises(ErasureError, match=r"1 delivered files still hold the id: .*inbox/a"):
            require_no_delivery(settings, "12")

    def test_that_hold_the_id_as_a_part_of_a_word_are_not_named(self, settings: Settings, inbox: Path) -> None:
        for encoding in ("utf-8", "utf-16", "utf-16-be"):
            (inbox / encoding).write_bytes("customer 123, and 4-12".encode(encoding))
        write(inbox / "a.parquet", note=["customer 123, and 4-12"])
        require_no_delivery(settings, "12")

    @pytest.mark.parametrize("name", ["a.gz", "a.csv.gz", "a.zip", "a.parquet"])
    def test_that_are_damaged_are_named_as_not_searched(self, settings: Settings, inbox: Path, name: str) -> None:
        if name == "a.zip":
            with zipfile.ZipFile(inbox / name, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.txt", "5;3" * 1000)
        elif name == "a.parquet":
            write(inbox / name, user_id=["5"])
        else:
            write_compressed(inbox / name, b"user_id,item_id\n5,6\n" * 1000, "gzip")
        (inbox / name).write_bytes((inbox / name).read_bytes()[:-20])
        with pytest.raises(ErasureError, match=rf"but 1 delivered files may hold it, and cannot be searched: .*{name}"):
            require_no_delivery(settings, "12")
