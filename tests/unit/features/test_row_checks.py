"""Every kind of invalid feature row with its error message, and rows that pass."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from reclm.errors import PublishError
from reclm.features.row_checks import ViewSchema, add_stamps, check_rows, latest_rows

SCHEMA = ViewSchema(
    "user_profile",
    ("user_id",),
    {"profile": pa.string(), "embedding": pa.list_(pa.float32()), "quality": pa.float32()},
)
MOMENT = datetime(2000, 1, 2, tzinfo=UTC)
UTC_TIME = pa.timestamp("us", tz="UTC")


def table(**columns: pa.Array) -> pa.Table:
    """Two good rows of width 3, some columns replaced."""
    good = {
        "user_id": pa.array(["u1", "u2"]),
        "as_of": pa.array([MOMENT, MOMENT], UTC_TIME),
        "created_at": pa.array([MOMENT, MOMENT], UTC_TIME),
        "profile": pa.array(["a", "b"]),
        "embedding": pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float32())),
        "quality": pa.array([0.5, None], pa.float32()),
    }
    return pa.table(good | columns)


class TestGoodRowsPass:
    def test_rows_come_out_with_the_declared_columns_only(self) -> None:
        rows, dropped = check_rows(SCHEMA, table(extra=pa.array([1, 2])), 3)
        assert rows.column_names == list(SCHEMA.columns)
        assert rows["embedding"].to_pylist() == [[1, 2, 3], [4, 5, 6]]
        assert dropped == 0

    @pytest.mark.parametrize(
        "kind", [pa.large_list(pa.float32()), pa.list_(pa.float32(), 3), pa.list_(pa.field("element", pa.float32()))]
    )
    def test_any_list_layout_becomes_the_declared_one(self, kind: pa.DataType) -> None:
        rows, _ = check_rows(SCHEMA, table(embedding=pa.array([[1, 2, 3], [4, 5, 6]], kind)), 3)
        assert rows.schema.field("embedding").type == pa.list_(pa.float32())

    def test_a_null_vector_means_that_there_is_none(self) -> None:
        rows, _ = check_rows(SCHEMA, table(embedding=pa.array([None, [4, 5, 6]], pa.list_(pa.float32()))), 3)
        assert rows["embedding"].null_count == 1

    def test_a_row_without_a_key_is_left_out_and_counted(self) -> None:
        rows, dropped = check_rows(SCHEMA, table(user_id=pa.array([None, "u2"])), 3)
        assert rows["user_id"].to_pylist() == ["u2"]
        assert dropped == 1

    def test_the_all_null_row_of_an_empty_model_becomes_an_empty_table_whatever_its_types(self) -> None:
        row = pa.table({column: pa.array([None], pa.int32()) for column in SCHEMA.columns})
        rows, _ = check_rows(SCHEMA, row, 3)
        assert rows.num_rows == 0
        assert rows.schema == SCHEMA.empty().schema


class TestInvalidRows:
    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            pytest.param(
                {"embedding": pa.array([[1, 2, 3], [4, 5]], pa.list_(pa.float32()))},
                "column embedding, row 2 (user_id 'u2'): has 2 numbers, expected are 3",
                id="wrong width",
            ),
            pytest.param(
                {"embedding": pa.array([None, [4, 5, np.nan]], pa.list_(pa.float32()))},
                "row 2 (user_id 'u2'): number 2 of the vector is nan",
                id="NaN in a vector",
            ),
            pytest.param(
                {"embedding": pa.array([[1, np.inf, 3], [4, 5, 6]], pa.list_(pa.float32()))},
                "row 1 (user_id 'u1'): number 1 of the vector is inf",
                id="infinity in a vector",
            ),
            pytest.param(
                {"embedding": pa.array([[1, None, 3], [4, 5, 6]], pa.list_(pa.float32()))},
                "number 1 of the vector is None",
                id="NULL inside a vector",
            ),
            pytest.param(
                {"embedding": pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float64()))},
                "column embedding, row 1 (user_id 'u1'): is list<item: double>, must be list<item: float>",
                id="float64 vector",
            ),
            pytest.param(
                {"quality": pa.array([0.5, 0.5], pa.float64())},
                "column quality, row 1 (user_id 'u1'): is double, must be float",
                id="float64 number",
            ),
            pytest.param(
                {"quality": pa.array([0.5, np.nan], pa.float32())},
                "column quality, row 2 (user_id 'u2'): nan is not a finite number",
                id="NaN number",
            ),
            pytest.param(
                {"as_of": pa.array([MOMENT.replace(tzinfo=None)] * 2, pa.timestamp("us"))},
                "column as_of, row 1 (user_id 'u1'): datetime.datetime(2000, 1, 2, 0, 0) has no time zone",
                id="naive time",
            ),
            pytest.param(
                {"created_at": pa.array([MOMENT] * 2, pa.timestamp("us", tz="Europe/Berlin"))},
                "has time zone Europe/Berlin",
                id="time in another zone",
            ),
            pytest.param({"as_of": pa.array(["2000-01-02"] * 2)}, "must be a timestamp", id="time as text"),
            pytest.param({"as_of": pa.array([MOMENT, None], UTC_TIME)}, "column as_of, row 2", id="NULL time"),
            pytest.param({"user_id": pa.array(["u1", "u1"])}, "occurs also in row 1", id="duplicate key"),
            pytest.param({"user_id": pa.array(["u1", ""])}, "row 2 (user_id ''): an empty id", id="empty id"),
            pytest.param(
                {"user_id": pa.array([1, 2])}, "column user_id, row 1 (user_id 1): is int64", id="number as id"
            ),
        ],
    )
    def test_the_error_names_place_value_and_remedy(self, columns: dict[str, pa.Array], message: str) -> None:
        with pytest.raises(PublishError) as error:
            check_rows(SCHEMA, table(**columns), 3)
        assert str(error.value).startswith("view user_profile, column ")
        assert message in str(error.value)
        assert str(error.value).endswith("; nothing was published")

    def test_row_numbers_count_the_rows_that_were_left_out(self) -> None:
        columns = {"user_id": pa.array([None, "u2"]), "quality": pa.array([0, np.inf], pa.float32())}
        with pytest.raises(PublishError, match="row 2"):
            check_rows(SCHEMA, table(**columns), 3)

    def test_a_missing_column_is_named_beside_those_there_are(self) -> None:
        with pytest.raises(PublishError, match=r"column quality: missing \(the file has user_id, as_of"):
            check_rows(SCHEMA, table().drop_columns(["quality"]), 3)

    def test_vectors_must_agree_among_themselves_when_no_width_is_declared(self) -> None:
        ragged = pa.array([[1, 2], [4, 5, 6]], pa.list_(pa.float32()))
        with pytest.raises(PublishError, match="has 3 numbers, expected are 2"):
            check_rows(SCHEMA, table(embedding=ragged), None)


class TestRowHash:
    def hashes(self, **columns: pa.Array) -> list[str]:
        return add_stamps(SCHEMA, check_rows(SCHEMA, table(**columns), None)[0])["row_hash"].to_pylist()

    @pytest.mark.parametrize("column", ["as_of", "created_at"])
    def test_no_time_counts(self, column: str) -> None:
        assert self.hashes() == self.hashes(**{column: pa.array([MOMENT.replace(year=2020)] * 2, UTC_TIME)})

    @pytest.mark.parametrize(
        "column",
        [
            {"profile": pa.array(["a", "c"])},
            {"quality": pa.array([0.5, 0.25], pa.float32())},
            {"embedding": pa.array([[1, 2, 3], [4, 5, 7]], pa.list_(pa.float32()))},
            {"embedding": pa.array([[1, 2, 3], None], pa.list_(pa.float32()))},
        ],
    )
    def test_everything_else_does(self, column: dict[str, pa.Array]) -> None:
        before, after = self.hashes(), self.hashes(**column)
        assert before[0] == after[0]
        assert before[1] != after[1]


class TestLatestRows:
    def test_the_latest_row_of_each_key_stays_whatever_the_order(self) -> None:
        rows = table(user_id=pa.array(["u1", "u1"]), as_of=pa.array([MOMENT.replace(day=3), MOMENT], UTC_TIME))
        kept = latest_rows(SCHEMA, add_stamps(SCHEMA, check_rows(SCHEMA, rows, 3)[0]))
        assert kept["profile"].to_pylist() == ["a"]
