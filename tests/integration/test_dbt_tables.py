"""The warehouse of a small shop: what its tables say, what they refuse, and that nothing later leaks into them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from integration import dbt_world

from reclm import stages
from reclm.dataset import SNAPSHOTS
from reclm.errors import HealthError
from reclm.health.checks import require_healthy
from reclm.settings.operations import CHECKS
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.build import build, docs
from reclm.warehouse.reading import connect
from reclm.warehouse.sources import prepare_sources, write_delivered_items, write_parameters

Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    settings = dbt_world.settings(tmp_path_factory.mktemp('shop\'s "own" folder') / "workspace")
    dbt_world.land_shop(settings.paths)
    build(settings)
    return settings.paths


@pytest.fixture
def query(shop: Workspace) -> Query:
    def run(sql: str) -> list[tuple[Any, ...]]:
        with connect(dbt_world.settings(shop.root)) as connection:
            return connection.execute(sql).fetchall()

    return run


class TestQuarantine:
    def test_every_garbage_row_is_set_apart_under_its_reason(self, query: Query) -> None:
        found = dict(query("select reason, count(*) from quarantine_interactions group by reason"))
        assert found == dict.fromkeys(dbt_world.GARBAGE, 1)

    def test_every_row_tells_field_value_remedy_and_where_it_came_from(self, query: Query) -> None:
        rows = query("select reason, field, value, remedy, source_file, source_row, raw from quarantine_interactions")
        places = list(dbt_world.GARBAGE)
        for reason, field, value, remedy, source_file, source_row, raw in rows:
            assert field and remedy.endswith(".") and source_file == "interactions7.csv"
            assert source_row == places.index(reason) + 1
            assert json.loads(raw)["item_id"] == dbt_world.GARBAGE[reason].get("item_id")
            assert value is None or len(value) <= 200
        assert {row[0]: row[2] for row in rows}["bad_timestamp"] == "the day before"

    def test_a_row_that_repeats_is_no_fault_and_counts_once(self, query: Query) -> None:
        assert query("select count(*), any_value(source_file) from base_interactions where status = 'repeat'") == [
            (1, "interactions7.csv")
        ]

    def test_a_user_without_an_id_is_set_apart_too(self, query: Query) -> None:
        assert query("select reason from quarantine_users") == [("missing_user_id",)]


class TestAFileThatIsNotListed:
    @pytest.mark.parametrize(
        ("table", "key"),
        [
            ("base_interactions", "user_id"),
            ("base_items", "item_id"),
            ("base_users", "user_id"),
            ("stg_impressions", "request_id"),
        ],
    )
    def test_it_is_in_no_table(self, table: str, key: str, query: Query) -> None:
        assert query(f"select * from {table} where {key} = 'unlisted'") == []


class TestFeedback:
    def test_a_dislike_is_no_interaction_and_is_kept(self, query: Query) -> None:
        user = dbt_world.good_log()[0]["user_id"]
        assert query("select user_id, item_id, weight from fct_feedback where event_type = 'skip'") == [
            (user, "item 23", -1.0)
        ]
        assert (user, "item 23") not in query("select user_id, item_id from int_interactions")

    def test_each_event_names_the_impression_that_it_answers(self, query: Query) -> None:
        found = query("select event_id, matched_by, shown_in, position from fct_feedback order by event_id")
        assert found == [("e1", "request", "r1", 1), ("e2", "user_and_item", "r1", 2)]

    def test_impressions_say_what_came_of_them_and_rates_add_them_up(self, query: Query) -> None:
        shown = query("select position, was_clicked, was_disliked from fct_impressions order by position")
        assert shown == [(1, True, False), (2, False, True), (3, False, False)]
        results = query("select model_version, arm, answers, impressions, clicks, conversions from fct_online_results")
        assert results == [("m1", "champion", 1, 3, 1, 0)]


class TestTexts:
    def test_strange_ids_come_through_as_they_are(self, query: Query) -> None:
        users = {row[0] for row in query("select user_id from dim_users")}
        assert set(dbt_world.STRANGE_USERS) < users
        assert "newcomer" in users

    def test_users_have_their_position_in_text_order(self, query: Query) -> None:
        users = query("select user_id, user_index from dim_users")
        assert [index for _, index in sorted(users, key=lambda row: row[0].encode())] == list(range(len(users)))

    def test_ten_megabytes_of_text_stay_whole_in_staging_and_are_capped_in_marts(self, query: Query) -> None:
        whole = query("select length(text) from stg_items where item_id = 'item 3'")
        capped = query("select length(full_text), length(text) from dim_items where item_id = 'item 3'")
        assert whole == [(len(dbt_world.LONG_TEXT),)]
        assert capped == [(2000, 2000)]

    def test_a_later_batch_supersedes_and_the_item_keeps_its_position(self, query: Query) -> None:
        assert query("select title, categories, item_index from dim_items where item_id = 'item 5'") == [
            ("green kettle 5", ["home"], 5)
        ]

    def test_no_prompt_carries_a_chat_template_token_from_the_log(self, query: Query) -> None:
        shown = query(
            "select concat_ws(' ', history, neighbours) from fct_user_prompts "
            "union all select concat_ws(' ', line, text, neighbours) from fct_item_prompts"
        )
        assert any("Used by many." in text for (text,) in shown)
        for (text,) in shown:
            assert not any(token in text for token in ("<", ">", "im_start", "[INST]"))


class TestNeighbours:
    def test_users_of_one_taste_are_nearest_to_each_other(self, query: Query) -> None:
        agree = query(
            """
            with taste as (
                select user_id, count(*) filter (split_part(item_id, ' ', 2)::int % 20 >= 10) * 2 > count(*) as climbs
                from fct_known_interactions
                where snapshot = 'final' and split_part(item_id, ' ', 2)::int < 20
                group by user_id
            )
            select avg((a.climbs = b.climbs)::int)
            from fct_user_neighbours as n
            join taste as a on a.user_id = n.user_id
            join taste as b on b.user_id = n.neighbour_id
            where n.snapshot = 'final' and n.rank <= 5
            """
        )
        assert agree[0][0] > 0.9

    def test_cold_items_find_warm_items_of_like_text(self, query: Query) -> None:
        rows = query(
            "select c.categories, w.categories from fct_item_neighbours n join dim_items c using (item_id) "
            "join dim_items w on w.item_id = n.neighbour_id where source = 'text' and rank = 1 and snapshot = 'final'"
        )
        assert rows
        assert all(set(cold) & set(warm) for cold, warm in rows)

    def test_two_builds_agree_to_the_last_digit(self, shop: Workspace, tmp_path: Path) -> None:
        again = dbt_world.settings(tmp_path / "again")
        shutil.copytree(shop.landing, again.paths.landing)
        write_parameters(again, again.paths.require_dataset())
        prepare_sources(again.paths, again.paths.require_dataset())
        write_delivered_items(again.paths, [])
        built = dbt_world.dbt(again.paths, "build")
        assert built.returncode == 0, built.stdout[-3000:]
        assert "unit_test.reclm" in (again.paths.root / "warehouse" / "dbt" / "bare" / "run_results.json").read_text()
        expected, found = dbt_world.tables(shop.warehouse), dbt_world.tables(again.paths.build_database)
        assert set(found) == set(expected)
        assert [name for name in expected if found[name] != expected[name]] == []
        assert (again.paths.external / "manual" / "feast_user_activity.parquet").exists()


class TestZeroArtifacts:
    def test_every_table_of_later_stages_is_there_and_empty(self, query: Query) -> None:
        later = "fct_user_profiles fct_item_profiles dim_user_profiles dim_item_profiles fct_profile_quality "
        later += "feast_user_profile feast_item_profile feast_item_content fct_evaluation fct_evaluation_bands "
        later += "fct_comparisons fct_training_curves fct_promotions fct_health"
        assert {name: query(f"select count(*) from {name}")[0][0] for name in later.split()} == dict.fromkeys(
            later.split(), 0
        )

    def test_the_marts_of_the_feature_store_are_parquet_in_the_folder_of_the_build(self, shop: Workspace) -> None:
        marts = read_json(shop.current_build)["marts"]
        assert {(shop.root / file).name for file in marts.values() if (shop.root / file).exists()} == {
            f"feast_{name}.parquet"
            for name in ("user_profile", "item_profile", "item_content", "user_activity", "item_activity")
        }
        activity = pq.read_table(shop.root / marts["feast_user_activity"])
        assert activity.schema.field("as_of").type.tz == "UTC"
        assert activity.num_rows == len(SNAPSHOTS) * (40 + 1)


class TestHealth:
    def test_a_failing_check_is_in_sql_before_the_run_stops(self, shop: Workspace, tmp_path: Path) -> None:
        shutil.copytree(shop.root, tmp_path / "copy")
        settings = dbt_world.settings(
            tmp_path / "copy", health={"fail": ("volume",), "window_days": 2, "min_volume": 99}
        )
        checked = stages.check_health(settings)
        stages.build(settings, "evaluation")
        with pytest.raises(HealthError, match="volume of interactions is"):
            require_healthy(checked, settings)
        with connect(settings) as connection:
            found = connection.execute("select name, status, lower_bound, value > 0, advice from fct_health").fetchall()
        assert {row[0] for row in found} == set(CHECKS)
        (volume,) = [row for row in found if row[0] == "volume"]
        assert volume[:4] == ("volume", "fail", 99, True)
        assert volume[4].startswith("Check whether a delivery")


class TestDescriptions:
    def test_every_table_and_column_is_described_in_the_warehouse_itself(self, query: Query) -> None:
        bare = query("select table_name, column_name from duckdb_columns() where not internal and comment is null")
        assert bare == []
        bare = query(
            "select table_name from duckdb_tables() where comment is null "
            "union all select view_name from duckdb_views() where not internal and comment is null"
        )
        assert bare == []

    def test_the_documentation_site_is_made_without_a_network(self, shop: Workspace) -> None:
        page = docs(dbt_world.settings(shop.root))
        catalog = read_json(page.with_name("catalog.json"))["nodes"]
        manifest = read_json(page.with_name("manifest.json"))
        assert page.stat().st_size > 1_000_000
        assert len(catalog) > 40
        for name, entry in catalog.items():
            described = manifest["nodes"][name]
            assert described["description"], name
            missing = [c for c in entry["columns"] if not described["columns"].get(c, {}).get("description")]
            assert missing == [], name
        assert {"trainers", "recommender_service", "analysts"} <= {e["name"] for e in manifest["exposures"].values()}
        assert not list(page.parent.rglob("*pickle"))


PLANTS = {
    "no_leakage_known": (
        "insert into fct_known_interactions select 'select', s.as_of, i.user_id, i.item_id, i.event_ts, i.known_at, "
        "1, 9999, 9999, 9999 from int_interactions i, int_snapshots s "
        "where s.snapshot = 'select' and i.split = 'valid' limit 1"
    ),
    "no_leakage_truth": (
        "insert into fct_known_interactions select t.snapshot, s.as_of, t.user_id, t.item_id, null, "
        "s.as_of - interval 1 day, 1, 9998, 9998, 9998 from fct_truth t join int_snapshots s using (snapshot) "
        "where t.snapshot = 'final' and t.setting = 'full_shot' limit 1"
    ),
    "no_leakage_cold_items": (
        "insert into fct_known_interactions select 'select', s.as_of, i.user_id, i.item_id, i.event_ts, i.known_at, "
        "1, 9997, 9997, 9997 from int_interactions i join dim_items d using (item_id), int_snapshots s "
        "where s.snapshot = 'select' and i.split = 'train' and d.is_pseudo_cold limit 1"
    ),
    "no_leakage_neighbours": (
        "insert into fct_item_neighbours select 'select', s.as_of, d.item_id, 'item 0', 0.5, 99, 'co_occurrence' "
        "from dim_items d, int_snapshots s where s.snapshot = 'select' and d.is_zero_shot limit 1"
    ),
    "no_leakage_prompts": (
        "update fct_user_prompts set history = json_array(json_object('item_id', "
        "(select item_id from dim_items where is_zero_shot limit 1))) where user_id = 'user 0'"
    ),
    "no_leakage_dialogues": (
        "update fct_user_dialogues set withheld_item_id = "
        "(select item_id from dim_items where is_pseudo_cold limit 1) where not answer"
    ),
    "no_leakage_folds": (
        "insert into fct_user_dialogues by name "
        "select * replace ('again' as dialogue_id, if(fold = 'train', 'held_out', 'train') as fold) "
        "from fct_user_dialogues limit 1"
    ),
    "no_leakage_features": (
        "update fct_item_status set n_interactions = n_interactions + 1 where snapshot = 'final' and item_id = 'item 0'"
    ),
    "no_leakage_profiles": (
        "insert into dim_user_profiles select 'user 0', 'final', timestamptz '2999-01-01', 'v', 'e', '1', "
        "'', '', '', 'ok', '', 1, 0, 0, [], [], 0, false"
    ),
}


@pytest.fixture(scope="module")
def victim(shop: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the shop on which all leakage tests pass."""
    victim = Workspace(tmp_path_factory.mktemp("victim") / "workspace")
    shutil.copytree(shop.root, victim.root)
    honest = dbt_world.dbt(victim, "test", "--select", "tag:no_leakage")
    assert honest.returncode == 0, honest.stdout[-3000:]
    assert {name: dbt_world.outcomes(victim)[name] for name in PLANTS} == dict.fromkeys(PLANTS, "pass")
    return victim


class TestLeaks:
    @pytest.mark.parametrize("test", PLANTS)
    def test_each_test_finds_the_leak_planted_for_it(self, test: str, shop: Workspace, victim: Workspace) -> None:
        compiled = next((victim.root / "warehouse" / "dbt" / "bare" / "compiled").rglob(f"{test}.sql")).read_text()
        self.plant(test, shop, victim)
        with duckdb.connect(str(victim.build_database)) as connection:
            connection.execute(f"set file_search_path = {dbt_world.quoted(victim.root)}")
            assert connection.execute(compiled).fetchall()

    def test_a_planted_future_interaction_fails_dbt(self, shop: Workspace, victim: Workspace) -> None:
        self.plant("no_leakage_known", shop, victim)
        found = dbt_world.dbt(victim, "test", "--select", "no_leakage_known")
        assert found.returncode == 1
        assert dbt_world.outcomes(victim)["no_leakage_known"] == "fail"

    @staticmethod
    def plant(test: str, shop: Workspace, victim: Workspace) -> None:
        shutil.copyfile(shop.build_database, victim.build_database)
        with duckdb.connect(str(victim.build_database)) as connection:
            connection.execute(f"set file_search_path = {dbt_world.quoted(victim.root)}")
            assert connection.execute(PLANTS[test]).fetchall()[0][0] >= 1, f"nothing planted for {test}"
