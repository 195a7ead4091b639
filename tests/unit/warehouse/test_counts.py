"""What is said of the landed rows after staging: accepted, set apart, repeats, and why nothing can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pytest
from unit.staging_world import faulty, stage

from reclm.settings.loading import load
from reclm.warehouse.counts import say_counts, why_unusable
from reclm.warehouse.near_ids import near_match

Say = Callable[..., str]
AS_OF = "data.as_of=2023-01-01T00:00:00+00:00"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as made:
        made.execute("set TimeZone = 'UTC'")
        yield made


@pytest.fixture
def said(connection: duckdb.DuckDBPyConnection, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*flags: str, **tables: Sequence[dict[str, Any]]) -> str:
        stage(connection, **tables)
        say_counts(load(flags, environment={}), connection)
        return capsys.readouterr().err

    return run


def likes(n: int, user: str = "u{}", item: str = "i{}") -> list[dict[str, Any]]:
    return [{"user_id": user.format(number), "item_id": item.format(number % 7)} for number in range(n)]


class TestAfterABuild:
    def test_a_clean_log_takes_one_line(self, said: Say) -> None:
        assert said(interactions=likes(30), items=[{"item_id": "i1"}]) == "accepted  30 interactions, 1 items\n"

    def test_rows_set_apart_are_counted_by_reason_with_the_first_value_place_and_remedy(self, said: Say) -> None:
        rows = [*likes(60), faulty("bad_timestamp", "soon"), faulty("unknown_item", "x"), faulty("unknown_item", "y")]
        lines = said(interactions=rows).splitlines()
        assert lines[0] == "accepted  60 of 63 interactions (4.8% set apart)"
        assert lines[1] == ("2 interactions set apart as unknown_item, e.g. 'x' (log.csv, row 62). Mend unknown_item.")
        assert lines[2].startswith("1 interactions set apart as bad_timestamp, e.g. 'soon' (log.csv, row 61)")
        assert len(lines) == 3

    def test_repeats_are_no_fault_and_count_in_no_share(self, said: Say) -> None:
        rows = [*likes(19), *likes(200), faulty("bad_weight", "x")]
        for row in rows[19:-1]:
            row["status"] = "repeat"
        text = said(interactions=rows)
        assert "200 repeat a row that landed before: counted once, no fault" in text
        assert "warning" not in text

    def test_more_than_the_bound_is_a_warning(self, said: Say) -> None:
        rows = [*likes(18), faulty("bad_weight", "x"), faulty("bad_weight", "y")]
        assert "warning: 10.0% of the interactions are set apart, more than health.max_set_apart=0.05" in said(
            interactions=rows
        )
        assert "warning" not in said("health.max_set_apart=0.2", interactions=rows)

    def test_a_user_who_holds_most_of_the_log_is_named(self, said: Say) -> None:
        text = said(interactions=[*likes(10), *likes(30, user="crawler")])
        assert "warning: user 'crawler' holds 75% of the interactions (30 of 40)" in text

    def test_dates_that_can_be_read_two_ways_are_told_with_the_setting(self, said: Say) -> None:
        rows = likes(3)
        rows[0] |= {"time_form": "month_first_assumed", "event_ts": "2024-05-01"}
        text = said(interactions=rows)
        assert "1 dates of log.csv can be read day first or month first" in text
        assert "the earliest is 1 May 2024. If that is wrong: data.timestamp_format=%d/%m/%Y" in text


class TestWhyALogCannotBeUsed:
    def test_is_empty_where_it_can(self, connection: duckdb.DuckDBPyConnection) -> None:
        rows = [{**row, "event_ts": f"2024-01-0{day}"} for day, row in enumerate(likes(3), start=1)]
        stage(connection, interactions=[*rows, faulty("bad_weight", "x")])
        assert why_unusable(load(environment={}), connection) == ""

    def test_names_every_reason_with_an_example_and_the_first_remedy(
        self, connection: duckdb.DuckDBPyConnection
    ) -> None:
        stage(connection, interactions=[faulty("bad_weight", "x"), *[faulty("bad_timestamp", "soon")] * 2])
        assert why_unusable(load(environment={}), connection) == (
            "0 of 3 interactions can be used: 2 bad_timestamp (e.g. 'soon'); 1 bad_weight (e.g. 'x'). "
            "Mend bad_timestamp."
        )

    def test_shows_two_ids_that_nearly_meet(self, connection: duckdb.DuckDBPyConnection) -> None:
        rows = [faulty("unknown_item", f"0{n}", item_id=f"0{n}") for n in range(5)]
        stage(connection, interactions=rows, items=[{"item_id": str(n)} for n in range(5)])
        assert why_unusable(load(environment={}), connection) == (
            "0 of 5 interactions can be used: 5 unknown_item, e.g. log '01', items '1': only leading zeros differ; "
            "write the ids alike in both files"
        )

    def test_says_that_nothing_is_known_yet_at_an_as_of_before_the_log(
        self, connection: duckdb.DuckDBPyConnection
    ) -> None:
        stage(connection, interactions=[{**row, "status": "pending", "event_ts": "2024-01-05"} for row in likes(3)])
        why = why_unusable(load(["data.as_of=2023-01-01"], environment={}), connection)
        assert why.startswith(f"0 of 3 interactions can be used: 3 lie at or after {AS_OF}. They are from 2024-01-05")

    def test_says_that_one_moment_cannot_be_cut_and_what_to_do(self, connection: duckdb.DuckDBPyConnection) -> None:
        stage(connection, interactions=[{**row, "event_ts": "2024-03-01"} for row in likes(3)])
        why = why_unusable(load(environment={}), connection)
        assert why.startswith("3 interactions lie at one moment, 2024-03-01 00:00:00 UTC, which cannot be cut by time")
        assert "remove that column" in why and "data.timestamp_column" in why
        connection.execute("update stg_parameters set split_mode = 'assigned'")
        assert why_unusable(load(environment={}), connection) == ""

    def test_says_that_all_are_dislikes(self, connection: duckdb.DuckDBPyConnection) -> None:
        stage(connection, interactions=[{**row, "status": "not_a_like"} for row in likes(3)])
        assert "3 dislikes or events of weight 0" in why_unusable(load(environment={}), connection)

    def test_says_that_nothing_landed(self, connection: duckdb.DuckDBPyConnection) -> None:
        stage(connection)
        assert "no interaction has landed" in why_unusable(load(environment={}), connection)


class TestNearIds:
    @pytest.mark.parametrize(
        ("logged", "listed", "expected"),
        [
            ("0071", "71", "leading zeros differ"),
            ("71.0", "71", "`.0` at the end differs"),
            ("7 1 ", "71", "blanks differ"),
            ("B0A", "b0a", "capital letters differ"),
            (" 0b1.0", "B1", "zeros, blanks or capitals differ"),
        ],
    )
    def test_the_simplest_difference_is_named(
        self, connection: duckdb.DuckDBPyConnection, logged: str, listed: str, expected: str
    ) -> None:
        rows = [faulty("unknown_item", item, item_id=item) for item in (logged, "else")]
        stage(connection, interactions=rows, items=[{"item_id": listed}, {"item_id": "other"}])
        assert near_match(connection).startswith(f"log {logged!r}, items {listed!r}: only {expected}")

    def test_an_id_in_the_text_of_an_item_tells_of_another_column(self, connection: duckdb.DuckDBPyConnection) -> None:
        rows = [faulty("unknown_item", "B01", item_id="B01")]
        stage(connection, interactions=rows, items=[{"item_id": "1", "text": "Kettle B01 red"}])
        assert near_match(connection).startswith("log 'B01' stands in the text of item '1': another column")

    def test_ids_that_have_nothing_in_common_give_no_hint(self, connection: duckdb.DuckDBPyConnection) -> None:
        stage(connection, interactions=[faulty("unknown_item", "x", item_id="x")], items=[{"item_id": "y"}])
        assert near_match(connection) == ""
