"""Wrong input is refused with file, line and remedy; single bad lines are set apart."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from garbage import write_garbage_log
from unit.ingest_world import LOG, Make, landed, tree

from reclm.errors import InputError
from reclm.ingest import ingest
from reclm.settings.tree import Settings


class TestWrongInputIsExplained:
    def landed_files(self, settings: Settings) -> dict[str, bytes]:
        return {name: data for name, data in tree(settings.workspace).items() if not name.endswith("_empty.parquet")}

    def check(self, settings: Settings, source: Path, *words: str) -> None:
        before = self.landed_files(settings)
        with pytest.raises(InputError) as caught:
            ingest(settings, source)
        for word in words:
            assert word in str(caught.value)
        assert self.landed_files(settings) == before, "something half-written was left"

    def test_a_missing_folder(self, folder: Path, settings: Settings) -> None:
        self.check(settings, folder / "nowhere", "nowhere does not exist", "--data")

    def test_a_folder_without_a_log(self, folder: Path, settings: Settings) -> None:
        (folder / "notes.txt").write_text("hello")
        self.check(settings, folder, "holds no log", "interactions", ".parquet", "notes.txt", "data.interactions")

    def test_a_log_that_settings_name_and_that_is_not_there(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text(LOG)
        self.check(workspace_settings(data={"interactions": "lgo.csv"}), folder, "lgo.csv does not exist", "log.csv")

    def test_a_missing_column(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text("item_id,custmer,ts\ntea,ann,1\n")
        self.check(settings, folder, "log.csv", "'custmer'", "customer_id", "data.user_column")

    def test_a_column_that_settings_misspell(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text("item_id,shopper,ts\ntea,ann,1\n")
        settings = workspace_settings(data={"user_column": "shoper"})
        self.check(settings, folder, "no column 'shoper'", "the nearest is 'shopper'", "data.user_column=shopper")

    def test_a_misspelt_text_column(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text("item_id,plot\ntea,grows\n")
        self.check(workspace_settings(data={"text_columns": ("plto",)}), folder, "'plto'", "plot", "data.text_columns")

    @pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.jsonl"])
    def test_an_empty_file(self, name: str, folder: Path, settings: Settings) -> None:
        (folder / name).touch()
        self.check(settings, folder, name, "empty")

    def test_a_header_and_nothing_else(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text("user_id,item_id\n")
        self.check(settings, folder, "log.csv", "gives no rows")

    @pytest.mark.parametrize("content", [b"user_id,item_id\na,b\n", b"PAR1 and then nothing of the kind"])
    def test_a_parquet_file_that_is_none(self, content: bytes, folder: Path, settings: Settings) -> None:
        (folder / "log.parquet").write_bytes(content)
        self.check(settings, folder, "log.parquet", "not a whole parquet file")

    def test_a_parquet_file_damaged_inside(self, folder: Path, settings: Settings) -> None:
        path = folder / "log.parquet"
        rows = "select md5(i::varchar) as user_id, md5((-i)::varchar) as item_id, i as ts from range(50000) t(i)"
        duckdb.connect().execute(f"copy ({rows}) to '{path}' (compression zstd)")
        data = bytearray(path.read_bytes())
        data[1000:200_000] = bytes(199_000)
        path.write_bytes(data)
        self.check(settings, folder, "log.parquet", "cannot be read", "export it again")

    def test_json_that_breaks_off(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text('{"user_id": 1, "item_id": 2}\n{"user_id": 1, \n')
        self.check(settings, folder, "log.jsonl, line 2", "one JSON object per line")

    def test_a_quote_that_never_closes(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text(LOG + 'cy,"tea,2025-01-03\n' + "dee,tea,2025-01-04\n" * 100)
        self.check(settings, folder, "log.csv, line 4", "unterminated quote")

    def test_a_time_column_without_a_value(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text("user,item,ts\na,b,\n")
        self.check(settings, folder, "log.csv", "data.timestamp_column")

    def test_a_later_log_that_lacks_the_times_of_the_first(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text(LOG)
        ingest(settings, folder)
        (folder / "log.csv").write_text("user_id,item_id\ncy,tea\n")
        self.check(settings, folder, "split by time", "another --workspace")

    def test_a_good_file_beside_a_bad_one_is_not_landed_alone(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.parquet").write_bytes(b"PAR1")
        self.check(settings, folder, "items.parquet")

    def test_an_importer_whose_files_are_missing(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text(LOG)
        for importer, wanted in (
            ("movielens", "ratings.dat"),
            ("mind_raw", "behaviors.tsv"),
            ("mind", "train.parquet"),
        ):
            self.check(workspace_settings(data={"importer": importer}), folder, wanted, "log.csv")
        self.check(workspace_settings(data={"importer": "presplit"}), folder, "no column 'split'", "data.importer")


class TestSingleUnreadableLines:
    def test_they_keep_their_place_and_are_counted(self, folder: Path, settings: Settings) -> None:
        lines = [f"u{n},tea,2025-01-01" for n in range(1, 101)]
        lines[1] = "u2,tea,2025-01-01,what,is,this"
        lines[2] = "u3"
        lines[49] = '"u"50,tea,2025-01-01'
        (folder / "log.csv").write_text("user_id,item_id,ts\n" + "\n".join(lines))
        content = ingest(settings, folder)
        assert (content["batches"][0]["rows"], content["batches"][0]["unreadable"]) == (100, 3)
        rows = landed(settings, "interactions", "source_row, user_id")
        assert rows == [(n, None if n in (2, 3, 50) else f"u{n}") for n in range(1, 101)]

    def test_why_is_kept_beside_the_rows(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text(LOG + "only-one-field\n" + "cy,tea,2025-01-01\n" * 20)
        ingest(settings, folder)
        rejected = f"{settings.workspace}/landing/rejected/*.parquet"
        found = (
            duckdb.connect().execute(f"select \"table\", source_file, source_row, reason from '{rejected}'").fetchall()
        )
        assert found == [("interactions", "log.csv", 3, "Expected Number of Columns: 3 Found: 1")]


class TestAMillionRowsWithGarbage:
    def test_every_row_is_landed_and_none_is_lost(self, folder: Path, settings: Settings) -> None:
        counts = write_garbage_log(folder)
        content = ingest(settings, folder)
        assert sum(counts.values()) == 1_000_000
        assert {b["table"]: b["rows"] for b in content["batches"]} == {"interactions": 1_000_000, "items": 2_000}
        pattern = settings.workspace / "landing/interactions/*.parquet"
        found = (
            duckdb.connect()
            .execute(
                "select count(*) filter (user_id is null), count(*) filter (item_id is null), "
                "count(*) filter (try_cast(event_ts as timestamptz) is null), "
                "count(*) filter (event_ts > '2900'and event_ts < 'a'), "
                f"count(*) filter (item_id like 'nowhere%'), count(*) - count(distinct source_row) from '{pattern}'"
            )
            .fetchall()[0]
        )
        n_each = counts["repeat"]
        assert found == (n_each, n_each, n_each, n_each, n_each, 0)
