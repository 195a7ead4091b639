"""Published data sets in the layouts they come in: MovieLens, MIND, and those with a split of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from reclm.ingest import ingest
from reclm.settings.tree import Settings

Make = Callable[..., Settings]


def landed(settings: Settings, table: str, columns: str) -> list[tuple[Any, ...]]:
    pattern = settings.workspace / "landing" / table / "*.parquet"
    query = f"select {columns} from read_parquet('{pattern}') order by source_file, source_row, all"
    return duckdb.connect().execute(query.replace(", all", "")).fetchall()


class TestMovieLens:
    def test_100k(self, folder: Path, settings: Settings) -> None:
        (folder / "u.data").write_text("196\t242\t5\t881250949\n186\t1\t3\t891717742\n")
        flags = "|".join("1" if n in (3, 4, 5) else "0" for n in range(19))
        film = f'242|L\'Été "fou" (1995)|01-Jan-1995||http://x|{flags}\n'
        (folder / "u.item").write_bytes(film.encode("latin-1"))
        content = ingest(settings, folder)
        assert content["importer"] == "movielens"
        assert content["batches"][0]["below_min_weight"] == 1
        assert landed(settings, "interactions", "user_id, item_id, event_ts, weight, event_type") == [
            ("196", "242", "881250949", "5", None),
            ("186", "1", "891717742", "3", "low_rating"),
        ]
        assert landed(settings, "items", "item_id, title, text, categories") == [
            ("242", 'L\'Été "fou"', "1995", "Animation|Children's|Comedy")
        ]

    def test_1m(self, folder: Path, settings: Settings) -> None:
        (folder / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
        (folder / "movies.dat").write_bytes('1193::Café: a "tale" (1975)::Drama|Musical\n'.encode("latin-1"))
        ingest(settings, folder)
        assert landed(settings, "interactions", "user_id, item_id, event_ts, weight, event_type") == [
            ("1", "1193", "978300760", "5", None),
            ("1", "661", "978302109", "3", "low_rating"),
        ]
        assert landed(settings, "items", "title, text, categories") == [('Café: a "tale"', "1975", "Drama|Musical")]

    def test_latest(self, folder: Path, workspace_settings: Make) -> None:
        (folder / "ratings.csv").write_text(
            "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,32,4.0,1260759145\n"
        )
        (folder / "movies.csv").write_text(
            'movieId,title,genres\n31,"Heat, The (1995)",(no genres listed)\n32,X,Action|War\n'
        )
        settings = workspace_settings(data={"min_weight": 2})
        ingest(settings, folder)
        assert landed(settings, "interactions", "item_id, weight") == [("31", "2.5"), ("32", "4.0")]
        assert landed(settings, "items", "title, text, categories") == [
            ("Heat, The", "1995", None),
            ("X", None, "Action|War"),
        ]


class TestMindAsPublished:
    def test_clicks_come_from_histories_and_marked_impressions(self, folder: Path, settings: Settings) -> None:
        (folder / "behaviors.tsv").write_text(
            "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n"
            "2\tU1\t11/12/2019 1:00:00 PM\tN1 N2\tN4-1 N5-0 N1-1\n"
            "3\tU2\t11/11/2019 9:00:00 AM\t\tN5-0\n"
        )
        (folder / "news.tsv").write_text('N1\tsports\tgolf\tA "big" day\tIt rained.\thttp://x\t[]\t[]\n')
        content = ingest(settings, folder)
        assert (content["importer"], content["split_mode"]) == ("mind_raw", "temporal")
        assert sorted(landed(settings, "interactions", "user_id, item_id, event_ts, source_row")) == [
            ("U1", "N1", "2019-11-11T07:05:58Z", 1),
            ("U1", "N1", "2019-11-12T13:00:00Z", 2),
            ("U1", "N2", "2019-11-11T08:05:58Z", 1),
            ("U1", "N3", "2019-11-11T09:05:58Z", 1),
            ("U1", "N4", "2019-11-12T13:00:00Z", 2),
        ]
        assert landed(settings, "items", "item_id, title, text, categories") == [
            ("N1", 'A "big" day', "It rained.", "sports|golf")
        ]


class TestDataWithASplit:
    def test_a_split_column_is_honoured(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(
            "user_id,item_id,split,in_sparse_train\n1,7,train,True\n1,8,test,False\n1,9,zero_shot,False\n"
        )
        (folder / "items.csv").write_text(
            "item_id,title,genres,kind,zero_shot\n"
            "7,A,Comedy War,TV,False\n8,B,War,TV,False\n9,C,Comedy,Film,True\n6,D,War Comedy,TV,False\n"
        )
        content = ingest(settings, folder)
        assert (content["importer"], content["split_mode"], content["has_event_ts"]) == ("presplit", "assigned", False)
        assert landed(settings, "interactions", "item_id, split, in_sparse_train") == [
            ("7", "train", "true"),
            ("8", "test", "false"),
            ("9", "zero_shot", "false"),
        ]
        assert landed(settings, "items", "title, categories, text, zero_shot, full_shot_candidate")[:3] == [
            ("A", "Comedy|War", "TV", "false", None),
            ("B", "War", "TV", "false", None),
            ("C", "Comedy", "Film", "true", None),
        ]

    def test_a_plain_pair_of_files(self, folder: Path, settings: Settings) -> None:
        duckdb.connect().execute(f"copy (select 0 as user_id, 5 as item_id) to '{folder}/train.parquet'")
        duckdb.connect().execute(f"copy (select 0 as user_id, 6 as item_id) to '{folder}/test.parquet'")
        content = ingest(settings, folder)
        assert (content["importer"], content["split_mode"]) == ("mind", "assigned")
        assert sorted(landed(settings, "interactions", "item_id, split")) == [("5", "train"), ("6", "test")]
        assert landed(settings, "items", "item_id") == []


def bag(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", text.lower()))


@pytest.mark.shared_data
class TestTheDevelopmentData:
    @pytest.mark.parametrize("name", ["anime", "ml-100k"])
    def test_item_texts_have_the_words_of_the_defining_baselines(
        self, name: str, shared_data: Path, settings: Settings
    ) -> None:
        content = ingest(settings, shared_data / name)
        given = pd.read_parquet(shared_data / name / "items.parquet")
        assert content["importer"] == "presplit"
        wanted = given.drop(columns=["item_id", "zero_shot"]).astype(str).agg(" ".join, axis=1).map(bag).tolist()
        rows = landed(
            settings, "items", "item_id, concat_ws(' ', title, replace(categories, '|', ' '), text), zero_shot"
        )
        assert [row[0] for row in rows] == given.item_id.astype(str).tolist()
        assert [bag(row[1]) for row in rows] == wanted
        assert [row[2] == "true" for row in rows] == given.zero_shot.tolist()

    @pytest.mark.parametrize("name", ["anime", "ml-100k"])
    def test_categories_are_separate(self, name: str, shared_data: Path, settings: Settings) -> None:
        ingest(settings, shared_data / name)
        known = {part for (value,) in landed(settings, "items", "categories") if value for part in value.split("|")}
        assert {"Comedy", "Drama"} <= known
        assert len(known) < 60

    @pytest.mark.parametrize("name", ["anime", "ml-100k"])
    def test_splits_and_the_sparse_marks_are_kept(self, name: str, shared_data: Path, settings: Settings) -> None:
        content = ingest(settings, shared_data / name)
        given = pd.read_parquet(shared_data / name / "interactions.parquet")
        pattern = settings.workspace / "landing/interactions/*.parquet"
        query = f"select split, count(*), count(*) filter (in_sparse_train = 'true') from '{pattern}' group by split"
        found = {split: (rows, marked) for split, rows, marked in duckdb.connect().execute(query).fetchall()}
        grouped = given.groupby("split").in_sparse_train.agg(["size", "sum"])
        assert found == {str(split): (int(row["size"]), int(row["sum"])) for split, row in grouped.iterrows()}
        assert content["has_event_ts"] == ("event_ts" in given)

    def test_mind(self, shared_data: Path, settings: Settings) -> None:
        content = ingest(settings, shared_data / "mind")
        assert (content["importer"], content["split_mode"]) == ("mind", "assigned")
        assert {b["source_file"]: b["rows"] for b in content["batches"]} == {
            "train.parquet": 89_734,
            "test_full_shot.parquet": 87_974,
            "items.parquet": 3_827,
        }
        items = landed(settings, "items", "title, text, categories, zero_shot, full_shot_candidate")
        assert (sum(row[3] == "true" for row in items), sum(row[4] == "true" for row in items)) == (1_441, 2_461)
        assert items[0][0].startswith("Called to serve")
        assert items[0][1].startswith("It was the spring of 1942")
        assert items[0][2] == "news|newsus"
