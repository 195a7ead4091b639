"""Read input files with DuckDB: CSV and its kin, parquet, JSON.

In: a file. Out: a relation whose columns are all text, exactly as in the file, so that nothing is lost or guessed
before the warehouse types it. A file that cannot be read at all raises InputError with the file, what is wrong and what
to do; single lines that cannot be read are set apart with their number and their text, never dropped in silence. What
DuckDB cannot read itself (another encoding, another compression) is read from a copy that goes when the file is done.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import duckdb

from reclm.errors import InputError
from reclm.ingest import jsonlines, values
from reclm.ingest.dialect import Dialect, find_dialect, sample
from reclm.ingest.encoding import (
    UTF8,
    Text,
    compression_of,
    member_of,
    opened,
    read_text,
    write_uncompressed,
    write_utf8,
)
from reclm.ingest.header import column_names
from reclm.ingest.scratch import folder_for_copies

Kind = Literal["csv", "parquet", "json"]

KINDS: Mapping[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".dat": "csv",
    ".data": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
COMPRESSED = (".gz", ".zip", ".xz", ".bz2", ".zst")
LONGEST_LINES = (2 << 20, 64 << 20, 512 << 20)
MOST_UNREADABLE = 0.1


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def open_reader() -> duckdb.DuckDBPyConnection:
    """Return a connection to look into files with; it costs nothing beside a database of its own for each look."""
    return _database().cursor()


def quote_name(name: str) -> str:
    """Return `name` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return `text` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _uncompressed(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in COMPRESSED if name.lower().endswith(suffix)), name)


def suffix_of(path: Path) -> str | None:
    """Return the suffix that can be read, such as `.csv`, `.csv.gz` or `.zip`, or None."""
    inner = _uncompressed(path.name)
    suffix = Path(inner).suffix.lower()
    if suffix in KINDS:
        return path.name[len(inner) - len(suffix) :].lower()
    return ".zip" if path.name.lower().endswith(".zip") else None


def stem_of(path: Path) -> str:
    """Return the lower-case file name without the suffix."""
    return path.name.lower().removesuffix(suffix_of(path) or "")


@dataclass(frozen=True)
class SourceFile:
    """A file whose rows land: `name` is that of the file, `content` the SHA-256 of its bytes, in hex."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def content(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class LogFile(SourceFile):
    """One file as a relation of text columns.

    `names` gives the columns of a file without a header line, or with one that is to be skipped (`header`). What is
    None or '' of `delimiter`, `quote`, `escape`, `encoding` and `header` is told from the file; a `quote` of '' means
    that nothing is quoted. `label` is what the file is called within the folder given to ingest, `partition` the
    columns that its folders name (`day=2025-01-01`). With `nested`, each entry of that list column is a row. `scratch`
    is the folder for copies, the system's temporary one when None.
    """

    names: Sequence[str] = ()
    delimiter: str = ""
    quote: str | None = None
    escape: str | None = None
    encoding: str = ""
    header: bool | None = None
    label: str = ""
    partition: tuple[tuple[str, str], ...] = ()
    nested: str = ""
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist")
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.path} is empty (0 bytes); export it again or remove it")

    @property
    def name(self) -> str:
        return self.label or self.path.name

    @cached_property
    def kind(self) -> Kind:
        with self.path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
        is_archive = self._compression == "zip" and suffix_of(self.path) == ".zip"
        name = member_of(self.path) if is_archive else self.path.name
        suffix = Path(_uncompressed(name)).suffix.lower()
        kind = KINDS.get(suffix, "csv")
        return "json" if kind == "csv" and self._starts_like_json() else kind

    @cached_property
    def reading(self) -> dict[str, Any]:
        """What determines the rows besides the bytes."""
        about: dict[str, Any] = {"kind": self.kind, "partition": list(self.partition), "nested": self.nested}
        if self.kind != "parquet":
            about["encoding"] = self.text.encoding
        if self.kind == "csv":
            dialect = self.dialect
            about |= {"names": list(self._header[0]), "header": self._header[1]}
            about |= {"delimiter": dialect.delimiter, "quote": dialect.quote, "escape": dialect.escape}
        return about

    @cached_property
    def text(self) -> Text:
        """The encoding and the first lines of a text file."""
        return read_text(self.path, self.encoding)

    @property
    def notes(self) -> list[str]:
        """What was assumed of the file, in sentences for people."""
        notes = []
        if self.kind != "parquet" and self.text.guess:
            notes.append(
                f"not UTF-8: read as {self.text.encoding}, for example {self.text.guess!r}; if that looks wrong, set "
                "data.encoding"
            )
        if self.nested:
            fields = ", ".join(self.lists[self.nested])
            notes.append(f"one row for each entry of the list {self.nested!r} ({fields})")
        return notes

    @cached_property
    def dialect(self) -> Dialect:
        """How a CSV separates, quotes and escapes its fields."""
        return find_dialect(
            self.text.start,
            self.text.escapes,
            delimiter=self.delimiter,
            quote=self.quote,
            escape=self.escape,
            tabs=_uncompressed(self.path.name).lower().endswith((".tsv", ".tab")),
        )

    @cached_property
    def types(self) -> dict[str, str]:
        """Return {column: DuckDB type} in file order. Raises InputError when it is not what its name says."""
        found = self._own_types
        if self.nested:
            inner = values.fields_of(found[self.nested])
            found = {name: kind for name, kind in found.items() if name != self.nested}
            found |= {self._inner_name(name): kind for name, kind in inner.items()}
        return found | {name: "VARCHAR" for name, _ in self.partition if name not in found}

    @property
    def columns(self) -> list[str]:
        return list(self.types)

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """Return {column: fields} of the columns that hold lists of objects, such as the events of a session."""
        return {name: list(fields) for name, kind in self._own_types.items() if (fields := values.fields_of(kind))}

    @property
    def first_line(self) -> int:
        """The number of the first line of a text file that is a row, counted from 1."""
        return self._blank_lines + int(self._header[1]) + 1

    @cached_property
    def unreadable_lines(self) -> list[jsonlines.Unreadable]:
        """The lines of a JSON file that hold no object. (Those of a CSV are found while it is read.)"""
        return self._json.unreadable if self.kind == "json" else []

    def relation(self, rejects: str, longest_line: int = LONGEST_LINES[0], path: Path | None = None) -> str:
        """Return SQL of a relation of the file; unreadable lines of a CSV go to the temporary table `rejects`.

        Columns are VARCHAR, or VARCHAR[] where `types` is a list. `path` is a copy to read in place of the file.
        """
        base = self._reader(rejects, longest_line, path)
        types = {name: kind for name, kind in self._own_types.items() if name != self.nested}
        write = {"csv": lambda value, _: value, "json": values.json_text, "parquet": values.parquet_text}[self.kind]
        columns = [f"{write(quote_name(name), kind)} as {quote_name(name)}" for name, kind in types.items()]
        if self.nested:
            kind = self._own_types[self.nested]
            columns += [
                f"{values.field_of('reclm_entry', name, field_kind)} as {quote_name(self._inner_name(name))}"
                for name, field_kind in values.fields_of(kind).items()
            ]
            listed = write(quote_name(self.nested), kind)
            base = f"(select *, unnest({listed}) as reclm_entry from {base})"
        columns += [f"{quote_text(value)} as {quote_name(name)}" for name, value in self.partition if name not in types]
        if self.kind == "csv" and not self.partition:
            return base
        return f"(select {', '.join(columns)} from {base})"

    def with_plain_line_ends(self, copy: Path) -> Path:
        """Write a copy in UTF-8 with every line end as `\\n`, for files that mix them; return it."""
        return write_utf8(self.path, copy, self.text.encoding)

    def unreadable(self, error: Exception | str) -> InputError:
        """Return the InputError that says in one line what is wrong with the file, and the remedy."""
        text = str(error)
        line = _digits(r"CSV Error on Line: (\d+)", text)
        where = f"{self.path}, line {line}" if line else str(self.path)
        first = re.sub(r"^[\w ]+ Error: ", "", text.strip().splitlines()[0]) if text.strip() else "unknown"
        first = re.sub(r' in file ".*", (at byte \d+ )?in [\w/ ]+ \d+', "", first)
        remedy = {
            "parquet": "it is not a whole parquet file; copy or export it again",
            "json": "write one JSON object per line",
            "csv": "fix that line, or export the file again as CSV with quoted fields",
        }[self.kind]
        return InputError(f"{where} cannot be read: {first.strip()}; {remedy}")

    @cached_property
    def _compression(self) -> str:
        return compression_of(self.path)

    def _starts_like_json(self) -> bool:
        with opened(self.path) as stream:
            return bool(re.match(rb'(\xef\xbb\xbf)?\s*(\{\s*"|\[\s*\{)', stream.read(1 << 10)))

    @cached_property
    def _own_types(self) -> dict[str, str]:
        if self.kind == "csv":
            return dict.fromkeys(self._header[0], "VARCHAR")
        if self.kind == "parquet":
            try:
                return self._described(f"read_parquet({quote_text(str(self._readable))})")
            except duckdb.Error as error:
                raise self.unreadable(error) from None
        return self._json.types

    def _described(self, reader: str) -> dict[str, str]:
        with open_reader() as con:
            rows = con.execute(f"describe select * from {reader}").fetchall()
        return {name: kind for name, kind, *_ in rows}

    def _reader(self, rejects: str, longest_line: int, path: Path | None) -> str:
        if self.kind == "parquet":
            return f"read_parquet({quote_text(str(self._readable))})"
        kinds = self._own_types
        if self.kind == "json":
            types = ", ".join(f"{quote_text(name)}: '{values.json_type(kind)}'" for name, kind in kinds.items())
            return f"read_json({self._json_options(self._json.path)}, columns={{{types}}}, records='true')"
        dialect = self.dialect
        names = ", ".join(f"{quote_text(name)}: 'VARCHAR'" for name in kinds)
        compression = "gzip" if not path and self._readable == self.path and self._compression == "gzip" else "none"
        nulls = "''" if dialect.escape == "\\" else "['', '\\N']"  # DuckDB takes no escape in a null
        return (
            f"read_csv({quote_text(str(path or self._readable))}, auto_detect=false, columns={{{names}}}, "
            f"header={str(self._header[1]).lower()}, skip={self._blank_lines}, compression='{compression}', "
            f"nullstr={nulls}, delim={quote_text(dialect.delimiter)}, quote={quote_text(dialect.quote)}, "
            f"escape={quote_text(dialect.escape)}, comment='', strict_mode=true, max_line_size={longest_line}, "
            f"store_rejects=true, rejects_limit=0, rejects_table='{rejects}', rejects_scan='{rejects}_scans')"
        )

    @cached_property
    def _header(self) -> tuple[list[str], bool]:
        rows = [fields for _, fields in self.dialect.rows(sample(self.text.start)) if fields]
        return column_names(self.path, rows, self.names, self.header)

    @property
    def _blank_lines(self) -> int:
        """Lines before the first that is not blank."""
        return next((number for number, line in enumerate(self.text.start) if line.strip()), 0)

    @cached_property
    def _json(self) -> _Json:
        """What DuckDB reads of a JSON file; a copy without the lines that hold no object where there are such."""
        jsonlines.require_json(self.path, self.text.start)
        failure = "no objects with fields"
        try:
            types = self._json_types(self._readable)
            if values.is_by_column(types):
                raise jsonlines.by_column(self.path, list(types))
            if list(types) != ["json"]:
                return _Json(self._readable, types, [])
        except duckdb.Error as error:
            failure = str(error)
        bad: list[jsonlines.Unreadable] = []
        n_lines = 0
        if jsonlines.arrangement(self.text.start) == "newline_delimited":
            n_lines, bad = jsonlines.unreadable_lines(self._readable)
        if len(bad) > MOST_UNREADABLE * n_lines:
            raise jsonlines.not_json(self.path, bad)
        if not bad:
            raise self.unreadable(failure)
        copy = jsonlines.without_lines(self._readable, self._copies / "lines", {line.line for line in bad})
        try:
            return _Json(copy, self._json_types(copy), bad)
        except duckdb.Error as error:
            raise self.unreadable(error) from None

    def _json_types(self, path: Path) -> dict[str, str]:
        reader = f"read_json({self._json_options(path)}, sample_size=-1"
        try:
            return self._described(f"{reader})")
        except duckdb.Error as error:
            if "Duplicate name" not in str(error):
                raise
        return self._described(f"{reader}, maximum_depth=1)")  # names that differ by case only, within a value

    def _json_options(self, path: Path) -> str:
        compression = "gzip" if path == self.path and self._compression == "gzip" else "none"
        arrangement = jsonlines.arrangement(self.text.start)
        return (
            f"{quote_text(str(path))}, format='{arrangement}', compression='{compression}', "
            f"maximum_object_size={jsonlines.LONGEST_ROW}"
        )

    @cached_property
    def _readable(self) -> Path:
        """The file that DuckDB reads: this one where it can, else a copy of it."""
        if self.kind == "parquet":
            if not self._compression:
                return self.path
            return write_uncompressed(self.path, self._copies / "plain.parquet")
        in_utf8 = UTF8 if self.kind == "csv" else UTF8[:1]
        if self._compression in ("", "gzip") and self.text.encoding in in_utf8:
            return self.path
        return write_utf8(self.path, self._copies / "plain", self.text.encoding)

    @cached_property
    def _copies(self) -> Path:
        folder, remove = folder_for_copies(self.scratch)
        weakref.finalize(self, remove)
        return folder

    def _inner_name(self, name: str) -> str:
        return f"{self.nested}_{name}" if name in self._own_types else name


@dataclass(frozen=True)
class _Json:
    path: Path
    types: dict[str, str]
    unreadable: list[jsonlines.Unreadable]


def _digits(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
