"""The inbox, into which others write while it is read: every file is taken, or named with the reason."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.ingest_world import LOG, Make, landed

from reclm.ingest import files, inbox
from reclm.ingest.inbox import Delivery, land_inbox, not_taken
from reclm.settings.tree import Settings
from reclm.storage.files import read_json

MORE = "user_id,item_id,event_ts\ncy,jam,2025-01-03\n"
ITEMS = "item_id,title\ntea,Tea\njam,Jam\n"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def put(box: Path, name: str, content: str | bytes, *, age: float = 3600) -> Path:
    """Write a file of the inbox that was last changed `age` seconds ago."""
    path = box / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def no_wait(seconds: float) -> None:
    raise AssertionError(f"waited for {seconds} s")


def take(settings: Settings, box: Path, wait: Callable[[float], None] = no_wait) -> Delivery:
    return land_inbox(settings, box, wait=wait)


def users(settings: Settings) -> list[str]:
    return sorted(row[0] for row in landed(settings, "interactions", "user_id"))


def why(delivery: Delivery) -> dict[str, tuple[str, str]]:
    return {one.file: (one.kind, one.why) for one in delivery.not_taken}


def parquet(rows: dict[str, list[str]], path: Path) -> bytes:
    pq.write_table(pa.table(rows), path)
    return path.read_bytes()


class TestEveryFileIsTaken:
    def test_whatever_family_of_names_it_belongs_to(self, box: Path, settings: Settings) -> None:
        put(box, "interactions-1.csv", LOG)
        put(box, "events-2.csv", MORE)
        put(box, "ratings.csv", MORE.replace("cy", "di"))
        put(box, "items-1.csv", "item_id,title\ntea,Tea\n")
        put(box, "products.csv", "item_id,title\njam,Jam\n")
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy", "di"]
        assert len(landed(settings, "items")) == 2

    def test_one_whose_name_tells_nothing_when_its_columns_are_those_of_a_log(
        self, box: Path, settings: Settings
    ) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "export-0471.csv", MORE)
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy"]

    def test_the_parts_of_a_log_in_folders_of_days(self, box: Path, settings: Settings) -> None:
        put(box, "log/day=2025-01-01/part-0.csv", LOG)
        put(box, "log/day=2025-01-02/part-0.csv", MORE)
        put(box, "log/_SUCCESS", "")
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy"]


class TestAFileThatIsNotTaken:
    @pytest.mark.parametrize("name", ["interactions-2.csv.part", ".interactions.csv.swp", "x.tmp", "ev.csv.crdownload"])
    def test_waits_when_its_name_says_that_it_is_not_whole(self, name: str, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        put(box, name, MORE)
        found = why(take(settings, box))
        assert found[name][0] == "waiting" and "rename" in found[name][1]
        assert users(settings) == ["ann", "bob"]

    def test_is_named_when_it_is_no_table(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "prices.xlsx", "PK")
        put(box, "readme.txt", "Dear colleague,\nhere is the log.\n")
        found = why(take(settings, box))
        assert {name: kind for name, (kind, _) in found.items()} == {"prices.xlsx": "unused", "readme.txt": "unused"}
        assert ".parquet" in found["prices.xlsx"][1]

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("interactions-2.csv", "wer,was,wann\ncy,jam,2025-01-03\n", "no column for the user"),
            ("stock.csv", "sku,left\njam,3\n", "tells no table"),
            ("interactions-2.csv", "", "0 bytes"),
            ("interactions-2.csv", "user_id,item_id\ncy,jam\n", "no time column"),
            ("interactions-2.csv", "user_id,item_id,event_ts\ncy,jam,\n", "without a single value"),
            ("interactions-2.csv.gz", gzip.compress((MORE * 500).encode())[:-20], "interactions-2.csv.gz"),
            ("interactions-2.parquet", b"PAR1 cut off", "whole parquet file"),
        ],
    )
    def test_is_refused_when_it_cannot_be_used_and_the_others_land(
        self, name: str, content: str | bytes, said: str, box: Path, settings: Settings
    ) -> None:
        put(box, "interactions.csv", LOG)
        put(box, name, content)
        put(box, "interactions-3.csv", MORE)
        delivery = take(settings, box)
        assert [one.file for one in delivery.refused] == [name]
        assert said in delivery.refused[0].why
        assert users(settings) == ["ann", "bob", "cy"]

    def test_lands_when_it_has_been_mended(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        whole = gzip.compress(MORE.encode())
        put(box, "interactions-2.csv.gz", whole[:-9])
        assert take(settings, box).refused
        put(box, "interactions-2.csv.gz", whole, age=60)
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy"]

    def test_is_remembered_until_it_goes(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        bad = put(box, "interactions-2.csv", "a,b\n1,2\n")
        take(settings, box)
        land_inbox(settings, box, only="items", wait=no_wait)
        assert [one.file for one in not_taken(settings.paths)] == ["interactions-2.csv"]
        bad.unlink()
        take(settings, box)
        assert not_taken(settings.paths) == []

    def test_alone_begins_no_data_set(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", "a,b\n1,2\n")
        delivery = take(settings, box)
        assert delivery.dataset is None and [one.file for one in delivery.refused] == ["interactions.csv"]
        assert not settings.paths.dataset.exists()

    def test_waits_for_a_log_when_it_is_the_first_item_table(self, box: Path, settings: Settings) -> None:
        put(box, "items.csv", ITEMS)
        assert why(take(settings, box)) == {"items.csv": ("waiting", "the data set begins with the first log")}
        put(box, "interactions.csv", LOG)
        assert take(settings, box).not_taken == []
        assert len(landed(settings, "items")) == 2


class TestAFileThatIsStillBeingWritten:
    def test_is_left_for_the_next_time_and_the_others_land(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        growing = put(box, "interactions-2.csv", MORE, age=1)
        waited: list[float] = []

        def write_on(seconds: float) -> None:
            waited.append(seconds)
            growing.write_text(MORE + "di,jam,2025-01-04\n")

        found = why(take(settings, box, write_on))
        assert found["interactions-2.csv"][0] == "waiting"
        assert users(settings) == ["ann", "bob"]
        assert len(waited) == 1 and 0 < waited[0] <= settings.schedule.settle_seconds
        put(box, "interactions-2.csv", MORE + "di,jam,2025-01-04\n")
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy", "di"]

    def test_is_taken_when_it_has_not_changed_after_the_wait(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG, age=1)
        assert take(settings, box, lambda seconds: None).not_taken == []
        assert users(settings) == ["ann", "bob"]


class TestTheSameFileAgain:
    def test_counts_once_under_whatever_name(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "interactions (copy).csv", LOG)
        assert take(settings, box).not_taken == []
        put(box, "interactions-again.csv", LOG)
        take(settings, box)
        assert users(settings) == ["ann", "bob"]

    def test_is_neither_hashed_nor_opened(self, box: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "interactions-2.csv", "a,b\n1,2\n")
        first = take(settings, box)

        def read(*_: object) -> None:
            raise AssertionError("the file was read again")

        monkeypatch.setattr(files, "hashlib", type("None", (), {"file_digest": read}))
        monkeypatch.setattr(inbox, "open_part", read)
        assert take(settings, box) == first

    def test_is_read_again_when_the_settings_of_the_data_change(self, box: Path, workspace_settings: Make) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "interactions-2.csv", "wer,item_id,event_ts\ncy,jam,2025-01-03\n")
        assert take(workspace_settings(), box).refused
        put(box, "interactions.csv", LOG.replace("user_id", "wer"))
        assert take(workspace_settings(data={"user_column": "wer"}), box).not_taken == []
        assert users(workspace_settings()) == ["ann", "bob", "cy"]

    def test_corrected_supersedes_what_it_delivered(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        take(settings, box)
        put(box, "interactions.csv", LOG.replace("bob", "cy"), age=60)
        take(settings, box)
        assert users(settings) == ["ann", "cy"]

    def test_a_window_that_moves_on_keeps_the_days_that_it_left(self, box: Path, settings: Settings) -> None:
        days = [f"u{day},tea,2025-01-{day:02d}\n" for day in range(1, 32)]
        for first in (0, 1):
            put(
                box,
                "interactions.csv",
                "user_id,item_id,event_ts\n" + "".join(days[first : first + 30]),
                age=90 - first,
            )
            take(settings, box)
        assert set(users(settings)) == {f"u{day}" for day in range(1, 32)}


class TestKills:
    @pytest.mark.parametrize("place", ["land", "write_json"])
    def test_a_killed_run_is_completed_by_the_next_with_nothing_twice(
        self, place: str, box: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "events.csv", MORE)

        def die(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(inbox, place, die)
            with pytest.raises(Killed):
                take(settings, box)
        assert take(settings, box).not_taken == []
        assert users(settings) == ["ann", "bob", "cy"]


class TestTwoAtOnce:
    def test_the_second_waits_and_finds_nothing_left_to_do(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "events.csv", MORE)
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: take(settings, box), range(2))
        assert first == second
        assert users(settings) == ["ann", "bob", "cy"]


class TestAFolderOfAKnownLayout:
    def test_lands_as_a_whole_and_what_is_not_of_it_is_named(self, box: Path, settings: Settings) -> None:
        put(box, "ratings.csv", "userId,movieId,rating,timestamp\n1,2,5,1700000000\n")
        put(box, "movies.csv", "movieId,title,genres\n2,Heat (1995),Crime\n")
        put(box, "events.csv", MORE)
        found = why(take(settings, box))
        assert list(found) == ["events.csv"] and "movielens" in found["events.csv"][1]
        assert users(settings) == ["1"]


class TestALogWithSplits:
    def test_stays_one_after_a_delivery_of_items(self, box: Path, settings: Settings) -> None:
        log = "user_id,item_id,split\nann,tea,train\nbob,tea,test\n"
        put(box, "interactions.csv", log)
        take(settings, box)
        put(box, "items.csv", ITEMS)
        take(settings, box)
        put(box, "interactions-2.csv", "user_id,item_id,split\ncy,jam,test\ndi,jam,test\ned,jam,test\n")
        take(settings, box)
        assert read_json(settings.paths.dataset)["importer"] == "presplit"
        assert [split for (split,) in landed(settings, "interactions", "split")].count("test") == 4


class TestTheMemory:
    def test_holds_no_row_and_does_not_trust_a_file_that_has_just_changed(self, box: Path, settings: Settings) -> None:
        put(box, "interactions.csv", LOG)
        put(box, "events.csv", MORE, age=-60)
        take(settings, box, lambda seconds: None)
        content = read_json(settings.paths.landing / "inbox.json")
        assert list(content["files"]) == ["interactions.csv"]
        assert hashlib.sha256(LOG.encode()).hexdigest() not in str(content["files"]["interactions.csv"]["state"])
