"""Building the warehouse again: what is reused, what a failure or a kill leaves behind, and new artifacts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration import dbt_world

from reclm.dataset import SNAPSHOTS
from reclm.errors import BuildError
from reclm.profiles import grammar
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.build import build
from reclm.warehouse.reading import connect
from reclm.warehouse.sources import set_current_artifact, set_current_artifacts

BUILD = "import sys, pathlib; from reclm.warehouse.build import build; from reclm.settings.tree import Settings; "
BUILD += "build(Settings(workspace=pathlib.Path(sys.argv[1])))"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    settings = dbt_world.settings(tmp_path_factory.mktemp("built") / "workspace")
    dbt_world.land(settings.paths, "temporal", has_event_ts=True, interactions=[dbt_world.good_log()])
    build(settings)
    return settings.paths


@pytest.fixture
def shop(built: Workspace, tmp_path: Path) -> Settings:
    """A copy that a test may spoil."""
    shutil.copytree(built.root, tmp_path / "workspace")
    return dbt_world.settings(tmp_path / "workspace")


def count(settings: Settings, table: str) -> int:
    with connect(settings) as connection:
        return int(connection.execute(f"select count(*) from {table}").fetchall()[0][0])


def models_run(workspace: Workspace) -> set[str]:
    results = read_json(workspace.root / "warehouse" / "dbt" / "target" / "run_results.json")["results"]
    return {r["unique_id"].split(".")[2] for r in results if r["unique_id"].startswith("model.")}


def write_profiles(settings: Settings, text: str, kind: str = "user") -> str:
    """A `profiles` artifact with one profile of every user at both snapshots, and a quality row about `kind`."""
    with connect(settings) as connection:
        about = connection.execute(
            "select user_id, snapshot, as_of from dim_users, int_snapshots order by all"
        ).fetchall()
    with artifacts.writing(settings.paths, "profiles", {"text": text, "kind": kind}, {}) as draft:
        version = artifacts.version_of("profiles", {"text": text, "kind": kind}, {})
        identity, interests = grammar.phrases_of(text)
        common: dict[str, Any] = {"identity": list(identity), "interests": list(interests)}
        common |= {"dataset": "d", "profile": text, "engine": "by_hand", "engine_version": "1", "prompt_hash": ""}
        common |= {"parse_status": "ok", "flag": "", "seed": 1, "tokens": 0, "latency_ms": 0.0, "version": version}
        rows: list[dict[str, Any]] = [{"user_id": u, "snapshot": s, "as_of": t, **common} for u, s, t in about]
        pq.write_table(pa.Table.from_pylist(rows), draft.path / "user_profiles.parquet")
        quality = {
            "version": version,
            "snapshot": "final",
            "kind": kind,
            "severity": "all",
            "metric": "share",
            "value": 1.0,
        }
        pq.write_table(pa.Table.from_pylist([{**quality, "n": 1}]), draft.path / "quality.parquet")
    set_current_artifact(settings.paths, "profiles", version)
    return version


def write_embeddings(settings: Settings, text: str) -> None:
    import hashlib

    with artifacts.writing(settings.paths, "embeddings", {"model": "m"}, {}) as draft:
        row = {
            "text_hash": hashlib.sha256(text.encode()).hexdigest(),
            "embedding": [0.6, 0.8],
            "model": "m",
            "version": "v",
        }
        schema = pa.schema(
            {
                "text_hash": pa.string(),
                "embedding": pa.list_(pa.float32()),
                "model": pa.string(),
                "version": pa.string(),
            }
        )
        pq.write_table(pa.Table.from_pylist([row], schema=schema), draft.path / "vectors-00000.parquet")
    set_current_artifact(settings.paths, "embeddings", artifacts.version_of("embeddings", {"model": "m"}, {}))


class TestAsOf:
    def test_a_build_as_of_a_moment_equals_the_build_of_what_had_happened_by_then(self, tmp_path: Path) -> None:
        moment = "2024-02-05T00:00:00+00:00"
        log, items = dbt_world.good_log(), dbt_world.good_items()
        past = [row for row in log if str(row["event_ts"]) < moment[:10]]
        assert len(past) < len(log)
        then = dbt_world.settings(tmp_path / "then")
        dbt_world.land(
            then.paths,
            "temporal",
            has_event_ts=True,
            interactions=[past],
            items=[items],
        )
        now = dbt_world.settings(tmp_path / "now", data={"as_of": moment})
        dbt_world.land(
            now.paths,
            "temporal",
            has_event_ts=True,
            interactions=[sorted(log, key=lambda row: row not in past)],
            items=[items],
        )
        builds = [build(settings) for settings in (then, now)]
        assert builds[0]["features_fingerprint"] == builds[1]["features_fingerprint"]
        found = [dbt_world.tables(settings.paths.warehouse) for settings in (then, now)]
        landed = {"stg_parameters", "stg_batches", "base_interactions"}
        for name in found[0].keys() - landed:
            assert found[0][name] == found[1][name], name
        with connect(now) as connection:
            pending = connection.execute("select count(*) from base_interactions where status = 'pending'").fetchall()
        assert pending == [(len(log) - len(past),)]


class TestArtifactsArrive:
    def test_profiles_are_built_alone_shown_as_current_and_kept_as_history(self, shop: Settings) -> None:
        before = read_json(shop.paths.current_build)
        text = "User identity: walker; User interests: tea, rope"
        old = write_profiles(shop, "User identity: nobody; User interests: nothing")
        new = write_profiles(shop, text)
        write_embeddings(shop, text)
        after = build(shop, "profiles")
        assert not after["reused"]
        assert "base_interactions" not in models_run(shop.paths)
        assert after["features_fingerprint"] == before["features_fingerprint"]
        n_users = count(shop, "dim_users")
        with connect(shop) as connection:
            versions = connection.execute("select version, count(*) from fct_user_profiles group by all").fetchall()
            current = connection.execute(
                "select distinct version, snapshot, identity, interests, quality, has_embedding from dim_user_profiles"
            ).fetchall()
            vectors = connection.execute("select distinct embedding, flag from feast_user_profile").fetchall()
        assert dict(versions) == {old: len(SNAPSHOTS) * n_users, new: len(SNAPSHOTS) * n_users}
        assert current == [(new, "serve", ["walker"], ["tea", "rope"], 1.0, True)]
        assert count(shop, "feast_user_profile") == len(SNAPSHOTS) * n_users
        assert [[round(x, 4) for x in vector] for vector, _ in vectors] == [[0.6, 0.8]]
        marts = {name: shop.paths.root / file for name, file in after["marts"].items()}
        assert after["marts"]["feast_user_activity"] == before["marts"]["feast_user_activity"]
        assert pq.read_metadata(marts["feast_user_activity"]).num_rows == len(SNAPSHOTS) * n_users
        assert pq.read_schema(marts["feast_user_profile"]).field("embedding").type.value_type == pa.float32()
        assert build(shop)["reused"]


class TestFailure:
    def test_a_failing_test_is_named_and_the_published_copy_stays_until_the_fault_is_gone(self, shop: Settings) -> None:
        published, current = shop.paths.warehouse.read_bytes(), read_json(shop.paths.current_build)
        version = write_profiles(shop, "User identity: a; User interests: b", kind="planet")
        with pytest.raises(BuildError, match="accepted_values_fct_profile_quality_kind"):
            build(shop)
        assert shop.paths.warehouse.read_bytes() == published
        assert read_json(shop.paths.current_build) == current
        shutil.rmtree(shop.paths.artifacts / "profiles" / version)
        set_current_artifacts(shop.paths, "profiles", [])
        assert not build(shop)["reused"]
        assert "base_interactions" in models_run(shop.paths)
        assert [path.name for path in shop.paths.build_database.parent.glob("*.json")] == ["current.json"]


class TestKilled:
    def test_killed_while_dbt_writes_the_next_build_gives_the_undisturbed_tables(
        self, built: Workspace, tmp_path: Path
    ) -> None:
        victim = dbt_world.settings(tmp_path / "victim")
        shutil.copytree(built.landing, victim.paths.landing)
        process = subprocess.Popen([sys.executable, "-c", BUILD, str(victim.workspace)], stderr=subprocess.DEVNULL)
        while not victim.paths.build_database.exists() and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        process.kill()
        process.wait()
        assert not victim.paths.warehouse.exists() and victim.paths.build_database.exists()
        build(victim)
        expected, found = dbt_world.tables(built.warehouse), dbt_world.tables(victim.paths.warehouse)
        assert [name for name in expected if found[name] != expected[name]] == []
        assert set(found) == set(expected)

    def test_dbt_ends_when_the_process_that_started_it_is_gone(self, shop: Settings) -> None:
        command = [sys.executable, "-m", "reclm.warehouse.dbt"]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert child.wait(timeout=60) == 1


class TestALogOfTwoColumns:
    @pytest.fixture
    def bare_log(self, tmp_path: Path) -> Settings:
        settings = dbt_world.settings(tmp_path / "bare", seed=3)
        rows = [
            {"user_id": f"u{u}", "item_id": f"{i}", "split": "test" if i == u % 12 else "train"}
            for u in range(60)
            for i in range(u % 12, u % 12 + 6)
        ]
        dbt_world.land(settings.paths, "assigned", has_event_ts=False, interactions=[rows])
        return settings

    def test_it_is_enough_to_build_and_a_valid_slice_is_set_aside(self, bare_log: Settings) -> None:
        build(bare_log)
        with connect(bare_log) as connection:
            splits = dict(connection.execute("select split, count(*) from int_interactions group by all").fetchall())
            order = connection.execute("select item_id from dim_items order by item_index").fetchall()
            least = connection.execute(
                "select min(n) from (select count(*) as n from int_interactions where split = 'train' group by user_id)"
            ).fetchall()
            known = dict(
                connection.execute("select snapshot, count(*) from fct_known_interactions group by all").fetchall()
            )
            dates = connection.execute(
                "select snapshot, strftime(as_of, '%Y-%m-%d') from int_snapshots order by all"
            ).fetchall()
        assert splits["test"] == 60
        assert 10 <= splits["valid"] <= 60 and splits["train"] + splits["valid"] == 300
        assert least[0][0] >= 1
        assert [row[0] for row in order] == [str(number) for number in range(17)]
        assert (known["serve"], known["final"]) == (360, 300) and known["select"] < splits["train"]
        assert dates == [("final", "2000-01-03"), ("select", "2000-01-02"), ("serve", "2000-01-04")]
        assert count(bare_log, "fct_user_prompts") == len(SNAPSHOTS) * 60

    def test_the_sparse_regime_without_marked_rows_is_refused(self, bare_log: Settings) -> None:
        sparse = dbt_world.settings(bare_log.workspace, seed=3, data={"regime": "sparse"})
        with pytest.raises(BuildError, match="the_sparse_regime_has_rows"):
            build(sparse)
