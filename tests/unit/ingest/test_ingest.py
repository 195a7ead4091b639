"""What a user gives, landed: any layout of file, told from its names, and a clear word when something is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock
from unit.ingest_world import LOG, ODD_IDS, Make, landed, landed_shares, tree

from reclm.errors import WorkspaceError
from reclm.ingest import ingest
from reclm.settings.tree import Settings
from reclm.storage.erasures import remember


class TestTheLandingContract:
    def test_every_table_is_there_even_when_nothing_was_given_for_it(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        last_columns = {"interactions": "request_id", "items": "full_shot_candidate", "users": "text"}
        for table, last in {**last_columns, "impressions": "source"}.items():
            described = (
                duckdb.connect()
                .execute(f"describe from '{settings.workspace}/landing/{table}/_empty.parquet'")
                .fetchall()
            )
            names = [row[0] for row in described]
            assert names[-3:] == [last, "source_file", "source_row"]
            assert {row[1] for row in described[:-1]} == {"VARCHAR"}
        assert landed(settings, "items") == []

    def test_the_data_set_describes_itself(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        content = ingest(settings, folder)
        assert content == json.loads((settings.workspace / "landing" / "dataset.json").read_text())
        assert content["name"] == "my shop"
        assert content["importer"] == "columns"
        assert (content["split_mode"], content["has_event_ts"]) == ("temporal", True)
        assert [(b["table"], b["rows"], b["source_file"]) for b in content["batches"]] == [
            ("interactions", 2, "interactions.csv")
        ]

    def test_ingesting_the_same_files_again_changes_nothing(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text("item_id,title\ntea,Tea\n")
        ingest(settings, folder)
        before = tree(settings.workspace)
        ingest(settings, folder)
        assert tree(settings.workspace) == before

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param(LOG + "cy,tea,2025-01-03\n", id="grown"),
            pytest.param(LOG.replace("bob", "cy"), id="corrected"),
            pytest.param(LOG.splitlines()[0] + "\nbob,tea,2025-01-02\n", id="shortened"),
        ],
    )
    def test_a_log_that_comes_again_under_its_name_replaces_what_it_delivered(
        self, changed: str, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        (folder / "interactions.csv").write_text(changed)
        content = ingest(settings, folder)
        assert [batch["rows"] for batch in content["batches"]] == [len(changed.splitlines()) - 1]
        assert len(landed(settings, "interactions")) == len(changed.splitlines()) - 1
        assert "replace" in capsys.readouterr().err

    def test_other_rows_under_the_same_name_are_a_further_delivery_and_it_says_so(
        self, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        (folder / "interactions.csv").write_text(LOG.replace("2025-01", "2025-02"))
        content = ingest(settings, folder)
        assert [batch["rows"] for batch in content["batches"]] == [2, 2]
        assert "0 of its 2 rows are the same, so both deliveries count" in capsys.readouterr().err

    def test_a_batch_that_was_replaced_stays_for_the_build_that_reads_it(
        self, folder: Path, settings: Settings
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        with FileLock(settings.paths.locks / "warehouse.lock"):
            (folder / "interactions.csv").write_text(LOG + "cy,tea,2025-01-03\n")
            ingest(settings, folder)
            assert len(landed(settings, "interactions")) == 5
        ingest(settings, folder)
        assert len(landed(settings, "interactions")) == 3

    def test_another_mapping_of_the_same_file_replaces_its_batch(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "interactions.csv").write_text("a,b,time\nann,tea,2025-01-01\n")
        ingest(workspace_settings(data={"user_column": "b", "item_column": "a"}), folder)
        settings = workspace_settings(data={"user_column": "a", "item_column": "b"})
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("ann", "tea")]

    def test_several_files_of_one_table_are_several_batches(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions-01.csv").write_text(LOG)
        (folder / "interactions-02.csv").write_text(LOG.replace("tea", "jam"))
        assert len(ingest(settings, folder)["batches"]) == 2
        assert [row[0] for row in landed(settings, "interactions", "item_id")] == ["tea", "tea", "jam", "jam"]

    def test_what_a_killed_run_left_behind_goes(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        good = next(p for p in (settings.workspace / "landing/interactions").iterdir() if p.stem != "_empty")
        (good.parent / "0123456789abcdef.parquet").write_bytes(good.read_bytes())
        ingest(settings, folder)
        assert len(landed(settings, "interactions")) == 2

    def test_a_workspace_holds_one_data_set(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        other = folder.with_name("other")
        folder.rename(other)
        with pytest.raises(WorkspaceError, match=r"already holds the data set 'my shop'.*another --workspace"):
            ingest(settings, other)

    def test_forgotten_users_do_not_come_back(self, folder: Path, settings: Settings) -> None:
        remember(settings.paths, ["bob"])
        (folder / "interactions.csv").write_text(LOG + ",tea,2025-01-03\n")
        (folder / "users.csv").write_text("user_id,town\nann,Bath\nbob,York\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id") == [("ann",), (None,)]
        assert landed(settings, "users", "user_id, text") == [("ann", "Bath")]

    def test_source_rows_count_from_one_and_no_path_is_kept(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        assert landed(settings, "interactions", "source_file, source_row") == [
            ("interactions.csv", 1),
            ("interactions.csv", 2),
        ]


class TestValuesSurviveExactly:
    @pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet", "jsonl"])
    def test_odd_ids(self, kind: str, folder: Path, settings: Settings) -> None:
        rows = [(odd, f"item {odd}", "2025-01-01") for odd in ODD_IDS]
        path = folder / f"interactions.{kind}"
        if kind == "jsonl":
            lines = (json.dumps(dict(zip(("user_id", "item_id", "ts"), row, strict=True))) for row in rows)
            path.write_text("\n".join(lines))
        elif kind == "parquet":
            con = duckdb.connect()
            con.execute("create table log (user_id varchar, item_id varchar, ts varchar)")
            con.executemany("insert into log values (?, ?, ?)", rows)
            con.execute(f"copy log to '{path}'")
        else:
            mark = "\t" if kind == "tsv" else ","
            quoted = ["user_id item_id ts".replace(" ", mark)]
            quoted += [mark.join('"' + value.replace('"', '""') + '"' for value in row) for row in rows]
            data = "\n".join(quoted).encode()
            path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts") == rows

    def test_odd_column_and_file_names(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "it's [a] log?.csv").write_text('"the ""user""","it\'s",when;so\nann,tea,1\n')
        data = {"user_column": 'the "user"', "item_column": "it's", "timestamp_column": "when;so"}
        settings = workspace_settings(data=data)
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts") == [("ann", "tea", "1")]

    def test_bad_values_are_landed_for_the_warehouse_to_judge(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text("user,item,ts,rating\n,tea,soon,many\nann,,2999-01-01,-1\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts, weight") == [
            (None, "tea", "soon", "many"),
            ("ann", None, "2999-01-01", "-1"),
        ]

    def test_whole_numbers_that_a_table_holds_as_floats_are_whole(self, folder: Path, settings: Settings) -> None:
        duckdb.connect().execute(
            f"copy (select 7.0::double as user_id, 12 as item_id, 1.5e9::double as ts) to '{folder}/log.parquet'"
        )
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts") == [("7", "12", "1500000000")]

    def test_times_of_a_typed_file_are_written_in_utc(self, folder: Path, settings: Settings) -> None:
        moment = "timestamptz '2025-01-01 12:00:00+02'"
        duckdb.connect().execute(
            f"copy (select 'a' as user_id, 'b' as item_id, {moment} as ts) to '{folder}/log.parquet'"
        )
        ingest(settings, folder)
        assert landed(settings, "interactions", "event_ts") == [("2025-01-01 10:00:00+00",)]

    def test_a_text_of_ten_megabytes(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text(f'item_id,title,text\ntea,Tea,"{"long " * 2_000_000}"\n')
        ingest(settings, folder)
        assert landed(settings, "items", "length(text)") == [(10_000_000,)]

    @pytest.mark.parametrize(
        "text", [LOG.replace("\n", "\r\n") + "\r\n\r\n", LOG.replace("2025-01-01\n", "2025-01-01\r\n")]
    )
    def test_any_line_ends_and_blank_lines(self, text: str, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_bytes(text.encode())
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, event_ts") == [("ann", "2025-01-01"), ("bob", "2025-01-02")]

    def test_nul_bytes_and_byte_order_marks(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_bytes(b"\xef\xbb\xbfuser_id,item_id,ts\na\0b,tea,1\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id") == [("a\0b",)]


class TestColumnsAreFound:
    @pytest.mark.parametrize("user", ["user", "userId", "user_id", "customer_id", "User ID"])
    @pytest.mark.parametrize("item", ["item", "movieId", "product_id", "sku"])
    def test_by_their_usual_names(self, user: str, item: str, folder: Path, settings: Settings) -> None:
        (folder / "clicks.csv").write_text(f"{item},{user},timestamp,score\ntea,ann,5,0.5\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts, weight") == [("ann", "tea", "5", "0.5")]

    def test_every_unmapped_item_column_is_text(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "products.csv").write_text(
            "id,name,colour,category,release_date,note\n"
            "tea,Green Tea,green,Drinks; Hot drinks,2024-01-01,\njam,Jam,,Food,,sweet\n"
        )
        ingest(settings, folder)
        assert landed(settings, "items", "item_id, title, text, categories, created_ts") == [
            ("tea", "Green Tea", "green", "Drinks|Hot drinks", "2024-01-01"),
            ("jam", "Jam", "sweet", "Food", None),
        ]

    def test_only_the_named_text_columns_when_they_are_named(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text("item_id,title,a,b,c\ntea,Tea,1,2,3\n")
        settings = workspace_settings(data={"text_columns": ("c", "a")})
        ingest(settings, folder)
        assert landed(settings, "items", "text") == [("3 1",)]

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("Comedy, Drama", "Comedy|Drama"),
            ("Comedy|Sci-Fi, soft", "Comedy|Sci-Fi, soft"),
            ("Home Coffee", "Home Coffee"),
            ("['Comedy', 'Drama']", "Comedy|Drama"),
        ],
    )
    def test_categories_however_they_are_separated(
        self, given: str, kept: str, folder: Path, settings: Settings
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text(f'item_id,genres\ntea,"{given}"\n')
        ingest(settings, folder)
        assert landed(settings, "items", "categories") == [(kept,)]

    def test_lists_of_categories_in_json_and_no_flag_as_text(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.jsonl").write_text('{"item_id": 7, "tags": ["Hot", "Green tea"], "ok": true}\n')
        ingest(settings, folder)
        assert landed(settings, "items", "item_id, categories, text") == [("7", "Hot|Green tea", None)]

    def test_one_file_alone_is_a_log(self, folder: Path, settings: Settings) -> None:
        (folder / "whatever.csv").write_text(LOG)
        content = ingest(settings, folder / "whatever.csv")
        assert (content["name"], len(landed(settings, "interactions"))) == ("whatever", 2)

    def test_two_files_named_by_settings(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "x.csv").write_text(LOG)
        (folder / "y.csv").write_text("item_id,title\ntea,Tea\n")
        settings = workspace_settings(data={"interactions": "x.csv", "items": "y.csv"})
        ingest(settings, folder)
        assert (len(landed(settings, "interactions")), len(landed(settings, "items"))) == (2, 1)

    def test_low_weights_are_counted_and_land_as_low_ratings(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "ratings.csv").write_text("user,item,ts,rating\na,x,1,2.5\na,y,2,4\na,z,3,?\n")
        settings = workspace_settings(data={"min_weight": 3})
        content = ingest(settings, folder)
        rows = landed(settings, "interactions", "item_id, event_type")
        assert rows == [("x", "low_rating"), ("y", None), ("z", None)]
        assert content["batches"][0]["below_min_weight"] == 1

    def test_a_log_of_two_columns_is_split_by_chance_the_same_way_each_time(
        self, folder: Path, workspace_settings: Make, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "log.csv").write_text("user,item\n" + "".join(f"u{n % 50},i{n}\n" for n in range(3000)))
        settings = workspace_settings()
        content = ingest(settings, folder)
        assert "set data.timestamp_column" in capsys.readouterr().err
        assert (content["split_mode"], content["has_event_ts"]) == ("assigned", False)
        shares = {label: n / 3000 for label, n in landed_shares(settings)}
        assert shares == {
            "train": pytest.approx(0.8, abs=0.03),
            "valid": pytest.approx(0.1, abs=0.03),
            "test": pytest.approx(0.1, abs=0.03),
        }


class TestADelivery:
    ITEMS = "item_id,title\ncocoa,Cocoa\n"

    def test_joins_the_data_set_that_stands_whatever_its_folder_is_called(
        self, folder: Path, tmp_path: Path, settings: Settings
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "interactions-2.csv").write_text("user_id,item_id,event_ts\nann,cocoa,2025-01-03\n")
        with pytest.raises(WorkspaceError, match="another --workspace"):
            ingest(settings, inbox)
        content = ingest(settings, inbox, delivery=True)
        assert content["name"] == "my shop" and len(landed(settings, "interactions")) == 3

    def test_joins_the_demo_shop_and_takes_nothing_of_it_away(self, tmp_path: Path, workspace_settings: Make) -> None:
        settings = workspace_settings(demo={"users": 20, "items": 20, "interactions": 100})
        ingest(settings, None)
        before = len(landed(settings, "interactions")), len(landed(settings, "items"))
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "items-new.csv").write_text(self.ITEMS)
        ingest(settings, inbox, delivery=True)
        assert (len(landed(settings, "interactions")), len(landed(settings, "items")) - 1) == before
        with pytest.raises(WorkspaceError, match="another --workspace"):
            ingest(settings, None)  # the shop made anew would sweep the delivery away

    def test_of_items_alone_leaves_logs_where_they_are(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(settings, folder)
        (folder / "interactions-2.csv").write_text("user_id,item_id,event_ts\nann,cocoa,2025-01-03\n")
        (folder / "items.csv").write_text(self.ITEMS)
        ingest(settings, folder, delivery=True, only="items")
        assert len(landed(settings, "interactions")) == 2 and len(landed(settings, "items")) == 1
        ingest(settings, folder, delivery=True)
        assert len(landed(settings, "interactions")) == 3

    def test_of_the_first_item_table_leaves_the_items_of_older_logs_known(
        self, folder: Path, workspace_settings: Make
    ) -> None:
        (folder / "interactions.csv").write_text(LOG)
        ingest(workspace_settings(), folder)
        (folder / "items.csv").write_text(self.ITEMS)
        (folder / "interactions-2.csv").write_text("user_id,item_id,event_ts\nann,cocoa,2025-01-03\n")
        content = ingest(workspace_settings(), folder, delivery=True)
        older = {b["source_file"]: b.get("before_items", False) for b in content["batches"]}
        assert older == {"interactions.csv": True, "interactions-2.csv": False, "items.csv": False}
        swapped = workspace_settings(data={"user_column": "item_id", "item_column": "user_id"})
        again = ingest(swapped, folder, delivery=True)
        assert {b["source_file"]: b.get("before_items", False) for b in again["batches"]} == older

    def test_of_a_further_item_table_marks_no_log(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.csv").write_text("item_id,title\ntea,Tea\n")
        ingest(settings, folder)
        (folder / "items-2.csv").write_text(self.ITEMS)
        assert not any("before_items" in batch for batch in ingest(settings, folder, delivery=True)["batches"])
