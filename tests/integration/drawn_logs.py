"""Logs drawn by hypothesis: what stands in the cells, and how the file is written.

A `sound` log is one that any reader must take whole: plain ids, one form of time, a header, an encoding that names
itself. The others mix in what exports do to a file. `rows` is always how many data rows the file holds.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

START = datetime(2023, 3, 1, 8, 30, tzinfo=UTC)
MOMENTS: Mapping[str, Callable[[datetime], str]] = {
    "iso": lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "iso_offset": lambda t: t.strftime("%Y-%m-%d %H:%M:%S+00:00"),
    "naive": lambda t: t.strftime("%Y-%m-%d %H:%M:%S"),
    "day": lambda t: t.strftime("%Y-%m-%d"),
    "eight_digits": lambda t: t.strftime("%Y%m%d"),
    "seconds": lambda t: str(int(t.timestamp())),
    "milliseconds": lambda t: str(int(t.timestamp() * 1000)),
    "european": lambda t: t.strftime("%d.%m.%Y %H:%M"),
    "american": lambda t: f"{t.month}/{t.day}/{t.year} {t.strftime('%I:%M %p').lstrip('0')}",
    "rfc": lambda t: t.strftime("%a, %d %b %Y %H:%M:%S +0000"),
}
ODD_TIMES = (
    "",
    "yesterday",
    "0",
    "13306",
    "44588.96",
    "2999-01-01",
    "1969-12-31",
    "NaT",
    "2024-02-31",
    "99999999999999999999",
)
ODD_IDS = (
    "",
    " ",
    "NaN",
    "null",
    "x" * 600,
    "a,b",
    'say "hi"',
    "O'Brien",
    "line\nend",
    "😀",
    "١٢٣",
    "{'a': 1}",
    "-1",
    "#1",
    "a\tb",
    "a;b",
    "a::b",
    "\\",
)
ODD_WEIGHTS = ("", "5", "4.5", "4,5", "-1", "NaN", "inf", "1e400", "heavy", "99999999999999999999999")
SHAPES: Mapping[str, Callable[[int], str]] = {
    "plain": lambda n: str(n),
    "zeros": lambda n: f"{n:09d}",
    "float": lambda n: f"{n}.0",
    "letters": lambda n: f"u{n}",
    "uuid": lambda n: f"{n:08x}-0000-4000-8000-{n:012x}",
    "accents": lambda n: f"é{n}",
}
HEADERS = (
    ("user_id", "item_id", "timestamp", "rating"),
    ("User-ID", "ISBN", "Date", "Book-Rating"),
    ("visitorid", "itemid", "event_time", "weight"),
)
TEXT_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")
SUFFIX_OF = {",": ".csv", ";": ".csv", "|": ".csv", "\t": ".tsv", "::": ".dat"}


@dataclass(frozen=True)
class Drawn:
    """A drawn file: `cells` under `header` and how they are written. `sound`: a reader must take every row."""

    header: Sequence[str]
    cells: Sequence[Sequence[str | None]]
    kind: str
    delimiter: str = ","
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL  # csv's own type of it
    line_end: str = "\n"
    encoding: str = "utf-8"
    packing: str = ""
    blank_end: bool = False
    items: bool = False
    sound: bool = False

    @property
    def rows(self) -> int:
        return len(self.cells)

    def write(self, folder: Path) -> None:
        """Write the log, and a table of its items where the draw says so."""
        folder.mkdir(parents=True, exist_ok=True)
        suffix = {"csv": SUFFIX_OF[self.delimiter]}.get(self.kind, f".{self.kind}")
        name = f"interactions{suffix}"
        path = folder / name
        if self.kind == "parquet":
            pq.write_table(pa.table({h: self._typed(n) for n, h in enumerate(self.header)}), path)
        else:
            path, packed = _packed(path, self._text().encode(self.encoding, "replace"), self.packing)
            path.write_bytes(packed)
        if self.items:
            known = sorted({row[1] for row in self.cells if len(row) > 1 and row[1]})
            with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["item_id", "title"], *([item, f"thing {item}"] for item in known)])

    def _typed(self, column: int) -> pa.Array:
        """Numbers as numbers where a column holds nothing else and no leading zeros, as a data frame would."""
        values = [row[column] or None for row in self.cells]
        if any(value and value.lstrip("-").startswith("0") and value[1:2].isdigit() for value in values):
            return pa.array(values, pa.string())
        try:
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        except ValueError:
            return pa.array(values, pa.string())

    def _text(self) -> str:
        if self.kind in ("jsonl", "json"):
            objects = [{h: _as_json(v) for h, v in zip(self.header, row, strict=True)} for row in self.cells]
            if self.kind == "json":
                return json.dumps(objects, indent=2, ensure_ascii=False)
            return "".join(json.dumps(one, ensure_ascii=False) + self.line_end for one in objects)
        if len(self.delimiter) > 1:
            lines = [self.delimiter.join(cell or "" for cell in row) for row in (self.header, *self.cells)]
            return self.line_end.join(lines) + self.line_end
        out = io.StringIO()
        writer = csv.writer(out, delimiter=self.delimiter, quoting=self.quoting, lineterminator=self.line_end)
        writer.writerows([self.header, *([cell or "" for cell in row] for row in self.cells)])
        return out.getvalue() + (self.line_end if self.blank_end else "")


def _as_json(value: str | None) -> Any:
    """A number where it reads as one: what an exporter of typed rows writes, NaN and infinities too."""
    if value is None or value == "":
        return None
    try:
        return int(value) if str(int(value)) == value else value
    except ValueError:
        pass
    try:
        return float(value) if str(float(value)) == value else value
    except ValueError:
        return value


def _packed(path: Path, content: bytes, packing: str) -> tuple[Path, bytes]:
    path = path.with_name(f"{path.name}.{packing}") if packing else path
    if packing == "zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(path.name.removesuffix(".zip"), content)
        return path, out.getvalue()
    pack = {"": bytes, "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[packing]
    return path, pack(content)


@st.composite
def logs(draw: st.DrawFn) -> Drawn:
    """Any log: of three in four draws a sound one, of the rest one with odd cells in an odd file."""
    return draw(sound_logs()) if draw(st.integers(0, 3)) else draw(odd_logs())


@st.composite
def sound_logs(draw: st.DrawFn) -> Drawn:
    """A log of distinct, plain rows in any of the forms that say themselves how they are read."""
    kind = draw(st.sampled_from(("csv", "csv", "csv", "jsonl", "json", "parquet")))
    delimiter = draw(st.sampled_from(tuple(SUFFIX_OF))) if kind == "csv" else ","
    user, item = (SHAPES[draw(st.sampled_from(tuple(SHAPES)))] for _ in range(2))
    clock = draw(st.sampled_from((*MOMENTS, "")))
    size = draw(st.integers(20, 40))
    header = draw(st.sampled_from(HEADERS))
    keep = [0, 1, *([2] if clock else []), *([3] if draw(st.booleans()) else [])]
    cells = []
    for n in range(size):
        moment = START + timedelta(days=n, minutes=draw(st.integers(0, 59)))
        full = [user(n % 7), item(n), MOMENTS[clock](moment) if clock else "", str(1 + n % 5)]
        cells.append([full[column] for column in keep])
    text = kind in ("csv", "jsonl", "json")
    return Drawn(
        [header[column] for column in keep],
        cells,
        kind,
        delimiter,
        quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))) if delimiter in ",;|" else csv.QUOTE_MINIMAL,
        line_end=draw(st.sampled_from(("\n", "\r\n"))),
        encoding=draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16"))) if kind == "csv" else "utf-8",
        packing=draw(st.sampled_from(("", "", "gz", "zip", "xz"))) if text else "",
        items=draw(st.booleans()),
        sound=True,
    )


@st.composite
def odd_logs(draw: st.DrawFn) -> Drawn:
    """A log with odd cells, in any encoding, under any header."""
    kind = draw(st.sampled_from(("csv", "csv", "csv", "jsonl", "json", "parquet")))
    delimiter = draw(st.sampled_from(tuple(SUFFIX_OF))) if kind == "csv" else ","
    header = list(draw(st.sampled_from(HEADERS)))
    plain = st.integers(0, 30).map(str)
    ids = st.one_of(plain, plain, st.sampled_from(ODD_IDS), st.text(max_size=8))
    usual = st.integers(0, 400).map(lambda n: MOMENTS["naive"](START + timedelta(hours=n)))
    times = st.one_of(usual, st.sampled_from(ODD_TIMES))
    row = st.tuples(ids, ids, times, st.sampled_from(ODD_WEIGHTS)).map(list)
    cells = draw(st.lists(row, min_size=0, max_size=30))
    width = draw(st.integers(1, 4))
    one_line = kind == "csv" and (delimiter == "::" or draw(st.booleans()))
    if one_line:  # a writer that does not quote cannot write these
        forbidden = str.maketrans(dict.fromkeys('\n\r"' + delimiter + "\x00", "_"))
        cells = [[cell.translate(forbidden) for cell in one] for one in cells]
    return Drawn(
        header[:width],
        [one[:width] for one in cells],
        kind,
        delimiter,
        quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))),
        line_end=draw(st.sampled_from(("\n", "\r\n"))),
        encoding=draw(st.sampled_from(TEXT_ENCODINGS)),
        packing=draw(st.sampled_from(("", "gz", "zip", "xz", "bz2"))),
        blank_end=draw(st.booleans()),
        items=draw(st.booleans()),
    )
