"""Health checks of what was made: profiles, the reward, vectors, and the rows of the online store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from integration import feast_world
from unit.health_world import TEXTS, World, vectors

from reclm.features import fused, publish
from reclm.settings.tree import Settings
from reclm.storage.files import write_json


@pytest.fixture
def world(workspace_settings: Callable[..., Settings]) -> World:
    return World(workspace_settings())


class TestProfiles:
    def test_good_profiles_pass_for_users_and_items(self, world: World) -> None:
        world.profiles()
        for name in ("profile_distinct", "profile_similarity", "profile_format"):
            rows = world.check(name)
            assert {subject: row["status"] for subject, row in rows.items()} == {"user": "ok", "item": "ok"}

    @pytest.mark.parametrize(
        ("fault", "name", "status"),
        [
            ({"distinct": 0.05}, "profile_distinct", "warn"),
            ({"similarity": 0.99}, "profile_similarity", "warn"),
            ({"broken": 1}, "profile_format", "fail"),
        ],
    )
    def test_alike_or_broken_profiles_are_reported(
        self, world: World, fault: dict[str, Any], name: str, status: str
    ) -> None:
        world.profiles(**fault)
        assert {row["status"] for row in world.check(name).values()} == {status}

    def test_profiles_that_are_empty_for_lack_of_texts_do_not_count(self, world: World) -> None:
        world.profiles(empty=3)
        assert world.check("profile_format")["item"]["value"] == 1
        world.profiles([], empty=3)
        assert world.check("profile_format")["item"]["status"] == "unknown"


class TestRewardAgainstRanking:
    def test_a_reward_that_climbs_while_ranking_falls_is_reported_for_the_kept_and_the_last_step(
        self, world: World
    ) -> None:
        world.refined((0, 0.1, 0.7), (5, 0.2, 0.69), (10, 0.9, 0.6), kept=5)
        rows = world.check("reward_against_ranking")
        assert {s: (round(r["value"], 3), r["status"]) for s, r in rows.items()} == {
            "kept": (0.01, "ok"),
            "last": (0.1, "warn"),
        }

    def test_a_fall_of_ranking_without_a_rise_of_the_reward_is_no_breach(self, world: World) -> None:
        world.refined((0, 0.5, 0.7), (10, 0.4, 0.5), kept=10)
        assert {row["value"] for row in world.check("reward_against_ranking").values()} == {0.0}

    def test_without_a_refined_model_or_a_measured_ranking_it_is_unknown(self, world: World) -> None:
        assert world.one("reward_against_ranking")["status"] == "unknown"
        world.refined((0, 0.5, float("nan")), (10, 0.6, float("nan")), kept=10)
        assert {row["status"] for row in world.check("reward_against_ranking").values()} == {"unknown"}


class TestEmbeddings:
    def test_unit_vectors_pass_and_the_first_set_has_nothing_to_be_compared_with(self, world: World) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS))
        rows = world.check("embedding_norm")
        assert {subject: row["status"] for subject, row in rows.items()} == {
            "user profile": "ok",
            "item profile": "ok",
            "item text": "unknown",
        }
        assert {row["status"] for row in world.check("embedding_shift").values()} == {"unknown"}

    @pytest.mark.parametrize("length", [1.01, 0.0, float("nan")])
    def test_one_vector_of_another_length_fails(self, world: World, length: float) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS) | vectors(TEXTS[:1], length=length))
        assert world.check("embedding_norm")["user profile"]["status"] == "fail"

    def test_a_vector_of_a_text_that_is_not_in_use_is_ignored(self, world: World) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS) | vectors(["gone"], length=3))
        assert world.check("embedding_norm")["user profile"]["status"] == "ok"

    @pytest.mark.parametrize(("direction", "status"), [(0.1, "ok"), (1.5, "warn")])
    def test_profiles_are_compared_with_the_set_before(self, world: World, direction: float, status: str) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS))
        newer = [f"{text}x" for text in TEXTS]
        world.embeddings(world.profiles(newer), vectors(newer, direction))
        for row in world.check("embedding_shift").values():
            assert (row["status"], row["value"]) == (status, pytest.approx(1 - np.cos(direction), abs=1e-3))

    def test_a_text_that_stayed_keeps_the_vector_of_the_earlier_artifact(self, world: World) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS))
        both = [*TEXTS, "new"]
        world.embeddings(world.profiles(both), vectors(["new"], direction=0.1))
        assert world.check("embedding_shift")["user profile"]["value"] == pytest.approx(0, abs=1e-3)

    def test_two_encoders_are_never_compared(self, world: World) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS), model="other")
        newer = [f"{text}x" for text in TEXTS]
        world.embeddings(world.profiles(newer), vectors(newer, 1.5))
        row = world.check("embedding_shift")["user profile"]
        assert row["status"] == "unknown"
        assert "encoder" in row["advice"]


@pytest.fixture
def served(world: World) -> World:
    """The world with features published, and the vectors of a champion."""
    build = world.settings.paths.current_build.read_text()
    feast_world.write_marts(world.settings, feast_world.marts())
    publish.publish(world.settings)
    world.settings.paths.current_build.write_text(build)
    fused.publish_fused(
        world.settings,
        "m1",
        feast_world.USERS,
        np.ones((len(feast_world.USERS), 2), np.float32),
        feast_world.ITEMS,
        np.ones((len(feast_world.ITEMS), 2), np.float32),
        feast_world.T2,
    )
    write_json(world.settings.paths.champion, {"version": "m1"})
    return world


class TestTrainServeSkew:
    def test_online_rows_equal_offline_rows_in_every_view_and_for_the_champion(self, served: World) -> None:
        rows = served.check("train_serve_skew")
        assert set(rows) == {*feast_world.VIEWS, "user_fused", "item_fused"}
        assert {(row["value"], row["status"]) for row in rows.values()} == {(0.0, "ok")}

    @pytest.mark.parametrize(
        ("view", "fault"),
        [
            (
                "user_activity",
                "update {table} set value = x'20ffffffffffffff7f' where feature_name = 'as_of_us'",  # the year 4253
            ),
            ("item_content", "delete from {table} where entity_key = (select min(entity_key) from {table})"),
            (
                "item_content",
                "update {table} set value = (select max(value) from {table} where feature_name = 'title') "
                "where feature_name = 'title'",
            ),
            ("item_fused", "delete from {table}"),
        ],
    )
    def test_a_value_changed_or_lost_online_is_noticed_after_a_good_check(
        self, served: World, view: str, fault: str
    ) -> None:
        assert served.check("train_serve_skew")[view]["value"] == 0
        with sqlite3.connect(served.settings.paths.feast / "online.db") as connection:
            assert connection.execute(fault.format(table=f'"reclm_{view}"')).rowcount > 0
        connection.close()
        rows = served.check("train_serve_skew")
        assert [name for name, row in rows.items() if row["status"] == "fail"] == [view]
        assert 0 < rows[view]["value"] <= 1

    def test_with_nothing_published_it_is_unknown(self, world: World) -> None:
        row = world.one("train_serve_skew")
        assert (row["status"], row["value"]) == ("unknown", None)
        assert "reclm publish" in row["advice"]
