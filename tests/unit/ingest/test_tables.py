"""Which files of a folder are which table, and parts that are one log."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from unit.ingest_world import LOG, landed

from reclm.errors import InputError
from reclm.ingest import ingest
from reclm.ingest.tables import find_tables
from reclm.settings.tree import Settings

ITEMS = "item_id,title\ntea,Tea\n"


def fill(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


class TestNames:
    @pytest.mark.parametrize(
        ("log", "items"),
        [
            ("interactions.csv", "items.csv"),
            ("BX-Book-Ratings.csv", "BX-Books.csv"),
            ("academic_dataset_review.csv", "academic_dataset_business.csv"),
            ("Toys.csv", "meta_Toys.csv"),
            ("news_clicks.csv", "news.csv"),
            ("ratings.dat", "movies.txt"),
        ],
    )
    def test_log_and_items_are_told(self, log: str, items: str, folder: Path, settings: Settings) -> None:
        (folder / log).write_text(LOG)
        (folder / items).write_text(ITEMS)
        found = find_tables(settings, folder)
        assert [[file.name for file in files] for files in (found.interactions, found.items)] == [[log], [items]]

    def test_prose_is_no_table_and_a_table_of_any_name_is_one(self, folder: Path, settings: Settings) -> None:
        (folder / "README.txt").write_text("Hello, this is\nwhat it is, and how\nto use it, in short\n")
        (folder / "taobao.txt").write_text(LOG.replace(",", "\t"))
        assert [file.name for file in find_tables(settings, folder).interactions] == ["taobao.txt"]


class TestPartsOfOneLog:
    def test_a_folder_that_spark_wrote(self, folder: Path, settings: Settings) -> None:
        parts = folder / "interactions.parquet"
        parts.mkdir()
        query = "select 'ann' as user_id, 'tea' as item_id, timestamp '2025-01-01' as ts"
        for name, where in (("part-00000-a.parquet", "true"), ("part-00001-a.parquet", "false")):
            duckdb.connect().execute(f"copy ({query} where {where}) to '{parts}/{name}'")
        (parts / "_SUCCESS").touch()
        (parts / ".part-00000-a.parquet.crc").write_bytes(b"crc")
        (folder / "items.csv").write_text(ITEMS)
        content = ingest(settings, folder)
        assert [(entry["source_file"], entry["rows"]) for entry in content["batches"]] == [
            ("interactions.parquet/part-00000-a.parquet", 1),
            ("interactions.parquet/part-00001-a.parquet", 0),
            ("items.csv", 1),
        ]

    def test_parts_at_the_top_of_the_folder(self, folder: Path, settings: Settings) -> None:
        for number in range(2):
            (folder / f"part-0000{number}.csv").write_text(LOG.replace("tea", f"tea {number}"))
        (folder / "part-00002.csv").touch()
        (folder / "_SUCCESS").touch()
        assert sum(entry["rows"] for entry in ingest(settings, folder)["batches"]) == 4

    @pytest.mark.parametrize("inside", ["", "interactions"])
    def test_folders_that_name_a_column(self, inside: str, folder: Path, settings: Settings) -> None:
        for day in ("2025-01-01", "2025-01-02"):
            part = folder / inside / f"dt={day}"
            part.mkdir(parents=True)
            (part / "part-0.csv").write_text("user_id,item_id\nann,tea\n")
        content = ingest(settings, folder)
        assert content["split_mode"] == "temporal"
        assert landed(settings, "interactions", "user_id, event_ts") == [("ann", "2025-01-01"), ("ann", "2025-01-02")]

    def test_a_year_a_month_and_a_day_are_a_date(self, folder: Path, settings: Settings) -> None:
        part = folder / "events" / "year=2025" / "month=1" / "day=2"
        part.mkdir(parents=True)
        (part / "part-0.csv").write_text("user_id,item_id\nann,tea\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "event_ts") == [("2025-01-02",)]

    def test_a_new_part_lands_alone_though_its_bytes_are_those_of_another(
        self, folder: Path, settings: Settings
    ) -> None:
        for day in ("2025-01-01", "2025-01-02"):
            part = folder / f"dt={day}"
            part.mkdir()
            (part / "part-0.csv").write_text("user_id,item_id\nann,tea\n")
            content = ingest(settings, folder)
        assert [entry["rows"] for entry in content["batches"]] == [1, 1]
        assert len(landed(settings, "interactions")) == 2

    def test_exports_with_the_same_columns(self, folder: Path, settings: Settings) -> None:
        fill(folder, **{"2019-Oct__csv": LOG, "2019-Nov__csv": LOG.replace("tea", "jam")})
        assert len(ingest(settings, folder)["batches"]) == 2

    def test_files_with_other_columns_are_no_parts(self, folder: Path, settings: Settings) -> None:
        fill(folder, x__csv=LOG, y__csv=ITEMS)
        with pytest.raises(InputError, match=r"holds no log that can be told.*x\.csv, y\.csv.*data\.interactions"):
            ingest(settings, folder)

    def test_the_one_file_that_cannot_be_read_is_named(self, folder: Path, settings: Settings) -> None:
        fill(folder, combined_1__txt="1:\n7,3,2025-01-01\n8,3,2025-01-01\n", titles__csv="id,title\n1,Tea\n2,Jam\n")
        with pytest.raises(InputError, match="Netflix Prize"):
            ingest(settings, folder)

    def test_copies_of_a_file_land_once_and_it_is_said(
        self, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(folder, events_1__csv=LOG, events_2__csv=LOG)
        ingest(settings, folder)
        assert len(landed(settings, "interactions")) == 2
        assert "events_2.csv: the same rows as events_1.csv, landed once" in capsys.readouterr().err
