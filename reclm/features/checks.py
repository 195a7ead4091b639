"""What a feature row must be before it may reach the feature store: a parquet table comes in, the same rows go out or an error.

Feast validates nothing: a vector of another width, a time without a zone, a float64 are all accepted and break readers
later. So each table is held against the types that `feature_repo/` declares; the first offence stops the publish,
named by view, column, row, value and remedy.
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
CLOCKS = ("as_of", "created_at")


@dataclass(frozen=True)
class ViewSchema:
    """A view's name, its join keys, and the Arrow type of each feature (without the two columns publishing adds)."""

    name: str
    keys: tuple[str, ...]
    features: dict[str, pa.DataType]

    @property
    def vectors(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.features.items() if pa.types.is_list(kind))

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.keys, *CLOCKS, *self.features)

    def empty(self) -> pa.Table:
        types = [pa.string()] * len(self.keys) + [TIMESTAMP] * len(CLOCKS) + list(self.features.values())
        return pa.schema(list(zip(self.columns, types, strict=True))).empty_table()


@dataclass(frozen=True)
class _Rows:
    """The rows under check and where each stood in the file, 1-based."""

    schema: ViewSchema
    table: pa.Table
    numbers: NDArray[np.int64]

    def reject(self, column: str, row: int, problem: str, remedy: str) -> NoReturn:
        """`row` counts from 0 within `table`. Raises PublishError."""
        keys = ", ".join(f"{key} {self.table[key][row].as_py()!r}" for key in self.schema.keys)
        where = f"view {self.schema.name}, column {column}, row {self.numbers[row]} ({keys})"
        raise PublishError(f"{where}: {problem}; {remedy}; nothing was published")

    def reject_first(self, column: str, wrong: NDArray[np.bool_], problem: str, remedy: str) -> None:
        """Raises PublishError for the first True of `wrong` (n_rows,); `{value}` in `problem` shows the cell."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            self.reject(column, row, problem.format(value=shown(self.table[column][row].as_py())), remedy)


def shown(value: Any) -> str:
    """A cell for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def checked(schema: ViewSchema, table: pa.Table, dimension: int | None) -> tuple[pa.Table, int]:
    """(the rows fit to be published, how many were dropped for a NULL key).

    The result has exactly `schema.columns`, timestamps in microseconds UTC, lists as list<float>. `dimension` is the
    declared width of every vector; None accepts any width, as long as it is the same in all rows. A NULL vector means
    that the entity has none; it is not a fault. A dbt model without rows writes one all-NULL row: it becomes an
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
        kind = rows.table.schema.field(key).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            rows.reject(key, 0, f"is {kind}, must be text", "cast the id to varchar in staging")
    for column in CLOCKS:
        _check_clock(rows, column)
    for column, declared in rows.schema.features.items():
        kind = rows.table.schema.field(column).type
        if not _same(kind, declared):
            remedy = f"cast it in the dbt mart to what feature_repo declares, {declared}"
            rows.reject(column, 0, f"is {kind}, must be {declared}", remedy)


def _same(kind: pa.DataType, declared: pa.DataType) -> bool:
    """Equal, or the same values in another layout: large strings, large or fixed-size lists of the same element."""
    if pa.types.is_list(declared):
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(listed and kind.value_type == declared.value_type)
    return bool(kind == declared or (pa.types.is_large_string(kind) and pa.types.is_string(declared)))


def _check_clock(rows: _Rows, column: str) -> None:
    kind = rows.table.schema.field(column).type
    if not pa.types.is_timestamp(kind):
        rows.reject(column, 0, f"is {kind}, must be a timestamp in UTC", "use timestamptz in the dbt mart")
    if kind.tz not in UTC_NAMES:
        zone = f"has time zone {kind.tz}" if kind.tz else "has no time zone"
        rows.reject(column, 0, f"{shown(rows.table[column][0].as_py())} {zone}", "store it as UTC (timestamptz)")
    missing = pc.is_null(rows.table[column]).to_numpy()
    rows.reject_first(column, missing, "is NULL", "every feature row says when it was known and when it was written")


def _check_keys(rows: _Rows) -> None:
    for key in rows.schema.keys:
        blank = pc.equal(rows.table[key], "").to_numpy()
        rows.reject_first(key, blank, "an empty id {value}", "quarantine rows without an id in staging")
    seen: dict[tuple[Any, ...], int] = {}
    columns = (*rows.schema.keys, "as_of")
    for row, identity in enumerate(zip(*(rows.table[c].to_pylist() for c in columns), strict=True)):
        first = seen.setdefault(identity, row)
        if first != row:
            problem = f"as_of {identity[-1].isoformat()} stands also in row {rows.numbers[first]}"
            rows.reject("as_of", row, problem, "keep one row per id and as_of in the dbt mart")


def _check_numbers(rows: _Rows) -> None:
    for column, declared in rows.schema.features.items():
        if pa.types.is_floating(declared):
            finite = pc.fill_null(pc.is_finite(rows.table[column]), True).to_numpy()
            rows.reject_first(
                column, ~finite, "{value} is not a finite number", "use NULL for a value that is not known"
            )


def _check_vectors(rows: _Rows, column: str, dimension: int | None) -> None:
    cells = rows.table[column]
    widths = pc.fill_null(pc.list_value_length(cells), -1).to_numpy()
    given = widths >= 0
    if not given.any():
        return
    declared = int(widths[given][0]) if dimension is None else dimension
    wrong = given & (widths != declared)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        remedy = "encode all texts with one encoder (settings embedding.model) and build again"
        rows.reject(column, row, f"has {widths[row]} numbers, declared are {declared}", remedy)
    values = pc.list_flatten(cells)
    finite = pc.fill_null(pc.is_finite(values), False).to_numpy()
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0])
        row = int(np.flatnonzero(given)[at // declared])
        value = values[at].as_py()
        remedy = "encode its text again, or leave the vector NULL"
        rows.reject(column, row, f"number {at % declared} of the vector is {value}", remedy)


def stamped(schema: ViewSchema, table: pa.Table) -> pa.Table:
    """The table with `as_of_us` (microseconds since 1970 UTC) and `row_hash` (all columns but created_at) appended."""
    as_of_us = table["as_of"].cast(pa.int64())
    plain = [c for c in schema.columns if c != "created_at" and c not in schema.vectors]
    cells = [(as_of_us if c == "as_of" else table[c]).to_pylist() for c in plain]
    digests = [hashlib.blake2b(repr(row).encode(), digest_size=12) for row in zip(*cells, strict=True)]
    for column in schema.vectors:
        vectors = table[column].combine_chunks()
        values = memoryview(vectors.values.to_numpy().view(np.uint8))
        offsets = (vectors.offsets.to_numpy() * vectors.type.value_type.byte_width).tolist()
        for row, digest in enumerate(digests):
            digest.update(values[offsets[row] : offsets[row + 1]])
    hashes = pa.array([digest.hexdigest() for digest in digests], pa.string())
    return table.append_column("as_of_us", as_of_us).append_column("row_hash", hashes)


def newest(schema: ViewSchema, table: pa.Table) -> pa.Table:
    """The row with the latest as_of of each key, in the table's order."""
    as_of = table["as_of_us"].to_numpy()
    keys = list(zip(*(table[key].to_pylist() for key in schema.keys), strict=True))
    last = {keys[row]: row for row in np.argsort(as_of, kind="stable").tolist()}
    return table.take(pa.array(sorted(last.values()), pa.int64()))
