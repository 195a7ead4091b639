"""The demo world: one seed, one world; a shop whose shares are as promised and whose people click for a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from reclm.ingest import demo, demo_text, ingest
from reclm.ingest.demo import World
from reclm.settings.data import DemoSettings
from reclm.settings.tree import Settings

Make = Callable[..., Settings]
SMALL = {"users": 300, "items": 120, "interactions": 4000}


def query(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    landing = settings.workspace / "landing"
    log, items = f"'{landing}/interactions/*.parquet'", f"'{landing}/items/*.parquet'"
    return duckdb.connect().execute(text.format(log=log, items=items, truth=landing / "truth")).fetchall()


def all_rows(settings: Settings) -> list[list[tuple[Any, ...]]]:
    texts = (
        "from {log} order by all",
        "from {items} order by all",
        "from '{truth}/user_personas.parquet' order by all",
    )
    return [query(settings, text) for text in texts]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(workspace=tmp_path_factory.mktemp("shop"))
    ingest(settings, None)
    return settings


class TestOneSeedIsOneWorld:
    def test_twice_the_same(self, tmp_path: Path) -> None:
        worlds = []
        for name, threads in (("one", 1), ("two", 2)):
            settings = Settings(workspace=tmp_path / name, demo=SMALL, runtime={"threads": threads})
            content = ingest(settings, None)
            worlds.append((all_rows(settings), [batch["batch"] for batch in content["batches"]]))
        assert worlds[0] == worlds[1]

    def test_another_seed_is_another_world_and_replaces_the_first(self, tmp_path: Path) -> None:
        first = Settings(workspace=tmp_path, demo=SMALL)
        ingest(first, None)
        before = all_rows(first)
        content = ingest(Settings(workspace=tmp_path, demo=SMALL, seed=7), None)
        after = all_rows(first)
        assert before[0] != after[0]
        assert len(after[0]) == sum(b["rows"] for b in content["batches"] if b["table"] == "interactions")

    def test_again_does_nothing(self, shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(World, "events", lambda *_: pytest.fail("the world was made again"))
        assert ingest(shop, None)["name"] == "demo"

    def test_chunks_cover_every_user_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "DRAWS_PER_CHUNK", 1500)
        world = World(DemoSettings(**SMALL), seed=1)
        assert len(world.chunks) > 3
        assert [n for low, high in world.chunks for n in range(low, high)] == list(range(300))
        users = np.concatenate([world.events(n)["user_index"].to_numpy() for n in range(len(world.chunks))])
        assert len(np.unique(users)) == 300


class TestSharesAreAsPromised:
    def test_sizes(self, shop: Settings) -> None:
        found = query(shop, "select count(*), count(distinct user_id), min(event_ts), max(event_ts) from {log}")[0]
        assert found[0] == pytest.approx(shop.demo.interactions, rel=0.02)
        assert found[1] == shop.demo.users
        assert (found[2][:10], found[3][:10]) == ("2025-04-01", "2025-06-29")
        assert query(shop, "select count(*), count(distinct item_id) from {items}") == [(1000, 1000)]

    def test_many_users_are_sparse_and_some_are_not(self, shop: Settings) -> None:
        counts = "with n as (select count(*) as n from {log} group by user_id)"
        sparse, most = query(shop, counts + "select avg((n <= 3)::int), max(n) from n")[0]
        assert 0.25 < sparse < 0.45
        assert most > 90

    def test_popularity_is_uneven(self, shop: Settings) -> None:
        counts = "with n as (select count(*) as n from {log} group by item_id order by n desc)"
        top = query(shop, counts + "select sum(n) from (from n limit 100)")[0][0]
        assert 0.25 * shop.demo.interactions < top < 0.7 * shop.demo.interactions

    def test_late_items_are_cold_when_the_test_slice_begins(self, shop: Settings) -> None:
        text = """
            with cut as (select quantile_disc(event_ts, 0.9) as at from {log}),
            late as (select item_id from {items} order by created_ts desc limit 150),
            seen as (select item_id, min(event_ts) as at from {log} group by item_id)
            select avg((seen.at >= cut.at)::int), count(*) from late join seen using (item_id), cut
        """
        share, n_seen = query(shop, text)[0]
        assert share > 0.7
        assert n_seen > 120

    def test_nothing_is_clicked_before_it_exists(self, shop: Settings) -> None:
        text = "select count(*) from {log} log join {items} items using (item_id) where event_ts < created_ts"
        assert query(shop, text) == [(0,)]

    def test_some_texts_are_missing_and_some_misleading(self, shop: Settings) -> None:
        n_missing = query(shop, "select count(*) from {items} where text is null")[0][0]
        assert n_missing == pytest.approx(50, abs=25)
        cues = {interest.phrase: interest.cues for interest in demo_text.interests()}
        rows = query(
            shop, "select text, interests[1] from {items} join '{truth}/item_audience.parquet' using (item_id)"
        )
        texts = [(text.lower(), cues[interest]) for text, interest in rows if text]
        n_misleading = sum(not any(cue in text for cue in own) for text, own in texts)
        assert n_misleading == pytest.approx(30, abs=20)

    def test_no_world_is_too_small(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path, demo={"users": 10, "items": 20, "interactions": 100, "days": 4})
        ingest(settings, None)
        assert query(settings, "select count(*) from {log}")[0][0] > 50


class TestPeopleClickForAReason:
    def test_most_clicks_match_the_persona(self, shop: Settings) -> None:
        text = """
            select avg(list_has_any(personas.interests, audience.interests)::int)
            from {log} join '{truth}/user_personas.parquet' personas using (user_id)
            join '{truth}/item_audience.parquet' audience using (item_id)
        """
        assert query(shop, text)[0][0] > 0.6

    def test_knowing_the_persona_beats_popularity_by_far(self, shop: Settings) -> None:
        text = """
            with cut as (select quantile_disc(event_ts, 0.9) as at from {log}),
            known as (select item_id, count(*) as n from {log}, cut where event_ts < cut.at group by item_id),
            later as (select distinct user_id, item_id from {log}, cut where event_ts >= cut.at),
            asked as (select distinct user_id from later limit 200),
            scored as (
                select asked.user_id, item_id, n,
                    n * (1 + 20 * list_has_any(personas.interests, audience.interests)::int) as fit
                from asked join '{truth}/user_personas.parquet' personas using (user_id), known
                join '{truth}/item_audience.parquet' audience using (item_id)
            ),
            ranked as (
                select *, row_number() over (partition by user_id order by n desc, item_id) as by_popularity,
                    row_number() over (partition by user_id order by fit desc, item_id) as by_persona
                from scored
            )
            select count(*) filter (by_popularity <= 20), count(*) filter (by_persona <= 20)
            from ranked semi join later using (user_id, item_id)
        """
        by_popularity, by_persona = query(shop, text)[0]
        assert by_persona > 1.5 * by_popularity

    def test_part_of_an_audience_is_not_in_the_text(self, shop: Settings) -> None:
        rows = query(shop, "select interests from '{truth}/item_audience.parquet'")
        assert 0.4 < np.mean([len(interests) == 2 for (interests,) in rows]) < 0.8


class TestTheVocabulary:
    def test_is_complete_and_cues_tell_one_interest_from_all_others(self) -> None:
        shop = demo_text.departments()
        assert 12 <= len(shop) <= 16
        assert all(len(d.kinds) == demo_text.KINDS_EACH and len(d.interests) == demo_text.INTERESTS_EACH for d in shop)
        cues = [cue for interest in demo_text.interests() for cue in interest.cues]
        assert all(len(interest.cues) == demo_text.CUES_EACH for interest in demo_text.interests())
        assert len(set(cues)) == len(cues)

    def test_phrases_suit_the_profile_grammar(self) -> None:
        for interest in demo_text.interests():
            assert not set(",;:") & set(interest.phrase + interest.identity)


class TestPreferences:
    def test_are_the_probabilities_with_which_visits_pick_items(self) -> None:
        world = World(DemoSettings(**SMALL), 3)
        preferences, random, n = world.preferences(), np.random.default_rng(1), 50_000
        np.testing.assert_allclose(preferences.sum(axis=1), 1)
        for user in (0, 7):
            visits = np.full(n, user)
            at_the_end, new = np.full(n, float(world.demo.days)), random.random(n) < demo.NOVELTY_SHARE
            picked = world.shelf.pick(world._shelves(random, visits), at_the_end, new, random.random(n))
            shares = np.bincount(picked, minlength=SMALL["items"]) / n
            np.testing.assert_allclose(shares, preferences[user], atol=0.006)
