"""Whether data, profiles, vectors and feature store are fit to be used: each check well, broken, and impossible."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration import feast_world

from reclm import health
from reclm.errors import HealthError, SettingsError
from reclm.features import fused, publish
from reclm.health import interactions
from reclm.settings.loading import load as load_settings
from reclm.settings.operations import CHECKS
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_json
from reclm.text.encoder import text_hash
from reclm.warehouse import sources as dbt_sources

CUT_OFF = datetime(2024, 3, 1, tzinfo=UTC)
TEXTS = [f"User identity: a{n}; User interests: b{n}" for n in range(6)]
Known = Sequence[tuple[str, str, datetime | None]]


def log(days_before: int = 40, per_day: int = 20, in_window: int = 20, item: str = "i{n}") -> Known:
    """`per_day` interactions on each day before the newest seven, `in_window` on each of those; ten items."""
    rows = []
    for day in range(days_before + 7):
        count, name = (per_day, "i{n}") if day < days_before else (in_window, item)
        moment = CUT_OFF - timedelta(days=days_before + 7 - day) + timedelta(hours=1)
        rows += [(f"u{n}", name.format(n=n % 10), moment + timedelta(minutes=n)) for n in range(count)]
    return rows


class World:
    """A workspace with what health reads: a warehouse, profiles, vectors; each part as a test wants it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        write_json(settings.paths.dataset, {"name": "by_hand", "batches": []})
        self.builds = 0
        self.warehouse(log())

    def warehouse(self, known: Known, neighbours: int = 20, categories: dict[str, list[str]] | None = None) -> None:
        file = self.settings.paths.warehouse
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self.builds += 1
        write_json(self.settings.paths.current_build, {"features_fingerprint": f"w{self.builds}"})
        items = sorted({item for _, item, _ in known})
        users = sorted({user for user, _, _ in known})
        with duckdb.connect(str(file)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(
                "create table int_snapshots as select 'final' as snapshot, ?::timestamptz as as_of, false as ts_is_synthetic",
                [CUT_OFF],
            )
            connection.execute(
                "create table fct_known_interactions (snapshot varchar, user_id varchar, item_id varchar, event_ts timestamptz)"
            )
            connection.execute("create table dim_items (item_id varchar, categories varchar[], full_text varchar)")
            connection.execute(
                "create table fct_user_status (snapshot varchar, user_id varchar, n_interactions bigint)"
            )
            connection.execute("create table fct_user_neighbours (snapshot varchar, user_id varchar)")
            events = pa.table(
                dict(zip(("user_id", "item_id", "event_ts"), map(list, zip(*known, strict=True)), strict=True))
            )
            connection.register("events", events)  # row by row takes seconds
            connection.execute("insert into fct_known_interactions select 'final', * from events")
            kinds = categories or {item: ["odd" if int(item[1:]) % 2 else "even"] for item in items}
            connection.executemany("insert into dim_items values (?, ?, '')", [[i, kinds.get(i, [])] for i in items])
            rows = [[user, 3] for user in users] + [["cold", 0]]
            connection.executemany("insert into fct_user_status values ('final', ?, ?)", rows)
            if neighbours:
                rows = [[user] for user in users[:neighbours]] * 2
                connection.executemany("insert into fct_user_neighbours values ('final', ?)", rows)

    def profiles(
        self,
        texts: Sequence[str] = TEXTS,
        *,
        similarity: float = 0.5,
        distinct: float = 1.0,
        broken: int = 0,
        empty: int = 0,
    ) -> Artifact:
        parameters = {"engine": "by hand", "texts": list(texts), "n": [similarity, distinct, broken, empty]}
        with artifacts.writing(self.settings.paths, "profiles", parameters, {"warehouse": "w1"}) as draft:
            for kind in ("user", "item"):
                rows = [{"snapshot": "final", "profile": t, "parse_status": "ok", "flag": ""} for t in texts]
                rows += [{"snapshot": "final", "profile": "x", "parse_status": "malformed", "flag": ""}] * broken
                rows += [{"snapshot": "final", "profile": "", "parse_status": "empty", "flag": "no_text"}] * empty
                pq.write_table(pa.Table.from_pylist(rows), draft.path / f"{kind}_profiles.parquet")
            quality = [
                {"snapshot": snapshot, "kind": kind, "severity": severity, "metric": metric, "value": value}
                for snapshot, severity, shift in (("final", "all", 0), ("select", "all", 9), ("final", "0", 9))
                for kind in ("user", "item")
                for metric, value in (("distinct", distinct + shift), ("nearest_similarity", similarity + shift))
            ]
            pq.write_table(pa.Table.from_pylist(quality), draft.path / "quality.parquet")
        version = artifacts.version_of("profiles", parameters, {"warehouse": "w1"})
        dbt_sources.set_current_artifact(self.settings.paths, "profiles", version)
        return artifacts.load(self.settings.paths, "profiles", version)

    def embeddings(self, profiles: Artifact, vectors: dict[str, Sequence[float]], model: str = "m@8") -> None:
        parameters, parents = {"model": model, "texts": sorted(vectors)}, {"profiles": profiles.version}
        with artifacts.writing(self.settings.paths, "embeddings", parameters, parents) as draft:
            rows = [{"text_hash": text_hash(text), "embedding": vector} for text, vector in vectors.items()]
            schema = pa.schema([("text_hash", pa.string()), ("embedding", pa.list_(pa.float32()))])
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft.path / "vectors-00000.parquet")
        version = artifacts.version_of("embeddings", parameters, parents)
        dbt_sources.set_current_artifact(self.settings.paths, "embeddings", version)

    def refined(self, *looks: tuple[int, float, float], kept: int) -> None:
        """`looks` are (step, reward, ranking)."""
        with artifacts.writing(self.settings.paths, "refine", {"looks": looks}, {}) as draft:
            rows = [
                {"step": step, "metric": f"held_out/{name}", "value": value}
                for step, *values in looks
                for name, value in zip(("reward", "ranking"), values, strict=True)
            ]
            rows.append({"step": 1, "metric": "reward", "value": 99.0})
            pq.write_table(pa.Table.from_pylist(rows), draft.path / "curve.parquet")
            draft.metrics["kept_step"] = kept

    def check(self, name: str, **bounds: Any) -> dict[str, dict[str, Any]]:
        """{subject: row} of one check."""
        changed = self.settings.health.model_copy(update=bounds)
        artifact = health.check_health(self.settings.model_copy(update={"health": changed}))
        return {row["subject"]: row for row in health.rows(artifact) if row["name"] == name}

    def one(self, name: str, **bounds: Any) -> dict[str, Any]:
        (row,) = self.check(name, **bounds).values()
        return row


@pytest.fixture
def world(workspace_settings: Callable[..., Settings]) -> World:
    return World(workspace_settings())


class TestEveryCheck:
    def test_has_a_row_in_a_bare_workspace_and_what_cannot_be_told_says_why(self, world: World) -> None:
        rows = health.rows(health.check_health(world.settings))
        assert list(dict.fromkeys(row["name"] for row in rows)) and {row["name"] for row in rows} == set(CHECKS)
        unknown = {row["name"] for row in rows if row["status"] == "unknown"}
        assert unknown == set(CHECKS) - {"volume", "category_mix", "new_item_share", "neighbour_sparsity"}
        assert all(
            row["advice"].endswith(".") and (row["value"] is None) == (row["status"] == "unknown") for row in rows
        )

    def test_says_to_which_moment_and_data_it_belongs(self, world: World) -> None:
        artifact = health.check_health(world.settings)
        assert {(row["dataset"], row["as_of"], row["version"]) for row in health.rows(artifact)} == {
            ("by_hand", CUT_OFF, artifact.version)
        }


class TestVolume:
    def test_a_steady_log_is_well(self, world: World) -> None:
        row = world.one("volume")
        assert row["status"] == "ok"
        assert row["value"] == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize(("in_window", "value"), [(4, 0.2), (0, 0.0), (80, 4.0)])
    def test_a_log_that_dries_up_or_doubles_and_doubles_again_is_told(
        self, world: World, in_window: int, value: float
    ) -> None:
        world.warehouse(log(in_window=in_window))
        row = world.one("volume")
        assert (row["status"], row["value"]) == ("warn", pytest.approx(value, abs=0.1))

    def test_where_splits_came_with_the_data_the_window_ends_with_the_log(self, world: World) -> None:
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            connection.execute("update int_snapshots set as_of = timestamptz '2999-01-01', ts_is_synthetic = true")
        assert world.one("volume")["value"] == pytest.approx(1, abs=0.05)

    def test_a_log_without_a_clock_or_hardly_longer_than_the_window_is_unknown(self, world: World) -> None:
        for known, why in (([("u1", "i1", None)], "no clock"), (log(days_before=0), "not a day longer")):
            world.warehouse(known)
            for name in ("volume", "category_mix", "new_item_share"):
                row = world.one(name, window_days=7)
                assert row["status"] == "unknown"
                assert why in row["advice"]


class TestDrift:
    def test_the_same_mix_is_no_drift(self, world: World) -> None:
        row = world.one("category_mix")
        assert (row["status"], row["value"]) == ("ok", pytest.approx(0, abs=0.01))

    def test_another_mix_is(self, world: World) -> None:
        world.warehouse(log(item="i1"))  # all odd
        artifact = health.check_health(world.settings)
        assert health.drifted(artifact) == ["category_mix"]
        row = world.one("category_mix")
        # halves against all of one: H(3/4, 1/4) - 1/2
        expected = np.sqrt(-(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5)
        assert (row["status"], row["value"]) == ("warn", pytest.approx(expected))

    def test_an_item_of_two_categories_is_half_of_each(self, world: World) -> None:
        some = {f"i{n}": ["odd", "even"] if n < 5 else ["odd"] for n in range(10)} | {"i99": ["odd"]}
        world.warehouse(log(item="i99"), categories=some)
        expected = interactions.jensen_shannon(np.array([0.75, 0.25]), np.array([1.0, 0.0]))
        assert world.one("category_mix")["value"] == pytest.approx(expected)

    def test_too_few_interactions_for_so_many_categories_are_not_called_drift(self, world: World) -> None:
        world.warehouse(log(per_day=3, in_window=1), categories={f"i{n}": [f"c{n}"] for n in range(10)})
        row = world.one("category_mix", max_category_shift=0.3)
        assert row["status"] == "unknown"
        assert "chance" in row["advice"]

    def test_items_without_categories_leave_the_mix_unknown(self, world: World) -> None:
        world.warehouse(log(), categories={"nothing": []})
        assert world.one("category_mix")["status"] == "unknown"

    def test_interactions_with_new_items_are_counted(self, world: World) -> None:
        assert world.one("new_item_share")["value"] == 0
        world.warehouse(log(item="i2{n}"))
        row = world.one("new_item_share")
        assert (row["status"], row["value"]) == ("warn", 1)
        assert "new_item_share" in health.drifted(health.check_health(world.settings))

    def test_distributions_with_nothing_in_common_are_one_apart(self) -> None:
        assert interactions.jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == 1
        assert interactions.jensen_shannon(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0


class TestNeighbours:
    @pytest.mark.parametrize(("neighbours", "status"), [(20, "ok"), (9, "warn")])
    def test_warm_users_alone_are_counted(self, world: World, neighbours: int, status: str) -> None:
        world.warehouse(log(), neighbours=neighbours)
        row = world.one("neighbour_sparsity")
        assert (row["value"], row["status"]) == (neighbours / 20, status)

    def test_without_interactions_it_is_unknown(self, world: World) -> None:
        world.warehouse([("u1", "i1", None)], neighbours=0)
        assert world.one("neighbour_sparsity")["status"] == "warn"
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            connection.execute("update fct_user_status set n_interactions = 0")
        assert world.one("neighbour_sparsity", window_days=8)["status"] == "unknown"


class TestProfiles:
    def test_good_ones_are_well_for_users_and_items(self, world: World) -> None:
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
    def test_alike_or_broken_ones_are_told(self, world: World, fault: dict[str, Any], name: str, status: str) -> None:
        world.profiles(**fault)
        assert {row["status"] for row in world.check(name).values()} == {status}

    def test_profiles_left_empty_for_want_of_texts_are_not_badly_written(self, world: World) -> None:
        world.profiles(empty=3)
        assert world.check("profile_format")["item"]["value"] == 1
        world.profiles([], empty=3)
        assert world.check("profile_format")["item"]["status"] == "unknown"


class TestRewardAgainstRanking:
    def test_a_reward_that_climbs_while_ranking_falls_is_told_of_the_kept_and_the_last_state(
        self, world: World
    ) -> None:
        world.refined((0, 0.1, 0.7), (5, 0.2, 0.69), (10, 0.9, 0.6), kept=5)
        rows = world.check("reward_against_ranking")
        assert {s: (round(r["value"], 3), r["status"]) for s, r in rows.items()} == {
            "kept": (0.01, "ok"),
            "last": (0.1, "warn"),
        }

    def test_a_fall_without_a_rise_is_not_the_rewards_fault(self, world: World) -> None:
        world.refined((0, 0.5, 0.7), (10, 0.4, 0.5), kept=10)
        assert {row["value"] for row in world.check("reward_against_ranking").values()} == {0.0}

    def test_without_a_refined_model_or_a_look_at_ranking_it_is_unknown(self, world: World) -> None:
        assert world.one("reward_against_ranking")["status"] == "unknown"
        world.refined((0, 0.5, float("nan")), (10, 0.6, float("nan")), kept=10)
        assert {row["status"] for row in world.check("reward_against_ranking").values()} == {"unknown"}


def vectors(texts: Sequence[str], direction: float = 0.0, length: float = 1.0) -> dict[str, Sequence[float]]:
    """Unit vectors in the plane, about `direction` (radians)."""
    angles = direction + np.linspace(-0.1, 0.1, len(texts))
    return {t: [length * np.cos(a), length * np.sin(a)] for t, a in zip(texts, angles, strict=True)}


class TestEmbeddings:
    def test_unit_vectors_are_well_and_the_first_set_has_nothing_to_move_from(self, world: World) -> None:
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

    def test_a_vector_of_no_text_in_use_is_not_looked_at(self, world: World) -> None:
        world.embeddings(world.profiles(), vectors(TEXTS) | vectors(["gone"], length=3))
        assert world.check("embedding_norm")["user profile"]["status"] == "ok"

    @pytest.mark.parametrize(("direction", "status"), [(0.1, "ok"), (1.5, "warn")])
    def test_profiles_are_held_against_the_set_before(self, world: World, direction: float, status: str) -> None:
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
    def test_what_is_served_is_what_was_published_in_every_view_and_of_the_champion(self, served: World) -> None:
        rows = served.check("train_serve_skew")
        assert set(rows) == {*feast_world.VIEWS, "user_fused", "item_fused"}
        assert {(row["value"], row["status"]) for row in rows.values()} == {(0.0, "ok")}

    @pytest.mark.parametrize(
        ("view", "fault"),
        [
            (
                "user_activity",
                "update {table} set value = (select value from {table} where feature_name = 'n_interactions' limit 1) where feature_name = 'as_of_us'",
            ),
            ("item_content", "delete from {table} where entity_key = (select min(entity_key) from {table})"),
            (
                "item_content",
                "update {table} set value = (select max(value) from {table} where feature_name = 'title') where feature_name = 'title'",
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


class TestCheckingTwice:
    def test_does_nothing_twice_and_other_bounds_or_data_are_another_check(self, world: World) -> None:
        first = health.check_health(world.settings)
        written = (first.path / "checks.parquet").stat().st_mtime_ns
        assert health.check_health(world.settings).version == first.version
        assert (first.path / "checks.parquet").stat().st_mtime_ns == written
        looser = world.settings.health.model_copy(update={"max_volume": 9.0})
        other = health.check_health(world.settings.model_copy(update={"health": looser}))
        write_json(world.settings.paths.current_build, {"features_fingerprint": "w2"})
        newer = health.check_health(world.settings)
        assert len({first.version, other.version, newer.version}) == 3
        assert dbt_sources.current_versions(world.settings.paths, "health") == {newer.version}

    def test_the_tables_of_the_evaluation_phase_are_stale_after_a_new_check(self, world: World) -> None:
        (world.settings.paths.landing / "interactions").mkdir()
        write_json(
            world.settings.paths.dataset, {"name": "x", "split_mode": "temporal", "has_event_ts": True, "batches": []}
        )
        before = dbt_sources.fingerprints(world.settings)
        health.check_health(world.settings)
        after = dbt_sources.fingerprints(world.settings)
        assert {name for name in before if before[name] != after[name]} == {"evaluation"}


class TestRequiring:
    def test_every_failing_check_is_named_with_value_bound_and_advice(self, world: World) -> None:
        world.embeddings(world.profiles(broken=2), vectors(TEXTS, length=2))
        artifact = health.check_health(world.settings)
        with pytest.raises(HealthError) as caught:
            health.require_healthy(artifact, world.settings)
        message = str(caught.value)
        assert caught.value.exit_code == 9
        assert "profile_format of user is 0.75, must be at least 0.999: Profiles break the grammar" in message
        assert "embedding_norm of item profile is 1, must be at most 0.001: " in message
        assert "volume" not in message

    def test_a_breach_that_does_not_fail_is_a_warning(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        world.warehouse(log(in_window=1))
        health.require_healthy(health.check_health(world.settings), world.settings)
        assert "warning: volume of interactions is 0.04995, must be at least 0.3" in capsys.readouterr().err

    def test_what_fails_is_a_setting(self, world: World, tmp_path: Path) -> None:
        world.warehouse(log(in_window=1))
        strict = world.settings.model_copy(
            update={"health": world.settings.health.model_copy(update={"fail": ("volume",)})}
        )
        with pytest.raises(HealthError, match="a health check fails"):
            health.require_healthy(health.check_health(strict), strict)
        with pytest.raises(SettingsError, match="profile_fromat"):
            load_settings(["health.fail=profile_fromat"], workspace=tmp_path, environment={})
