"""Read input files with DuckDB: CSV, TSV, parquet, JSON lines.

In: a file. Out: a relation whose columns are all text, exactly as in the file, so that nothing is lost or guessed
before the warehouse types it. A file that cannot be read at all raises InputError with the file, what is wrong and what
to do; single lines of a CSV that cannot be read are set apart with their number (`rejects`), never dropped in silence.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import duckdb

from reclm.errors import InputError

Kind = Literal["csv", "parquet", "json"]

KINDS: Mapping[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".jsonl.gz": "json",
    ".ndjson.gz": "json",
}
DELIMITERS = (",", "\t", ";", "|")
HEADER_BYTES = 1 << 20
LONGEST_LINES = (2 << 20, 64 << 20, 512 << 20)
LONGEST_JSON_ROW = 64 << 20


def quote_name(name: str) -> str:
    """Return `name` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return `text` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def suffix_of(path: Path) -> str | None:
    """Return the suffix in KINDS that the file's name ends with, or None."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(KINDS, key=len, reverse=True) if name.endswith(suffix)), None)


def stem_of(path: Path) -> str:
    """Return the lower-case file name without the suffix."""
    return path.name.lower().removesuffix(suffix_of(path) or "")


def tables_in(folder: Path) -> list[Path]:
    """Return the files of a folder with a readable suffix, by name. Raises InputError when there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder with a log in it, or the log itself")
    return sorted(path for path in folder.iterdir() if path.is_file() and suffix_of(path))


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

    `names` gives the columns of a file without a header line. `delimiter` and `quote` describe a CSV whose name does
    not tell them; `encoding` is `utf-8` or `latin-1`.
    """

    names: Sequence[str] = ()
    delimiter: str = ""
    quote: str = '"'
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist")
        object.__setattr__(self, "kind", KINDS.get(suffix_of(self.path) or "", "csv"))
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.path} is empty (0 bytes); export it again or remove it")

    @cached_property
    def reading(self) -> dict[str, Any]:
        """What determines the rows besides the bytes."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "delimiter": self.delimiter,
            "quote": self.quote,
            "encoding": self.encoding,
        }

    @cached_property
    def types(self) -> dict[str, str]:
        """Return {column: DuckDB type} in file order. Raises InputError when it is not what its name says."""
        if self.kind == "csv":
            return dict.fromkeys(self.names or self._header(), "VARCHAR")
        reader = "read_parquet({path})"
        if self.kind == "json":
            reader = f"read_json({{path}}, sample_size=-1, maximum_object_size={LONGEST_JSON_ROW}{self._json_format()})"
        with duckdb.connect() as con:
            try:
                rows = con.execute(f"describe select * from {reader.format(path=self._literal)}").fetchall()
            except duckdb.Error as error:
                raise self.unreadable(error) from None
        return {name: kind for name, kind, *_ in rows}

    @property
    def columns(self) -> list[str]:
        return list(self.types)

    def relation(self, rejects: str, longest_line: int = LONGEST_LINES[0], path: Path | None = None) -> str:
        """Return SQL of a relation of the file; unreadable lines of a CSV go to the temporary table `rejects`."""
        literal = quote_text(str(path)) if path else self._literal
        if self.kind == "parquet":
            return f"read_parquet({literal})"
        if self.kind == "json":
            options = f"maximum_object_size={LONGEST_JSON_ROW}{self._json_format()}"
            return f"read_json({literal}, columns={self._text_columns()}, {options})"
        header = "false" if self.names else "true"
        return (
            f"read_csv({literal}, auto_detect=false, header={header}, columns={self._text_columns()}, "
            f"delim={quote_text(self._delimiter)}, quote={quote_text(self.quote)}, escape={quote_text(self.quote)}, "
            f"comment='', strict_mode=true, encoding='{self.encoding}', max_line_size={longest_line}, "
            f"store_rejects=true, rejects_limit=0, rejects_table='{rejects}', rejects_scan='{rejects}_scans')"
        )

    def unreadable(self, error: Exception) -> InputError:
        """Return the InputError that says in one line what is wrong with the file, and the remedy."""
        text = str(error)
        line = self._first_bad_json_line() if self.kind == "json" else _digits(r"CSV Error on Line: (\d+)", text)
        where = f"{self.path}, line {line}" if line else str(self.path)
        if re.search(r"utf-?8|unicode|encod", text, re.IGNORECASE):
            return InputError(f"{where} is not UTF-8 text; convert the file to UTF-8 and ingest it again")
        first = re.sub(r"^[\w ]+ Error: ", "", text.strip().splitlines()[0]) if text.strip() else "unknown"
        first = re.sub(r' in file ".*", at byte \d+ in [\w/ ]+ \d+', "", first)
        remedy = {
            "parquet": "it is not a whole parquet file; copy or export it again",
            "json": "write one JSON object per line",
            "csv": "fix that line, or export the file again as CSV with quoted fields",
        }[self.kind]
        return InputError(f"{where} cannot be read: {first.strip()}; {remedy}")

    def _first_bad_json_line(self) -> int:
        """Return the line number, 0 when there is none; releases of DuckDB count lines from different starts."""
        if "format='auto'" in self._json_format():
            return 0
        with _opened(self.path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    json.loads(line if line.strip() else "null")
                except ValueError:
                    return number
        return 0

    @property
    def _literal(self) -> str:
        return quote_text(str(self.path))

    @property
    def _delimiter(self) -> str:
        if self.delimiter:
            return self.delimiter
        return max(DELIMITERS, key=self._first_line.count) if ".csv" in self.name.lower() else "\t"

    @cached_property
    def _first_line(self) -> str:
        """Return the header line. Raises InputError when it is not text."""
        try:
            with _opened(self.path) as file:
                start = file.read(HEADER_BYTES)
        except (OSError, EOFError) as error:
            raise InputError(f"{self.path} cannot be read: {error}; export it again") from None
        line = start.lstrip(b"\r\n").split(b"\n", 1)[0].split(b"\r", 1)[0]
        try:
            return line.decode("utf-8-sig" if self.encoding == "utf-8" else self.encoding)
        except UnicodeDecodeError:
            raise InputError(
                f"{self.path}, line 1 is not UTF-8 text; convert the file to UTF-8 and ingest it again"
            ) from None

    def _header(self) -> list[str]:
        reader = csv.reader(io.StringIO(self._first_line), delimiter=self._delimiter, quotechar=self.quote or None)
        names: list[str] = []
        taken: set[str] = set()
        for position, given in enumerate(next(reader, []), start=1):
            name = given.strip() or f"column_{position}"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
            names.append(name)
        if not names:
            raise InputError(f"{self.path} has no header line; its first line must name the columns")
        return names

    def _text_columns(self) -> str:
        pairs = []
        for name, kind in self.types.items():
            text = "VARCHAR[]" if self.kind == "json" and kind.endswith("[]") else "VARCHAR"
            pairs.append(f"{quote_text(name)}: '{text}'")
        return "{" + ", ".join(pairs) + "}"

    def _json_format(self) -> str:
        return ", format='auto'" if self.name.lower().endswith(".json") else ", format='newline_delimited'"


def _digits(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def with_plain_line_ends(path: Path, copy: Path) -> Path:
    """Write `path` with every line end as `\\n`, for files that mix them (or end CRLF files with blank lines)."""
    with _opened(path) as source, copy.open("wb") as target:
        carried = b""
        while chunk := source.read(1 << 24):
            chunk = carried + chunk
            carried = b"\r" if chunk.endswith(b"\r") else b""
            target.write(chunk[: len(chunk) - len(carried)].replace(b"\r\n", b"\n"))
        target.write(carried)
    return copy
