"""JSON and parquet: numbers, nulls and nested values of any type, in any role, land as the text they stand for."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import pytest
from unit.ingest_world import Make, landed

from reclm.errors import InputError
from reclm.ingest import ingest
from reclm.ingest.files import LogFile
from reclm.settings.tree import Settings

ROLES = "user_id, item_id, event_ts, weight"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(**values: Any) -> dict[str, Any]:
    return {"user_id": "ann", "item_id": "tea", "timestamp": "2025-01-01", "rating": 1} | values


def users_of(path: Path) -> list[str]:
    file = LogFile(path)
    with duckdb.connect() as con:
        return [row[0] for row in con.execute(f"select user_id from {file.relation('unreadable')}").fetchall()]


class TestNumbersInJson:
    def test_a_rating_with_a_fraction(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text(lines(row(rating=4.5), row(rating=4.0), row(rating=None)))
        ingest(settings, folder)
        assert landed(settings, "interactions", "weight") == [("4.5",), ("4",), (None,)]

    def test_any_type_in_any_role_and_types_that_mix(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text(
            lines(
                row(user_id=1.0, item_id=7, timestamp=1.5e9, rating=4.5),
                row(user_id="1.0", item_id="x", timestamp="1500000000", rating="5"),
                row(user_id=None, item_id=None, timestamp=None, rating=None),
                row(user_id=math.nan, item_id=2**70, timestamp=math.nan, rating=math.nan),
                row(user_id={"a": 1}, item_id=True, timestamp=1500000000000, rating=[1]),
            )
        )
        ingest(settings, folder)
        assert landed(settings, "interactions", ROLES) == [
            ("1", "7", "1500000000", "4.5"),
            ("1.0", "x", "1500000000", "5"),
            (None, None, None, None),
            (None, "1180591620717411303424", None, None),
            ('{"a":1}', "true", "1500000000000", "[1]"),
        ]

    def test_numbers_of_items_and_splits(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.jsonl").write_text(lines(row(split="train"), row(split=1.0), row(split=None)))
        (folder / "items.jsonl").write_text(
            lines(
                {"item_id": 7.0, "title": 1984.0, "created_at": 1.5e9, "tags": ["a", 2.0]},
                {"item_id": 8, "title": None, "created_at": None, "tags": None},
            )
        )
        ingest(settings, folder)
        assert landed(settings, "interactions", "split") == [("train",), ("1",), (None,)]
        assert landed(settings, "items", "item_id, title, created_ts, categories") == [
            ("7", "1984", "1500000000", "a|2.0"),
            ("8", None, None, None),
        ]


class TestArrangementsOfJson:
    ROWS = (row(user_id="a"), row(user_id="b"), row(user_id="c"))

    @pytest.mark.parametrize("suffix", ["json", "jsonl", "txt"])
    @pytest.mark.parametrize(
        "text",
        [
            lines(*ROWS),
            json.dumps(ROWS),
            json.dumps(ROWS, indent=2),
            "\n".join(json.dumps(one, indent=2) for one in ROWS),
            "\n\n" + lines(*ROWS).replace("\n", "\r\n\r\n"),
        ],
    )
    def test_lines_arrays_and_objects_over_several_lines(self, text: str, suffix: str, tmp_path: Path) -> None:
        (tmp_path / f"log.{suffix}").write_text(text)
        assert users_of(tmp_path / f"log.{suffix}") == ["a", "b", "c"]

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
    def test_encodings(self, encoding: str, tmp_path: Path) -> None:
        text = json.dumps(row(user_id="René"), ensure_ascii=False) + "\n"
        (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(text.encode(encoding)))
        assert users_of(tmp_path / "log.jsonl.gz") == ["René"]

    def test_names_that_differ_by_case_only(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text(lines(row(about={"Colour": "red", "colour": "blue"}), row(about=None)))
        assert ingest(settings, folder)["batches"][0]["rows"] == 2

    def test_python_dicts_are_named_with_the_line(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text("".join(f"{one}\n" for one in self.ROWS))
        with pytest.raises(InputError, match=r"log\.jsonl, line 1 is a Python dict, not JSON; .*ast\.literal_eval"):
            ingest(settings, folder)

    @pytest.mark.parametrize("bad", ['{"user_id": "d", "item', '{"user_id": "\\ud800"}', "[1, 2]", "{'user_id': 'd'}"])
    def test_a_line_that_is_no_object_is_set_apart_with_its_text(
        self, bad: str, folder: Path, settings: Settings
    ) -> None:
        (folder / "log.jsonl").write_text(lines(*self.ROWS * 5) + bad + "\n" + lines(*self.ROWS))
        content = ingest(settings, folder)
        assert (content["batches"][0]["rows"], content["batches"][0]["unreadable"]) == (19, 1)
        assert landed(settings, "interactions", "source_row, user_id")[14:17] == [(15, "c"), (16, None), (17, "a")]
        pattern = settings.paths.landing / "rejected" / "*.parquet"
        assert duckdb.connect().execute(f"select source_row, line from '{pattern}'").fetchall() == [(16, bad)]

    @pytest.mark.parametrize(
        "content",
        [
            {"user_id": {"0": "a", "1": "b"}, "item_id": {"0": "x", "1": "y"}},
            {"columns": ["user_id"], "index": [0], "data": [["a"]]},
        ],
    )
    def test_a_table_written_by_column_is_to_be_written_by_row(self, content: object, tmp_path: Path) -> None:
        (tmp_path / "log.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"one object of columns .*orient='records'"):
            LogFile(tmp_path / "log.json").types  # noqa: B018


class TestEventsInsideAList:
    SESSIONS = lines(
        {"session": 1, "events": [{"aid": 28, "ts": 1705127312000}, {"aid": 16.0, "ts": None}]},
        {"session": 2, "events": []},
        {"session": 3, "events": [{"aid": 2.5, "ts": 1}]},
    )

    def test_the_list_and_its_fields_are_named_with_two_ways_out(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text(self.SESSIONS)
        with pytest.raises(InputError) as caught:
            ingest(settings, folder)
        message = str(caught.value)
        assert "inside the list 'events', whose entries have aid, ts" in message
        assert "--set data.item_column=aid" in message
        assert "select session, unnest(events, recursive := true) from 'log.jsonl'" in message

    def test_each_entry_is_a_row_once_the_item_is_named(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.jsonl").write_text(self.SESSIONS)
        data = {"item_column": "aid", "user_column": "session", "timestamp_column": "ts"}
        settings = workspace_settings(data=data)
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts, source_row") == [
            ("1", "28", "1705127312000", 1),
            ("1", "16", None, 2),
            ("3", "2.5", "1", 3),
        ]

    def test_the_query_of_the_remedy_works(self, tmp_path: Path) -> None:
        (tmp_path / "log.jsonl").write_text(self.SESSIONS)
        query = f"select session, unnest(events, recursive := true) from '{tmp_path}/log.jsonl'"
        assert len(duckdb.connect().execute(query).fetchall()) == 3

    def test_order_lines_of_a_usual_name_are_found(self, folder: Path, settings: Settings) -> None:
        duckdb.connect().execute(
            "copy (select 'ann' as customer_id, date '2025-01-01' as date, [{'sku': 'tea', 'date': 1}, "
            f"{{'sku': 'jam', 'date': 2}}] as lines) to '{folder}/orders.parquet'"
        )
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts") == [
            ("ann", "tea", "2025-01-01"),
            ("ann", "jam", "2025-01-01"),
        ]

    def test_a_list_beside_a_column_of_items_stays_a_list(self, folder: Path, settings: Settings) -> None:
        (folder / "log.jsonl").write_text(lines(row(images=[{"url": "x"}, {"url": "y"}])))
        assert ingest(settings, folder)["batches"][0]["rows"] == 1


class TestParquet:
    def land(self, query: str, folder: Path, settings: Settings) -> list[tuple[Any, ...]]:
        duckdb.connect().execute(f"copy ({query}) to '{folder}/log.parquet'")
        ingest(settings, folder)
        return landed(settings, "interactions", ROLES)

    def test_floats_in_every_role(self, folder: Path, settings: Settings) -> None:
        query = """
            select * from (values
                (1.0::double, 2.0::float, 1.5e9::double, 4.5::float),
                ('nan'::double, 'nan'::float, 'nan'::double, 'inf'::float),
                (null, 2.5, null, null)
            ) as log(user_id, item_id, timestamp, rating)
        """
        assert self.land(query, folder, settings) == [
            ("1", "2", "1500000000", "4.5"),
            (None, None, None, "inf"),
            (None, "2.5", None, None),
        ]

    def test_decimals_bytes_and_large_numbers(self, folder: Path, settings: Settings) -> None:
        query = """
            select 12.00::decimal(20, 2) as user_id, 'tea'::blob as item_id, timestamp '2025-01-01 10:00:00' as ts,
                18446744073709551615::ubigint as rating
        """
        assert self.land(query, folder, settings) == [("12", "tea", "2025-01-01 10:00:00", "18446744073709551615")]

    def test_nested_values_are_json(self, tmp_path: Path) -> None:
        query = "select {'a': 1, 'b': [1.5]} as struct, map {'k': 'v'} as map, [{'x': 1}] as list, [[1], [2]] as lists"
        duckdb.connect().execute(f"copy ({query}) to '{tmp_path}/log.parquet'")
        relation = LogFile(tmp_path / "log.parquet").relation("unreadable")
        assert duckdb.connect().execute(f"select * from {relation}").fetchall() == [
            ('{"a":1,"b":[1.5]}', '{"k":"v"}', ['{"x":1}'], ["[1]", "[2]"])
        ]

    def test_a_file_is_parquet_by_its_content(self, folder: Path, settings: Settings) -> None:
        duckdb.connect().execute(f"copy (select 1 as user_id, 2 as item_id) to '{folder}/x.parquet'")
        (folder / "log.csv").write_bytes((folder / "x.parquet").read_bytes())
        (folder / "x.parquet").unlink()
        assert ingest(settings, folder)["batches"][0]["rows"] == 1
