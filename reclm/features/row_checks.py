"""Check feature rows before they are published.

In: a parquet table. Out: the checked rows, or an error. Feast validates nothing: it accepts a vector of the wrong
width, a time without a zone or a float64, and readers fail later. So each table is compared with the types that
`feature_repo/` declares. The first wrong value stops the publish; the error names view, column, row, value and remedy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reclm.errors import PublishError

UTC_NAMES = ("UTC", "Etc/UTC", "+00:00")
TIMESTAMP = pa.timestamp("us", tz="UTC")
TIME_COLUMNS = ("as_of", "created_at")


@dataclass(frozen=True)
class ViewSchema:
    """Describe a feature view: name, join keys, and the Arrow type of each feature except the two stamps."""

    name: str
    keys: tuple[str, ...]
    features: dict[str, pa.DataType]

    @property
    def vectors(self) -> tuple[str, ...]:
        return tuple(name for name, arrow_type in self.features.items() if pa.types.is_list(arrow_type))

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.keys, *TIME_COLUMNS, *self.features)

    def empty(self) -> pa.Table:
        types = [pa.string()] * len(self.keys) + [TIMESTAMP] * len(TIME_COLUMNS) + list(self.features.values())
        return pa.schema(list(zip(self.columns, types, strict=True))).empty_table()


@dataclass(frozen=True)
class _Rows:
    """Hold the rows to check and the row number of each in the file, from 1."""

    schema: ViewSchema
    table: pa.Table
    numbers: NDArray[np.int64]

    def reject(self, column: str, row: int, problem: str, remedy: str) -> NoReturn:
        """Raise PublishError for a cell; `row` counts from 0 within `table`."""
        keys = ", ".join(f"{key} {self.table[key][row].as_py()!r}" for key in self.schema.keys)
        where = f"view {self.schema.name}, column {column}, row {self.numbers[row]} ({keys})"
        raise PublishError(f"{where}: {problem}; {remedy}; nothing was published")

    def reject_first(self, column: str, wrong: NDArray[np.bool_], problem: str, remedy: str) -> None:
        """Raise PublishError for the first True of `wrong` (n_rows,); `{value}` in `problem` shows the cell."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            self.reject(column, row, problem.format(value=shorten(self.table[column][row].as_py())), remedy)


def shorten(value: Any) -> str:
    """Return a cell as short text for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def check_rows(schema: ViewSchema, table: pa.Table, dimension: int | None) -> tuple[pa.Table, int]:
    """Check the rows of a view; returns (the rows to publish, number of rows dropped for a NULL key).

    The result has exactly `schema.columns`, timestamps in microseconds UTC, lists as list<float>. `dimension` is the
    declared width of every vector; None accepts any width, as long as it is the same in all rows. A NULL vector means
    that the entity has none; it is allowed. A dbt model without rows writes one all-NULL row: it becomes an
    empty table. Raises PublishError.
    """
    for column in schema.columns:
        if column not in table.column_names:
            raise PublishError(
                f"view {schema.name}, column {column}: missing (the file has {', '.join(table.column_names)}); "
                "add it to the dbt mart and run `reclm build`; nothing was published"
            )
    table = table.select(list(schema.columns))
    known = np.ones(table.num_rows, dtype=bool)
    for key in schema.keys:
        known &= pc.is_valid(table[key]).to_numpy()
    rows = _Rows(schema, table.filter(pa.array(known)), np.flatnonzero(known) + 1)
    dropped = int((~known).sum())
    if rows.table.num_rows == 0:
        return schema.empty(), dropped
    _check_types(rows)
    _check_keys(rows)
    _check_numbers(rows)
    for column in schema.vectors:
        _check_vectors(rows, column, dimension)
    return rows.table.cast(schema.empty().schema), dropped


def _check_types(rows: _Rows) -> None:
    for key in rows.schema.keys:
        arrow_type = rows.table.schema.field(key).type
        if not (pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type)):
            rows.reject(key, 0, f"is {arrow_type}, must be text", "cast the id to varchar in staging")
    for column in TIME_COLUMNS:
        _check_time_column(rows, column)
    for column, declared in rows.schema.features.items():
        arrow_type = rows.table.schema.field(column).type
        if not _same(arrow_type, declared):
            remedy = f"cast it in the dbt mart to what feature_repo declares, {declared}"
            rows.reject(column, 0, f"is {arrow_type}, must be {declared}", remedy)


def _same(arrow_type: pa.DataType, declared: pa.DataType) -> bool:
    """Return whether two types hold the same values; large and fixed-size layouts count as equal."""
    if pa.types.is_list(declared):
        listed = (
            pa.types.is_list(arrow_type)
            or pa.types.is_large_list(arrow_type)
            or pa.types.is_fixed_size_list(arrow_type)
        )
        return bool(listed and arrow_type.value_type == declared.value_type)
    return bool(arrow_type == declared or (pa.types.is_large_string(arrow_type) and pa.types.is_string(declared)))


def _check_time_column(rows: _Rows, column: str) -> None:
    arrow_type = rows.table.schema.field(column).type
    if not pa.types.is_timestamp(arrow_type):
        rows.reject(column, 0, f"is {arrow_type}, must be a timestamp in UTC", "use timestamptz in the dbt mart")
    if arrow_type.tz not in UTC_NAMES:
        zone = f"has time zone {arrow_type.tz}" if arrow_type.tz else "has no time zone"
        rows.reject(column, 0, f"{shorten(rows.table[column][0].as_py())} {zone}", "store it as UTC (timestamptz)")
    missing = pc.is_null(rows.table[column]).to_numpy()
    rows.reject_first(column, missing, "is NULL", "every feature row needs as_of and created_at")


def _check_keys(rows: _Rows) -> None:
    for key in rows.schema.keys:
        blank = pc.equal(rows.table[key], "").to_numpy()
        rows.reject_first(key, blank, "an empty id {value}", "quarantine rows without an id in staging")
    seen: dict[tuple[Any, ...], int] = {}
    columns = (*rows.schema.keys, "as_of")
    for row, identity in enumerate(zip(*(rows.table[c].to_pylist() for c in columns), strict=True)):
        first = seen.setdefault(identity, row)
        if first != row:
            problem = f"as_of {identity[-1].isoformat()} occurs also in row {rows.numbers[first]}"
            rows.reject("as_of", row, problem, "keep one row per id and as_of in the dbt mart")


def _check_numbers(rows: _Rows) -> None:
    for column, declared in rows.schema.features.items():
        if pa.types.is_floating(declared):
            finite = pc.fill_null(pc.is_finite(rows.table[column]), True).to_numpy()
            rows.reject_first(column, ~finite, "{value} is not a finite number", "use NULL for an unknown value")


def _check_vectors(rows: _Rows, column: str, dimension: int | None) -> None:
    cells = rows.table[column]
    widths = pc.fill_null(pc.list_value_length(cells), -1).to_numpy()
    present = widths >= 0
    if not present.any():
        return
    declared = int(widths[present][0]) if dimension is None else dimension
    wrong = present & (widths != declared)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        remedy = "encode all texts with one encoder (settings embedding.model, embedding.reader) and build again"
        rows.reject(column, row, f"has {widths[row]} numbers, expected are {declared}", remedy)
    values = pc.list_flatten(cells)
    finite = pc.fill_null(pc.is_finite(values), False).to_numpy()
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0])
        row = int(np.flatnonzero(present)[at // declared])
        value = values[at].as_py()
        remedy = "encode its text again, or leave the vector NULL"
        rows.reject(column, row, f"number {at % declared} of the vector is {value}", remedy)


def add_stamps(schema: ViewSchema, table: pa.Table) -> pa.Table:
    """Append `as_of_us` (microseconds since 1970 UTC) and `row_hash` to a table.

    The hash is of the keys and features. No time is in it, so a row that says the same at a later as_of has the same
    hash.
    """
    as_of_us = table["as_of"].cast(pa.int64())
    plain = [c for c in schema.columns if c not in TIME_COLUMNS and c not in schema.vectors]
    cells = [table[c].to_pylist() for c in plain]
    digests = [hashlib.blake2b(repr(row).encode(), digest_size=12) for row in zip(*cells, strict=True)]
    for column in schema.vectors:
        vectors = table[column].combine_chunks()
        values = memoryview(vectors.values.to_numpy().view(np.uint8))
        offsets = (vectors.offsets.to_numpy() * vectors.type.value_type.byte_width).tolist()
        for row, digest in enumerate(digests):
            digest.update(values[offsets[row] : offsets[row + 1]])
    hashes = pa.array([digest.hexdigest() for digest in digests], pa.string())
    return table.append_column("as_of_us", as_of_us).append_column("row_hash", hashes)


def latest_rows(schema: ViewSchema, table: pa.Table) -> pa.Table:
    """Return the row with the latest as_of of each key, in the table's order."""
    as_of = table["as_of_us"].to_numpy()
    keys = list(zip(*(table[key].to_pylist() for key in schema.keys), strict=True))
    last = {keys[row]: row for row in np.argsort(as_of, kind="stable").tolist()}
    return table.take(pa.array(sorted(last.values()), pa.int64()))
