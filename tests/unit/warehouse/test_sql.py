"""`reclm sql`: exact results in CSV and JSON, and plain words for what it cannot do."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from reclm.errors import InputError, WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage.files import write_rows
from reclm.warehouse.sql import Output, shell, show


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings]) -> Settings:
    made = workspace_settings()
    made.paths.warehouse.parent.mkdir(parents=True)
    with duckdb.connect(str(made.paths.warehouse)) as connection:
        connection.execute("create table dim_items as select 'i1' as item_id, 'Tea, \"green\"\nloose' as title")
    return made


@pytest.fixture
def asked(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[[str, Output], str]:
    def ask(query: str, output: Output) -> str:
        show(settings, query, output)
        return capsys.readouterr().out

    return ask


VALUES = [
    ("null", None, ""),
    ("''", "", ""),
    ("true", True, "true"),
    ("12345678901234567890123::hugeint", 12345678901234567890123, "12345678901234567890123"),
    ("0.1::double", 0.1, "0.1"),
    ("'nan'::double", "NaN", "NaN"),
    ("'-inf'::double", "-Infinity", "-Infinity"),
    ("timestamptz '2024-01-01 10:00:00.25+00'", "2024-01-01T10:00:00.250000+00:00", "2024-01-01T10:00:00.250000+00:00"),
    ("timestamp '2024-01-01 10:00:00'", "2024-01-01T10:00:00", "2024-01-01T10:00:00"),
    ("date '2024-01-02'", "2024-01-02", "2024-01-02"),
    ("'\\xAA\\x00b\\x5C'::blob", "\\xAA\\x00b\\x5C", "\\xAA\\x00b\\x5C"),
    ("['a,b', null]", ["a,b", None], '["a,b", null]'),
    ("{'x': 1, 'y': [true]}", {"x": 1, "y": [True]}, '{"x": 1, "y": [true]}'),
    ("map {date '2024-01-02': 1.5::double}", {"2024-01-02": 1.5}, '{"2024-01-02": 1.5}'),
    ("'é\u2028 \"x\"'", 'é\u2028 "x"', 'é\u2028 "x"'),
    ("interval '26 hours'", "1 day 02:00:00", "1 day 02:00:00"),
    ("-interval '90 minutes'", "-01:30:00", "-01:30:00"),
    ("timestamp '2024-03-03' - timestamp '2024-01-01 23:59:59.5'", "61 days 00:00:00.5", "61 days 00:00:00.5"),
]
"""(SQL, the value in JSON, the cell in CSV)."""


class TestExactness:
    @pytest.mark.parametrize(("sql", "as_json", "as_csv"), VALUES, ids=[sql for sql, *_ in VALUES])
    def test_of_a_value(self, asked: Callable[[str, Output], str], sql: str, as_json: Any, as_csv: str) -> None:
        query = f"select {sql} as x, 1 as n"
        assert json.loads(asked(query, "json")) == {"x": as_json, "n": 1}
        assert list(csv.reader(io.StringIO(asked(query, "csv"), newline=""))) == [["x", "n"], [as_csv, "1"]]

    def test_of_a_decimal_keeps_its_digits(self, asked: Callable[[str, Output], str]) -> None:
        query = "select 1.10::decimal(10, 2) as x, [0.10] as y"
        assert asked(query, "json") == '{"x": 1.10, "y": [0.10]}\n'
        assert asked(query, "csv") == "x,y\n1.10,[0.10]\n"

    def test_of_commas_quotes_and_line_ends(self, asked: Callable[[str, Output], str]) -> None:
        found = list(csv.reader(io.StringIO(asked("select title from dim_items", "csv"), newline="")))
        assert found == [["title"], ['Tea, "green"\nloose']]

    def test_of_two_columns_with_one_name(self, asked: Callable[[str, Output], str]) -> None:
        assert json.loads(asked("select 1 as a, 2 as a, 3 as b", "json")) == {"a": 1, "a_1": 2, "b": 3}

    def test_tells_null_from_an_empty_text_and_writes_no_empty_line(self, asked: Callable[[str, Output], str]) -> None:
        assert asked("select null as a, '' as b", "csv") == 'a,b\n,""\n'
        assert asked("select null as a", "csv") == 'a\n""\n'


class TestFeastsMarts:
    def test_which_are_files_of_the_workspace_can_be_read_and_no_other_file_of_it(
        self, settings: Settings, asked: Callable[[str, Output], str]
    ) -> None:
        for name in ("external/b1", "secret"):
            (settings.paths.root / "warehouse" / name).mkdir(parents=True)
            write_rows(settings.paths.root / "warehouse" / name / "x.parquet", [{"a": 1}], pa.schema({"a": pa.int64()}))
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute(f"set file_search_path = '{settings.paths.root}'")
            connection.execute("create view feast_x as select * from read_parquet('warehouse/external/b1/x.parquet')")
            connection.execute("create view other as select * from read_parquet('warehouse/secret/x.parquet')")
        assert asked("select * from feast_x", "csv") == "a\n1\n"
        with pytest.raises(InputError, match="and no file"):
            asked("select * from other", "csv")


class TestRefusal:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", "there is no statement in ''"),
            ("  -- nothing\n", "there is no statement"),
            ("select 1; select 2", "2 statements were given; give one"),
            ("select 'a", "unterminated"),
            ("select nonsense from dim_items", "show tables"),
            ("insert into dim_items values ('a', 'b')", "for reading: dbt alone writes"),
            ("create table mine as select 1", "for reading: dbt alone writes"),
            ("drop table dim_items", "for reading: dbt alone writes"),
            ("select * from read_csv('/etc/passwd')", "and no file"),
            ("select * from '/tmp/x.parquet'", "and no file"),
            ("copy dim_items to '/tmp/stolen.csv'", "writes no file"),
            ("explain /* */ analyze copy dim_items to 'warehouse/external/stolen.csv'", "writes no file"),
            ("copy dim_items to 'warehouse/external/stolen.csv'", "writes no file"),
            ("export database '/tmp/stolen'", "writes no file"),
            ("attach '/tmp/other.duckdb'", "and no file"),
            ("load httpfs", "no extension"),
            ("set threads = 1", "options of the database are fixed"),
        ],
    )
    def test_says_in_words_why(self, settings: Settings, query: str, expected: str) -> None:
        with pytest.raises(InputError, match=expected):
            show(settings, query, "table")

    def test_of_a_workspace_without_a_build_names_the_command(
        self, workspace_settings: Callable[..., Settings]
    ) -> None:
        with pytest.raises(WorkspaceError, match="reclm build"):
            show(workspace_settings(), "select 1", "table")


class TestTheShell:
    def test_runs_several_statements_of_one_line(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("select 1 as a; select 2 as b;\n-- the end\n"))
        shell(settings, "csv")
        assert capsys.readouterr().out == "a\n1\nb\n2\n"
