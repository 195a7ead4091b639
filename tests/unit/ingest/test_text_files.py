"""Text files of any encoding, compression, separator and quoting, read or refused with line and remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from unit.ingest_world import LOG, Make, landed

from reclm.errors import InputError
from reclm.ingest import ingest
from reclm.ingest.files import LogFile
from reclm.settings.tree import Settings

NAMES = "user_id,item_id,note"


def rows_of(file: LogFile) -> list[tuple[str | None, ...]]:
    with duckdb.connect() as con:
        return con.execute(f"select * from {file.relation('unreadable')}").fetchall()


def write(path: Path, content: str | bytes) -> LogFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return LogFile(path)


def refusal(file: LogFile) -> str:
    with pytest.raises(InputError) as caught:
        rows_of(file)
    return str(caught.value)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("export/log.csv", data)
        archive.writestr("__MACOSX/._log.csv", b"\0")
    return buffer.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zip": zipped,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


class TestEncodings:
    @pytest.mark.parametrize("suffix", COMPRESS)
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252"])
    def test_each_is_told_whatever_compresses_the_file(self, encoding: str, suffix: str, tmp_path: Path) -> None:
        text = f"{NAMES}\nRené,thé,café crème\nZoë,thé,\n"
        file = write(tmp_path / f"log.csv{suffix}", COMPRESS[suffix](text.encode(encoding)))
        assert rows_of(file) == [("René", "thé", "café crème"), ("Zoë", "thé", None)]

    @pytest.mark.parametrize(
        ("encoding", "title"),
        [
            ("cp1251", "Мастер и Маргарита"),
            ("koi8-r", "Преступление и наказание"),
            ("gb18030", "红楼梦,三国演义"),
            ("big5", "紅樓夢古典文學"),
            ("cp932", "千と千尋の神隠し"),
        ],
    )
    def test_writing_of_other_scripts_is_told_by_how_it_looks(self, encoding: str, title: str, tmp_path: Path) -> None:
        lines = [f'u{n},i{n},"{title}"' for n in range(10)]
        file = write(tmp_path / "log.csv", "\n".join([NAMES, *lines]).encode(encoding))
        assert rows_of(file)[0] == ("u0", "i0", title)

    def test_what_was_assumed_is_said_with_an_example(self, tmp_path: Path) -> None:
        file = write(tmp_path / "log.csv", f"{NAMES}\nann,tea,\nRené,thé,\n".encode("cp1252"))
        assert file.notes == [
            "not UTF-8: read as cp1252, for example 'René,thé,'; if that looks wrong, set data.encoding"
        ]

    def test_a_few_damaged_lines_of_a_file_in_utf8_do_not_change_its_encoding(
        self, folder: Path, settings: Settings
    ) -> None:
        lines = [f"Zoë {n},tea,2025-01-01\n".encode() for n in range(30)]
        lines[7] = b"Zo\xeb 7,tea,2025-01-01\n"
        (folder / "log.csv").write_bytes(b"user_id,item_id,ts\n" + b"".join(lines))
        assert ingest(settings, folder)["batches"][0]["unreadable"] == 1
        assert [row[0] for row in landed(settings, "interactions", "user_id")][6:9] == ["Zoë 6", None, "Zoë 8"]

    def test_the_encoding_of_a_setting_is_used(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_bytes("user,item,ts\nŁódź,ż,1\n".encode("cp1250"))
        settings = workspace_settings(data={"encoding": "cp1250"})
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("Łódź", "ż")]

    @pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
    def test_a_setting_that_does_not_fit_is_refused_with_the_line(self, encoding: str, tmp_path: Path) -> None:
        write(tmp_path / "log.csv", f"{NAMES}\nann,tea,\nRené,thé,\n".encode("latin-1"))
        message = refusal(LogFile(tmp_path / "log.csv", encoding=encoding))
        assert "log.csv, line" in message
        assert "data.encoding" in message

    def test_a_name_that_is_no_encoding_is_refused(self, workspace_settings: Make) -> None:
        with pytest.raises(ValueError, match="'latin-one' is no encoding"):
            workspace_settings(data={"encoding": "latin-one"})

    def test_the_hash_of_the_content_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        texts = [f"{NAMES}\nRené,thé,\n".encode(encoding) for encoding in ("utf-8", "utf-16")]
        one, other = (write(tmp_path / f"{n}.csv", text) for n, text in enumerate(texts))
        assert rows_of(one) == rows_of(other)
        assert one.content != other.content

    def test_copies_go_with_the_file(self, tmp_path: Path) -> None:
        write(tmp_path / "log.csv", f"{NAMES}\nRené,thé,\n".encode("utf-16"))
        file = LogFile(tmp_path / "log.csv", scratch=tmp_path / "copies")
        rows_of(file)
        assert len(list((tmp_path / "copies").iterdir())) == 1
        del file
        assert list((tmp_path / "copies").iterdir()) == []

    def test_copies_of_a_killed_run_go_when_the_next_one_lands(self, folder: Path, settings: Settings) -> None:
        left = settings.paths.landing / ".reading" / "reclm-killed"
        left.mkdir(parents=True)
        (left / "plain").write_text("ann")
        (left / ".lock").touch()
        (folder / "log.csv").write_text(LOG)
        ingest(settings, folder)
        assert not left.exists()


class TestFilesThatAreNoTable:
    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("log.csv.gz", gzip.compress(LOG.encode() * 99, mtime=0)[:-20], "ended before"),
            ("log.csv.zst", COMPRESS[".zst"](LOG.encode() * 99)[:-20], "Truncated"),
            ("log.csv.zip", zipped(LOG.encode())[:-20], "not a zip file"),
            ("log.zip", zipped(LOG.encode())[:-20], "not a zip file"),
            ("log.csv", LOG.encode("utf-16")[:-1], "line 3 is not text in utf-16"),
            ("log.csv", bytes(5000) + LOG.encode(), "is not text"),
            ("log.csv", "<!DOCTYPE html>\n<html>404</html>\n", "a web page"),
        ],
    )
    def test_each_is_refused_by_name(self, name: str, content: str | bytes, words: str, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / name, content))
        assert name in message
        assert words in message

    def test_an_archive_of_several_files_is_to_be_unpacked(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
            archive.writestr("a.csv", LOG)
            archive.writestr("b.csv", LOG)
        assert "holds 2 files; unpack it" in refusal(LogFile(tmp_path / "log.zip"))

    def test_a_workbook_is_to_be_saved_as_csv(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "log.csv", "w") as archive:
            archive.writestr("[Content_Types].xml", "")
        assert "save it as CSV in UTF-8" in refusal(LogFile(tmp_path / "log.csv"))


class TestSeparatorsAndQuotes:
    @pytest.mark.parametrize("mark", [",", "\t", ";", "|", "::", "^", "\x01", " "])
    @pytest.mark.parametrize("suffix", ["csv", "txt", "dat", "tsv"])
    def test_any_separator_is_told_whatever_the_suffix(self, mark: str, suffix: str, tmp_path: Path) -> None:
        text = "\n".join(
            mark.join(row) for row in [("user_id", "item_id", "ts"), ("ann", "tea", "1"), ("bob", "", "2")]
        )
        assert rows_of(write(tmp_path / f"log.{suffix}", text)) == [("ann", "tea", "1"), ("bob", None, "2")]

    @pytest.mark.parametrize(
        ("field", "read"),
        [
            ('"say ""hi, you"""', 'say "hi, you"'),
            ('"say \\"hi, you\\""', 'say "hi, you"'),
            ('"a folder, C:\\dir\\"', "a folder, C:\\dir\\"),
            ('"two\nlines, quoted"', "two\nlines, quoted"),
            ('5" pipe', '5" pipe'),
        ],
    )
    def test_how_quotes_are_escaped_is_told(self, field: str, read: str, tmp_path: Path) -> None:
        text = f"{NAMES}\n" + "".join(f"u{n},i{n},{field}\n" for n in range(5))
        assert {row[2] for row in rows_of(write(tmp_path / "log.csv", text))} == {read}

    def test_a_backslash_before_a_quote_is_found_far_behind_the_first_lines(self, tmp_path: Path) -> None:
        plain = "".join(f'u{n},i{n},"{"plain " * 20}"\n' for n in range(12_000))
        file = write(tmp_path / "log.csv", f'{NAMES}\n{plain}u,i,"say \\"hi\\""\n')
        assert rows_of(file)[-1] == ("u", "i", 'say "hi"')

    @pytest.mark.parametrize("title", ['"Big" screen', 'a 5" pipe', '"never closed', '"all quoted" "twice"'])
    def test_a_file_with_tabs_does_not_quote(self, title: str, tmp_path: Path) -> None:
        text = f"user_id\titem_id\ttitle\nann\ttea\t{title}\nbob\tjam\tplain\n"
        assert rows_of(write(tmp_path / "log.tsv", text))[0][2] == title

    def test_a_file_with_tabs_quotes_when_its_lines_prove_it(self, tmp_path: Path) -> None:
        text = 'user_id\titem_id\ttitle\nann\ttea\t"a ""big""\tone"\nbob\tjam\tplain\n'
        assert rows_of(write(tmp_path / "log.tsv", text))[0][2] == 'a "big"\tone'

    def test_blanks_separate_quoted_fields_with_blanks_inside(self, tmp_path: Path) -> None:
        file = write(tmp_path / "log.txt", 'user_id item_id\n"ann b" tea\nbob "green tea"\n')
        assert rows_of(file) == [("ann b", "tea"), ("bob", "green tea")]

    def test_decimal_commas_do_not_separate(self, tmp_path: Path) -> None:
        file = write(tmp_path / "log.csv", "user_id;item_id;rating\nann;tea;4,5\nbob;tea;3,5\n")
        assert rows_of(file)[0] == ("ann", "tea", "4,5")

    def test_nulls_as_databases_write_them_are_null(self, tmp_path: Path) -> None:
        assert rows_of(write(tmp_path / "log.tsv", "user_id\tnote\nann\t\\N\nNULL\tx\n")) == [
            ("ann", None),
            ("NULL", "x"),
        ]

    def test_settings_say_it(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text("user~item~ts\n'a~b'~'it#'s'~1\n")
        settings = workspace_settings(data={"delimiter": "~", "quote": "'", "escape": "#"})
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("a~b", "it's")]

    @pytest.mark.parametrize(("key", "value"), [("delimiter", "\n"), ("delimiter", "12345"), ("quote", "''")])
    def test_settings_that_cannot_be_are_refused(self, key: str, value: str, workspace_settings: Make) -> None:
        with pytest.raises(ValueError, match=r"one character|separate fields"):
            workspace_settings(data={key: value})


class TestLines:
    @pytest.mark.parametrize(
        "text",
        [
            "a,b\n1,2\n3,4\n",
            "a,b\r\n1,2\r\n3,4\r\n",
            "a,b\r1,2\r3,4\r",
            "a,b\n1,2\n3,4",
            "\n\na,b\n1,2\n\n3,4\n\n",
            "\r\na,b\r\n1,2\r\n3,4\r\n",
            "a,b\r\r\n1,2\r\r\n3,4\r\r\n",
            "a,b\n1,2\r\n3,4\r",
        ],
    )
    def test_line_ends_and_blank_lines(self, text: str, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_bytes(text.encode())
        settings = workspace_settings(data={"user_column": "a", "item_column": "b"})
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("1", "2"), ("3", "4")]

    def test_a_separator_at_the_end_of_every_row(self, tmp_path: Path) -> None:
        file = write(tmp_path / "log.csv", "user_id,item_id\nann,tea,\nbob,jam,\n")
        assert rows_of(file) == [("ann", "tea", None), ("bob", "jam", None)]

    @pytest.mark.parametrize("first", ["# exported today", "sep=,", "My export"])
    def test_a_line_above_the_header_is_to_be_removed(self, first: str, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / "log.csv", f"{first}\n{LOG}"))
        assert "log.csv, line 1 has" in message
        assert "remove the lines above them" in message

    def test_single_unreadable_lines_keep_their_text(self, folder: Path, settings: Settings) -> None:
        lines = [f"u{n},tea,2025-01-01\r\n" for n in range(30)]
        (folder / "log.csv").write_bytes(("user_id,item_id,ts\r\n" + "".join([*lines, "Total: 30\r\n"])).encode())
        assert ingest(settings, folder)["batches"][0]["unreadable"] == 1
        pattern = settings.paths.landing / "rejected" / "*.parquet"
        found = duckdb.connect().execute(f"select source_row, reason, line from '{pattern}'").fetchall()
        assert found == [(31, "Expected Number of Columns: 3 Found: 1", "Total: 30")]

    def test_many_unreadable_lines_say_how_the_file_was_read(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text("user_id,item_id,ts\n" + "ann,tea,1\nbob,jam\n" * 20)
        with pytest.raises(InputError, match=r"log\.csv, line 3 .*'bob,jam'.*separated by ','.*data\.delimiter"):
            ingest(settings, folder)


class TestAFileWithoutAHeader:
    ROWS = "28,2268349,pv,1704447119\n23,2268353,pv,1704452357\n"

    def test_is_refused_with_the_way_to_read_it(self, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / "log.csv", self.ROWS))
        assert "line 1 looks like data, not like the names of columns: 28, 2268349, pv, 1704447119" in message
        assert "--set data.header=false --set data.columns=user_id,item_id,column_3,timestamp" in message

    def test_is_read_as_the_remedy_says(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text(self.ROWS)
        data = {"header": False, "columns": ("user_id", "item_id", "event_type", "timestamp")}
        settings = workspace_settings(data=data)
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_type, event_ts, source_row") == [
            ("28", "2268349", "view", "1704447119", 1),
            ("23", "2268353", "view", "1704452357", 2),
        ]

    def test_has_numbered_columns_without_names(self, tmp_path: Path) -> None:
        write(tmp_path / "log.csv", self.ROWS)
        assert LogFile(tmp_path / "log.csv", header=False).columns == [f"column_{n}" for n in (1, 2, 3, 4)]

    def test_names_must_be_as_many_as_the_fields(self, tmp_path: Path) -> None:
        write(tmp_path / "log.csv", self.ROWS)
        assert "has 4 fields a line, not the 2 of a, b" in refusal(LogFile(tmp_path / "log.csv", names=("a", "b")))

    def test_names_for_a_file_with_a_header_ask_what_it_is(self, tmp_path: Path) -> None:
        write(tmp_path / "log.csv", "user_id,item_id\nann,tea\n")
        assert "Set data.header to true" in refusal(LogFile(tmp_path / "log.csv", names=("a", "b")))
        assert rows_of(LogFile(tmp_path / "log.csv", names=("a", "b"), header=True)) == [("ann", "tea")]

    @pytest.mark.parametrize("header", ["user_id,item_id,2024", "User ID,ISBN,Book-Rating", "a,b,c"])
    def test_a_header_is_no_data(self, header: str, tmp_path: Path) -> None:
        assert write(tmp_path / "log.csv", f"{header}\nann,tea,1\nbob,jam,2\n").columns == header.split(",")

    def test_ids_on_lines_of_their_own_are_named(self, tmp_path: Path) -> None:
        message = refusal(
            write(tmp_path / "combined.txt", "1:\n14888,3,2024-01-06\n14889,3,2024-01-09\n2:\n7,4,2024-01-07\n")
        )
        assert "line 1 is '1:'" in message
        assert "Netflix Prize" in message
        assert "awk" in message
