"""Columns find their role by name and by value; what is not used or not as one may think is said."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from unit.ingest_world import LOG, Make, landed

from reclm import stages
from reclm.cli import status
from reclm.errors import InputError
from reclm.ingest import ingest
from reclm.settings.tree import Settings

Said = pytest.CaptureFixture[str]


def refusal(settings: Settings, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        ingest(settings, folder)
    return str(caught.value)


class TestUsualNames:
    @pytest.mark.parametrize(
        "header",
        [
            "visitorid,itemid,timestamp,transactionid",
            "customer_id,article_id,t_dat,price",
            "User-ID,ISBN,date,Book-Rating",
            "reviewerID,asin,unixReviewTime,overall",
            "user_id,business_id,date,stars",
            "user_id:token,item_id:token,timestamp:float,rating:float",
            "CustomerID,StockCode,InvoiceDate,Quantity",
            "userID,artistID,time,weight",
            "steam_id,app_id,created,playtime_forever",
        ],
    )
    def test_of_public_logs(self, header: str, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text(f"{header}\nann,tea,2024-01-01,5\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts") == [("ann", "tea", "2024-01-01")]


class TestAMissingColumn:
    def test_is_never_filled_with_one_that_has_a_role(self, folder: Path, settings: Settings) -> None:
        (folder / "log.csv").write_text("user_id,date\n" + "ann,2024-01-01\n" * 3)
        message = refusal(settings, folder)
        assert "'user_id' (user), 'date' (timestamp)" in message
        assert "data.item_column" in message and "data.item_column=" not in message

    def test_is_not_proposed_from_a_column_that_does_not_look_the_part(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"ann,{n % 2},2024-01-{n % 28 + 1:02},{n / 7:.3f},a long text number {n}\n" for n in range(60))
        (folder / "log.csv").write_text("user_id,flag,when,share,words\n" + rows)
        assert "data.item_column=" not in refusal(settings, folder)

    def test_names_the_only_column_that_looks_the_part(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"ann,thing {n % 9},{n / 7:.3f}\n" for n in range(60))
        (folder / "log.csv").write_text("user_id,gadget,share\n" + rows)
        assert "--set data.item_column=gadget" in refusal(settings, folder)

    def test_lists_several_that_do(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"ann,x{n % 9},y{n % 7}\n" for n in range(60))
        (folder / "log.csv").write_text("user_id,gadget,widget\n" + rows)
        assert "gadget, widget could be it" in refusal(settings, folder)


class TestOneColumnInTwoRoles:
    def test_is_refused_with_both_settings_named(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text(LOG)
        settings = workspace_settings(data={"user_column": "user_id", "item_column": "USER_ID"})
        message = refusal(settings, folder)
        assert "data.user_column and data.item_column both name 'user_id'" in message

    def test_a_named_column_is_not_taken_by_its_usual_name_too(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text("item_id,product,ts\nann,tea,1\n")
        ingest(settings := workspace_settings(data={"user_column": "item_id"}), folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("ann", "tea")]


class TestALogInTwoTables:
    @pytest.mark.parametrize("names", [("orders", "order_items"), ("purchases", "lines")])
    def test_is_explained_with_the_join_that_makes_it_one(
        self, names: tuple[str, str], folder: Path, settings: Settings
    ) -> None:
        (folder / f"{names[0]}.csv").write_text("order_id,user_id,date\n1,ann,2024-01-01\n2,bob,2024-01-02\n")
        (folder / f"{names[1]}.csv").write_text("Order ID,item_id\n1,tea\n1,jam\n2,tea\n")
        message = refusal(settings, folder)
        query = message[message.index("copy (") :].replace("to 'interactions.csv'", f"to '{folder}/interactions.csv'")
        duckdb.connect().execute(query)
        ingest(settings, folder)
        assert sorted(landed(settings, "interactions", "user_id, item_id, event_ts")) == [
            ("ann", "jam", "2024-01-01"),
            ("ann", "tea", "2024-01-01"),
            ("bob", "tea", "2024-01-02"),
        ]


class TestTheIdThatJoins:
    def write(self, folder: Path) -> None:
        rows = "".join(f"u{n},V{n},P{n % 4},2024-01-01\n" for n in range(20))
        (folder / "reviews.csv").write_text("user_id,asin,parent_asin,date\n" + rows)
        (folder / "items.csv").write_text("parent_asin,title\n" + "".join(f"P{n},Thing\n" for n in range(4)))

    def test_is_taken_and_said(self, folder: Path, settings: Settings, capsys: Said) -> None:
        self.write(folder)
        ingest(settings, folder)
        assert {row[0] for row in landed(settings, "interactions", "item_id")} == {"P0", "P1", "P2", "P3"}
        assert "the item is 'parent_asin': 100% of its ids are in items.csv" in capsys.readouterr().err

    def test_stays_in_later_deliveries(self, folder: Path, tmp_path: Path, settings: Settings) -> None:
        self.write(folder)
        ingest(settings, folder)
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "reviews-2.csv").write_text("user_id,asin,parent_asin,date\nu1,V99,P1,2024-02-01\n")
        ingest(settings, inbox, delivery=True)
        assert landed(settings, "interactions", "item_id", "event_ts = '2024-02-01'") == [("P1",)]

    def test_yields_to_the_one_settings_name(self, folder: Path, workspace_settings: Make) -> None:
        self.write(folder)
        ingest(settings := workspace_settings(data={"item_column": "asin"}), folder)
        assert len({row[0] for row in landed(settings, "interactions", "item_id")}) == 20

    def test_is_pointed_out_when_its_name_tells_nothing(self, folder: Path, settings: Settings, capsys: Said) -> None:
        rows = "".join(f"u{n},V{n},P{n % 4},2024-01-01\n" for n in range(40))
        (folder / "log.csv").write_text("user_id,item_id,ref,date\n" + rows)
        (folder / "items.csv").write_text("item_id,title\n" + "".join(f"P{n},Thing\n" for n in range(4)))
        ingest(settings, folder)
        said = capsys.readouterr().err
        assert "no id in 'item_id' is in items.csv" in said and "data.item_column=ref" in said


class TestIdsThatWereFloats:
    def test_lose_the_point_when_all_of_a_column_have_it(self, folder: Path, settings: Settings, capsys: Said) -> None:
        (folder / "log.csv").write_text("user_id,item_id,ts\n7.0,12.0,1\nnan,13.0,2\n8.0,,3\n")
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id") == [("7", "12"), (None, "13"), ("8", None)]
        assert "every user in 'user_id' is written like 7.0" in capsys.readouterr().err

    def test_stay_as_they_are_beside_any_other(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"{n}.0,tea,1\n" for n in range(3000)) + "1.5,tea,1\n"
        (folder / "log.csv").write_text("user_id,item_id,ts\n" + rows)
        ingest(settings, folder)
        assert ("0.0",) in landed(settings, "interactions", "user_id")


class TestWeights:
    def test_with_a_decimal_comma_or_thousands_land_with_a_point(self, folder: Path, workspace_settings: Make) -> None:
        cells = ("3,0", "-4,5", "1.5", "1,234.5", "12,345", "n/a", "")
        rows = "".join(f"u{n};i;{n + 1};{cell}\n" for n, cell in enumerate(cells))
        (folder / "log.csv").write_text("user_id;item_id;ts;rating\n" + rows)
        settings = workspace_settings(data={"min_weight": 4})
        ingest(settings, folder)
        found = landed(settings, "interactions", "weight, event_type")
        assert [weight or "" for weight, _ in found] == ["3.0", "-4.5", "1.5", "1234.5", "12345", "n/a", ""]
        assert [kind for _, kind in found] == ["low_rating"] * 3 + [None] * 4

    def test_with_three_decimals_are_no_thousands_where_the_column_has_decimal_commas(
        self, folder: Path, settings: Settings
    ) -> None:
        cells = ("0,125", "0,73", "4,500", "1")
        rows = "".join(f"u{n};i;{n + 1};{cell}\n" for n, cell in enumerate(cells))
        (folder / "log.csv").write_text("user_id;item_id;ts;rating\n" + rows)
        ingest(settings, folder)
        assert [weight for (weight,) in landed(settings, "interactions", "weight")] == ["0.125", "0.73", "4.500", "1"]


class TestTypesOfEvents:
    def log(self, folder: Path, column: str, *types: str) -> None:
        rows = "".join(f"ann,i{n},{n},{kind}\n" for n, kind in enumerate(types))
        (folder / "log.csv").write_text(f"user,item,ts,{column}\n" + rows)

    def test_are_found_by_their_values_and_renamed(self, folder: Path, settings: Settings, capsys: Said) -> None:
        self.log(folder, "event", "view", "addtocart", "Transaction")
        ingest(settings, folder)
        assert [row[0] for row in landed(settings, "interactions", "event_type")] == ["view", "cart", "purchase"]
        said = capsys.readouterr().err
        assert "addtocart is taken as cart" in said and "Transaction is taken as purchase" in said

    def test_that_are_partly_unknown_are_not_used_and_that_is_said(
        self, folder: Path, settings: Settings, capsys: Said
    ) -> None:
        self.log(folder, "action", "view", "dance")
        ingest(settings, folder)
        assert [row[0] for row in landed(settings, "interactions", "event_type")] == [None, None]
        assert "'action' is not used as the type of event" in (said := capsys.readouterr().err)
        assert "data.event_weights=dance=1" in said

    def test_stay_in_use_when_a_later_delivery_has_a_new_one(
        self, folder: Path, tmp_path: Path, settings: Settings
    ) -> None:
        self.log(folder, "action", "view", "buy")
        ingest(settings, folder)
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        self.log(inbox, "action", "view", "dance")
        ingest(settings, inbox, delivery=True)
        kinds = landed(settings, "interactions", "event_type")
        assert ("dance",) in kinds

    def test_that_settings_weigh_are_known(self, folder: Path, workspace_settings: Make) -> None:
        self.log(folder, "action", "view", "dance")
        ingest(settings := workspace_settings(data={"event_weights": ("dance=2",)}), folder)
        assert [row[0] for row in landed(settings, "interactions", "event_type")] == ["view", "dance"]

    def test_of_the_column_event_type_land_as_they_are(self, folder: Path, settings: Settings, capsys: Said) -> None:
        self.log(folder, "event_type", "view", "remove_from_cart")
        ingest(settings, folder)
        assert [row[0] for row in landed(settings, "interactions", "event_type")] == ["view", "remove_from_cart"]
        assert "1 rows have a type of event that is not known and are set apart" in capsys.readouterr().err

    def test_are_no_kinds_of_items(self, folder: Path, settings: Settings, capsys: Said) -> None:
        self.log(folder, "type", "movie", "series")
        ingest(settings, folder)
        assert "not used: type" in capsys.readouterr().err


class TestWhatIsSaid:
    def notes(self, folder: Path, settings: Settings, rows: str, header: str = "user_id,item_id,ts,rating") -> str:
        (folder / "log.csv").write_text(f"{header}\n{rows}")
        return "\n".join(ingest(settings, folder)["batches"][0]["notes"])

    def test_roles_unused_columns_and_the_range_of_times(self, folder: Path, settings: Settings, capsys: Said) -> None:
        (folder / "log.csv").write_text(
            "user_id,item_id,ts,colour\nann,tea,1704447119000,red\nbob,tea,1704552357000,\n"
        )
        batch = ingest(settings, folder)["batches"][0]
        assert batch["roles"] == {"user": "user_id", "item": "item_id", "timestamp": "ts"}
        assert batch["unused"] == ["colour"]
        said = capsys.readouterr().err
        assert "2 interactions of 2 users and 1 items, 2024-01-05 to 2024-01-06" in said
        assert "time is ts; not used: colour" in said

    def test_ratings_all_count_until_a_setting_says_from_which_on(self, folder: Path, workspace_settings: Make) -> None:
        rows = "".join(f"u{n},i{n},1,{n % 5 + 1}\n" for n in range(50))
        assert "rating goes from 1 to 5 and every row counts as a like" in self.notes(
            folder, workspace_settings(), rows
        )
        assert self.notes(folder, workspace_settings(data={"min_weight": 4}), rows) == ""

    def test_a_zero_that_may_be_no_rating(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"u{n},i{n},1,{n % 11}\n" for n in range(110))
        notes = self.notes(folder, settings, rows)
        assert "0, which often means no rating, has 10 rows" in notes and "data.min_weight=8" in notes

    def test_returns(self, folder: Path, settings: Settings) -> None:
        notes = self.notes(folder, settings, "ann,tea,1,1\nann,tea,2,-1\n")
        assert "1 rows have a rating below 0" in notes and "1 rows (50%) repeat" in notes

    def test_counts_that_no_model_reads(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"u{n},i{n},1,{n % 9 + 1}\n" for n in range(50))
        notes = self.notes(folder, settings, rows, "user_id,item_id,ts,plays")
        assert notes.startswith("plays (1 to 9) is read by no model")

    def test_an_id_that_stands_for_none(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"{'NA' if n % 10 == 0 else f'u{n}'},i{n},1,1\n" for n in range(200))
        assert "20 rows (10%) have 'NA' as user" in self.notes(folder, settings, rows)

    def test_an_id_with_a_large_share_of_the_rows(self, folder: Path, settings: Settings) -> None:
        rows = "".join(f"{'bot' if n % 2 else f'u{n}'},i{n},1,1\n" for n in range(200))
        assert "user 'bot' has 100 rows (50%)" in self.notes(folder, settings, rows)

    def test_other_files_of_the_folder(self, folder: Path, settings: Settings, capsys: Said) -> None:
        (folder / "events.csv").write_text(LOG)
        (folder / "item_properties.csv").write_text("timestamp,itemid,property,value\n1,tea,888,n1\n")
        (folder / "tree.csv").write_text("categoryid,parentid\n0,1\n")
        (folder / "README").write_text("about")
        content = ingest(settings, folder)
        assert set(content["not_used"]) == {"item_properties.csv", "tree.csv", "README"}
        assert "item_properties.csv (one property of an item a row: no item table)" in capsys.readouterr().err
        assert ingest(settings, folder) == content

    def test_stays_in_the_status_of_the_workspace(self, folder: Path, settings: Settings) -> None:
        (folder / "tree.csv").write_text("categoryid,parentid\n0,1\n")
        (folder / "log.csv").write_text("user_id,item_id,ts,rating\nann,tea,1,1\nann,tea,2,5\n")
        stages.ingest(settings, folder)
        shown = "\n".join(status.lines(settings))
        assert "weight is rating" in shown and "rating goes from 1 to 5" in shown and "not used: tree.csv" in shown

    def test_a_table_of_keys_and_values_cannot_be_the_item_table(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "log.csv").write_text(LOG)
        (folder / "props.csv").write_text("itemid,property,value\ntea,name,Tea\ntea,colour,green\n")
        message = refusal(workspace_settings(data={"items": "props.csv"}), folder)
        assert "one 'property' and 'value' a row" in message
        query = message[message.index("copy (") :].replace("'…', '…'", "'name', 'colour'")
        duckdb.connect().execute(query.replace("'items.csv'", f"'{folder}/items.csv'"))
        ingest(settings := workspace_settings(), folder)
        assert landed(settings, "items", "item_id, title, text") == [("tea", "Tea", "green")]
