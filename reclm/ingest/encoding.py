"""Read files as bytes of UTF-8 text, whatever compresses them and whatever encoding they are in.

In: a file. Out: a stream of its bytes, the encoding of its text, a copy in UTF-8. Compression is told by the first
bytes, not by the name. An encoding is told by its byte order mark, else by decoding the whole file as UTF-8, else by
charset-normalizer, which weighs how a text of each language looks.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

import pyarrow as pa

from reclm.errors import InputError

COMPRESSIONS = {
    "gzip": b"\x1f\x8b",
    "zip": b"PK\x03\x04",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh",
    "zstd": b"\x28\xb5\x2f\xfd",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UTF8 = ("utf-8", "utf-8-sig")
CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
"""Encodings to tell apart when a file is not Unicode: those of Windows and of the web."""
WESTERN = "cp1252"
CHUNK = 1 << 22
START = 1 << 20
START_CHARACTERS = 1 << 16
EVIDENCE_LINES = 200
MOST_LINES_JUDGED = 10_000
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)
MOST_ZEROS = 0.1


def compression_of(path: Path) -> str:
    """Return the key of COMPRESSIONS that the first bytes tell, or '' for a plain file."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for name, mark in COMPRESSIONS.items() if start.startswith(mark)), "")


def member_of(path: Path) -> str:
    """Return the name of the only file in a zip archive. Raises InputError for a damaged one, or one of more files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from None
    if any(name in ("[Content_Types].xml", "mimetype") for name in names):
        raise InputError(f"{path} is a workbook or document, not a table of text; save it as CSV in UTF-8")
    members = [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]
    if len(members) != 1:
        raise InputError(f"{path} holds {len(members)} files; unpack it and ingest the folder")
    return members[0]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the uncompressed bytes of a file. Raises InputError when it is damaged or breaks off."""
    try:
        with _stream(path) as stream:
            yield stream
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read: {error}; copy or export it again")


def _stream(path: Path) -> IO[bytes]:
    kind = compression_of(path)
    if kind == "gzip":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if kind == "xz":
        return lzma.open(path, "rb")
    if kind == "bzip2":
        return bz2.open(path, "rb")
    if kind == "zip":
        try:
            return zipfile.ZipFile(path).open(member_of(path))
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(f"{path} cannot be unpacked: {error}; unpack it and ingest the folder") from None
    if kind == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


@dataclass(frozen=True)
class Text:
    """What a first reading of a text file tells.

    `encoding` is Python's name of it. `guess` is an example of what the file says in an encoding that was assumed, ''
    when it was not. `start` are the file's first lines, `escapes` later lines with a backslash before a quote.
    """

    encoding: str
    guess: str
    start: list[str]
    escapes: list[str]


def read_text(path: Path, encoding: str = "") -> Text:
    """Tell the encoding of a text file, unless it is given, and return its first lines.

    Raises InputError when it is no text in any known encoding, or not in the given one.
    """
    with opened(path) as stream:
        start = stream.read(START)
    guess = ""
    evidence: list[bytes] = []
    if not encoding:
        encoding = _marked(start)
    if not encoding:
        if start[:4096].count(0) > MOST_ZEROS * len(start[:4096]):
            raise InputError(f"{path} is not text: many of its first bytes are zero; export it as CSV in UTF-8")
        evidence, is_utf8 = _scan(path)
        encoding, guess = ("utf-8", "") if is_utf8 else _told(path)
    lines = _lines(path, start, encoding)
    escapes = [line.decode(encoding, "replace") for line in evidence]
    return Text(encoding, guess, lines, escapes)


def _marked(start: bytes) -> str:
    """Return the encoding of a byte order mark, or of a text whose every other byte is zero."""
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "")
    if marked:
        return marked
    head = start[:4096]
    even, odd = (head[first::2].count(0) / max(len(head[first::2]), 1) for first in (0, 1))
    if max(even, odd) > 0.2 and min(even, odd) < 0.02:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


def _scan(path: Path) -> tuple[list[bytes], bool]:
    """Return lines with a backslash before a quote, and whether the file is UTF-8 but for single damaged lines."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    evidence: list[bytes] = []
    rest = b""
    with opened(path) as stream:
        while chunk := stream.read(CHUNK):
            if len(evidence) < EVIDENCE_LINES and b'\\"' in chunk:
                evidence += [line for line in (rest + chunk).split(b"\n")[:-1] if b'\\"' in line]
            rest = chunk[chunk.rfind(b"\n") + 1 :][-CHUNK:]
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return evidence[:EVIDENCE_LINES], _is_mostly_utf8(path)
    return evidence[:EVIDENCE_LINES], True


def _is_mostly_utf8(path: Path) -> bool:
    n_valid = n_invalid = 0
    with opened(path) as stream:
        for line in stream:
            if not line.isascii():
                try:
                    line.decode()
                    n_valid += 1
                except UnicodeDecodeError:
                    n_invalid += 1
                if n_valid + n_invalid == MOST_LINES_JUDGED:
                    break
    return n_valid > n_invalid


def _told(path: Path) -> tuple[str, str]:
    """Return the encoding that charset-normalizer tells from the lines that are not ASCII, and one of them."""
    from charset_normalizer import from_bytes

    lines: list[bytes] = []
    with opened(path) as stream:
        for line in stream:
            if not line.isascii():
                lines.append(line[:1000])
                if len(lines) == EVIDENCE_LINES:
                    break
    sample = b"".join(lines)
    matches = list(from_bytes(sample, cp_isolation=list(CANDIDATES)))
    if not matches and _is_western(sample):
        return WESTERN, lines[0].decode(WESTERN).strip()[:80]
    if not matches:
        raise InputError(
            f"{path} is not UTF-8, and its encoding cannot be told; name it in data.encoding, for example "
            "--set data.encoding=latin-1, or convert the file to UTF-8"
        )
    alike = [match for match in matches if (match.chaos, match.coherence) == (matches[0].chaos, matches[0].coherence)]
    western = any(WESTERN in match.could_be_from_charset for match in alike)
    encoding = WESTERN if western else matches[0].encoding
    return encoding, lines[0].decode(encoding, "replace").strip()[:80]


def _is_western(sample: bytes) -> bool:
    """Return whether every byte is a character of a text in the Western encoding."""
    try:
        return all(character.isprintable() or character.isspace() for character in sample.decode(WESTERN))
    except UnicodeDecodeError:
        return False


def _lines(path: Path, start: bytes, encoding: str) -> list[str]:
    """Return the first lines of the start, but for one that is cut off: those that tell how the file is written."""
    if encoding in UTF8:
        text = start.decode("utf-8-sig", "replace")
    else:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start, final=len(start) < START)
        except UnicodeError as error:
            raise _undecodable(path, encoding, error) from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = lines[:-1] if len(start) == START and len(lines) > 1 else lines
    sizes = accumulate(len(line) for line in lines)
    enough = next((number for number, size in enumerate(sizes, start=1) if size > START_CHARACTERS), len(lines))
    return lines[: max(enough, 2)]


def _undecodable(path: Path, encoding: str, error: UnicodeError, n_lines: int = 0) -> InputError:
    """Return the error for bytes after `n_lines` lines that are not of the encoding."""
    line, reason = n_lines + 1, str(error)
    if isinstance(error, UnicodeDecodeError):
        line, reason = line + error.object[: error.start].count(b"\n"), error.reason
    return InputError(
        f"{path}, line {line} is not text in {encoding}: {reason}; convert the file to UTF-8, or name its encoding in "
        "data.encoding (latin-1 reads any byte)"
    )


def write_utf8(path: Path, copy: Path, encoding: str) -> Path:
    """Write a copy of a text file, uncompressed, in UTF-8 without a mark, with every line end as `\\n`; return it.

    Bytes of a file in UTF-8 are copied as they are, so that a damaged line stays one. Raises InputError when the file
    is not in the encoding.
    """
    if encoding in UTF8:
        return write_uncompressed(path, copy, plain_line_ends=True)
    decoder = codecs.getincrementaldecoder(encoding)()
    n_lines = 0
    carried = ""
    with opened(path) as source, copy.open("w", encoding="utf-8", newline="") as target:
        while True:
            chunk = source.read(CHUNK)
            try:
                text = carried + decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                raise _undecodable(path, encoding, error, n_lines) from None
            carried = "\r" if chunk and text.endswith("\r") else ""
            text = text[: len(text) - len(carried)].replace("\r\n", "\n").replace("\r", "\n")
            n_lines += text.count("\n")
            target.write(text)
            if not chunk:
                return copy


def write_uncompressed(path: Path, copy: Path, *, plain_line_ends: bool = False) -> Path:
    """Write the uncompressed bytes of a file, with every line end as `\\n` if so asked; return the copy."""
    with opened(path) as source, copy.open("wb") as target:
        carried = b""
        first = True
        while chunk := source.read(CHUNK):
            if plain_line_ends:
                chunk = carried + (chunk.removeprefix(codecs.BOM_UTF8) if first else chunk)
                first = False
                carried = b"\r" if chunk.endswith(b"\r") else b""
                chunk = chunk[: len(chunk) - len(carried)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            target.write(chunk)
        target.write(carried.replace(b"\r", b"\n"))
    return copy
