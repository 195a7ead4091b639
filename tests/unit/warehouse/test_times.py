"""Times as people write them: the SQL that staging reads them by, run on small columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import jinja2
import numpy as np
import pyarrow as pa
import pytest

from reclm.warehouse.sources import dbt_project

Reading = tuple[str | None, str]


def read(*files: Sequence[str], formats: Sequence[str] = (), zone: str = "UTC", machine: str = "UTC") -> list[Reading]:
    """Returns (moment, form) of each text, file by file; `machine` is the time zone of the session."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    macros: Any = environment.from_string((dbt_project() / "macros" / "time.sql").read_text()).module
    ctes = macros.read_times("event_ts", {"formats": formats, "zone": zone})
    rows = [(f"{n:03}.parquet", place, text) for n, file in enumerate(files) for place, text in enumerate(file)]
    with duckdb.connect() as connection:
        connection.execute(f"set TimeZone = '{machine}'")
        columns = dict(zip(("filename", "place", "event_ts"), map(list, zip(*rows, strict=True)), strict=True))
        connection.register("rows", pa.table(columns))
        connection.execute("create table landed as select * from rows")
        found = connection.execute(
            f"with ordered as (select * from landed), {ctes} "
            "select strftime(time_at at time zone 'UTC', '%Y-%m-%d %H:%M:%S'), time_form "
            "from timed order by filename, place"
        ).fetchall()
    return [tuple(row) for row in found]


def moments(*texts: str, **how: Any) -> list[str | None]:
    return [moment for moment, _ in read(texts, **how)]


SAME_MOMENT = (
    "2022-01-27T23:04:00Z",
    "2022-01-28T01:04:00+02:00",
    "2022-01-28 01:04:00 +0200",
    "2022-01-27 23:04",
    "2022/01/27 23:04:00",
    "2022.01.27 23:04",
    "2022-01-27 11:04 PM",
    "20220127T230400Z",
    "20220127230400",
    "202201272304",
    "1643324640",
    "1643324640.0",
    "1.64332464e9",
    "1643324640000",
    "1643324640000000",
    "1643324640000000000",
    "1/27/2022 11:04 PM",
    "1/27/22 23:04",
    "27.01.2022 23:04",
    "27.1.22 23:04:00",
    "27-01-2022 23:04:00,000",
    "01 27, 2022 23:04",
    "Thu, 27 Jan 2022 23:04:00 +0000",
    "Thu, 27 Jan 2022 23:04:00 GMT",
    "Thu Jan 27 23:04:00 +0000 2022",
    "Thu Jan 27 23:04:00 2022",
    "Fri Jan 28 2022 01:04:00 GMT+0200 (EET)",
    "27/Jan/2022:15:04:00 -0800",
    "27-Jan-2022 23:04",
    "January 27, 2022 11:04 p.m.",
    "Thursday, January 27th, 2022 23:04",
    " 2022-01-27 23:04:00 ",
)
NO_TIMES = (
    "yesterday",
    "2024-02-30",
    "31.02.2024",
    "13/13/2024",
    "9:05",
    "nan",
    "inf",
    "25:00",
    "1e99",
    "2024-01-05 25:00",
)


def each(texts: Sequence[str], **how: Any) -> dict[str, Reading]:
    """Returns {text: (moment, form)}, each text in a file of its own."""
    return dict(zip(texts, read(*([text] for text in texts), **how), strict=True))


class TestOneText:
    def test_every_usual_form_means_the_same_moment(self) -> None:
        found = {text: moment for text, (moment, _) in each(SAME_MOMENT).items()}
        assert found == dict.fromkeys(SAME_MOMENT, "2022-01-27 23:04:00")

    def test_a_date_alone_is_its_midnight(self) -> None:
        assert set(moments("Jan 27, 2022", "27.01.2022", "01 27, 2022", "2022-01-27", "1/27/2022")) == {
            "2022-01-27 00:00:00"
        }

    def test_what_is_no_time_is_told(self) -> None:
        assert each(NO_TIMES) == dict.fromkeys(NO_TIMES, (None, "unreadable"))

    def test_an_empty_text_is_no_time_and_no_fault(self) -> None:
        assert read(["", "  "]) == [(None, None)] * 2


class TestAnyMoment:
    FORMS = (
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S+00:00",
        "%Y%m%d%H%M%S",
        "%d.%m.%Y %H:%M:%S",
        "%m/%d/%Y %I:%M:%S %p",
        "%m %d, %Y %H:%M:%S",
        "%a, %d %b %Y %H:%M:%S +0000",
        "%a %b %d %H:%M:%S +0000 %Y",
        "%d/%b/%Y:%H:%M:%S +0000",
        "%B %d, %Y %I:%M:%S %p",
    )

    def test_is_the_same_in_every_form_of_a_file(self) -> None:
        generator = np.random.default_rng(7)
        drawn = generator.integers(315_532_800, 1_735_689_600, 300).tolist()  # 1980 to 2024
        times = [datetime.fromtimestamp(second, UTC) for second in drawn]
        files = [[moment.strftime(form) for moment in times] for form in self.FORMS]
        files += [[str(second) for second in drawn], [f"{second}000" for second in drawn]]
        expected = [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in times]
        found = read(*files)
        for number, file in enumerate(files):
            own = [moment for moment, _ in found[number * len(times) : (number + 1) * len(times)]]
            assert own == expected, file[0]


class TestNumbers:
    def test_eight_digits_that_make_a_date_are_one(self) -> None:
        assert read(["20240115", "19751231", "20240301"]) == [
            ("2024-01-15 00:00:00", "date_number"),
            ("1975-12-31 00:00:00", "date_number"),
            ("2024-03-01 00:00:00", "date_number"),
        ]

    def test_a_counter_that_passes_by_a_date_is_none(self) -> None:
        forms = [form for _, form in read(["20240115", "20240190", "20240210", "20240299", "20249999"])]
        assert set(forms) == {"suspect"}

    def test_a_number_that_falls_before_1980_is_suspect_beside_times(self) -> None:
        early = ["0", "13306", "-5", "44588.96", "315532799", "315532799000"]
        assert read([*early, "1643324640"]) == [(None, "suspect")] * 6 + [("2022-01-27 23:04:00", "epoch")]

    def test_a_time_of_the_seventies_that_is_written_out_is_none(self) -> None:
        assert read(["1975-03-03"]) == [("1975-03-03 00:00:00", "iso")]

    def test_a_column_of_spreadsheet_days_is_read_as_such(self) -> None:
        assert moments("44588.96", "44588,96", "44589") == ["2022-01-27 23:02:24"] * 2 + ["2022-01-28 00:00:00"]

    def test_each_file_is_judged_by_itself(self) -> None:
        forms = [form for _, form in read(["44588.96"], ["44588", "1643324640"])]
        assert forms == ["excel", "suspect", "epoch"]


class TestDayAndMonth:
    def test_a_part_over_12_tells_the_order_of_its_file(self) -> None:
        assert moments("05/01/2024", "27/01/2024") == ["2024-01-05 00:00:00", "2024-01-27 00:00:00"]
        assert moments("05/01/2024", "05/27/2024") == ["2024-05-01 00:00:00", "2024-05-27 00:00:00"]

    def test_a_file_that_does_not_tell_follows_the_others(self) -> None:
        assert read(["05/01/2024"], ["27/01/2024"])[0] == ("2024-01-05 00:00:00", "day_first")

    def test_without_any_sign_month_first_is_assumed_and_said(self) -> None:
        assert read(["05/01/2024"]) == [("2024-05-01 00:00:00", "month_first_assumed")]

    def test_dots_mean_day_first(self) -> None:
        assert read(["05.01.2024"]) == [("2024-01-05 00:00:00", "day_first")]

    def test_in_a_file_with_both_orders_only_dates_that_tell_are_read(self) -> None:
        assert read(["05/01/2024", "27/01/2024", "01/27/2024"]) == [
            (None, "ambiguous"),
            ("2024-01-27 00:00:00", "day_first"),
            ("2024-01-27 00:00:00", "month_first"),
        ]


class TestStatedFormats:
    def test_a_stated_format_wins_over_what_the_file_shows(self) -> None:
        found = read(["05/01/2024 9h31", "2024-01-05"], formats=["%d/%m/%Y %Hh%M"])
        assert found == [("2024-01-05 09:31:00", "stated"), ("2024-01-05 00:00:00", "iso")]

    def test_stated_numbers_are_not_suspect(self) -> None:
        assert moments("0", "13306", formats=["epoch_s"]) == ["1970-01-01 00:00:00", "1970-01-01 03:41:46"]
        assert moments("1000", formats=["epoch_ms"]) == ["1970-01-01 00:00:01"]
        assert moments("20000.5", "0", formats=["excel"]) == ["1954-10-03 12:00:00", "1899-12-30 00:00:00"]

    def test_the_first_format_that_fits_is_taken(self) -> None:
        assert moments("27 01 2024", "7.5", formats=["%d %m %Y", "epoch_s"]) == [
            "2024-01-27 00:00:00",
            "1970-01-01 00:00:07",
        ]


class TestZones:
    TEXTS = ("2024-07-05 09:31:59", "05.07.2024 09:31:59", "2024-07-05T09:31:59Z", "1720171919", "20240705")

    @pytest.mark.parametrize("machine", ["UTC", "America/New_York"])
    def test_a_time_without_a_zone_is_of_the_stated_one_whatever_the_machine_says(self, machine: str) -> None:
        assert moments(*self.TEXTS, zone="Europe/Berlin", machine=machine) == [
            "2024-07-05 07:31:59",
            "2024-07-05 07:31:59",
            "2024-07-05 09:31:59",
            "2024-07-05 09:31:59",
            "2024-07-04 22:00:00",
        ]

    def test_of_an_hour_that_comes_twice_the_second_is_meant_and_a_missing_hour_is_an_hour_later(self) -> None:
        found = moments("2024-11-03 01:30:00", "2024-03-10 02:30:00", zone="America/New_York")
        assert found == ["2024-11-03 06:30:00", "2024-03-10 07:30:00"]
