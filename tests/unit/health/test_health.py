"""Health checks of the log, the artifact of all checks, and what a broken bound does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml
from unit.health_world import CUT_OFF, TEXTS, World, log, vectors
from unit.staging_world import faulty, stage

from reclm.errors import HealthError, SettingsError
from reclm.health import checks, interactions
from reclm.health.checks import drifted_checks
from reclm.settings.loading import load as load_settings
from reclm.settings.operations import CHECKS
from reclm.settings.tree import Settings
from reclm.storage.files import write_json
from reclm.warehouse import sources


@pytest.fixture
def world(workspace_settings: Callable[..., Settings]) -> World:
    return World(workspace_settings())


class TestEveryCheck:
    def test_has_a_row_in_a_bare_workspace_and_says_why_a_value_is_unknown(self, world: World) -> None:
        rows = checks.check_rows(checks.check_health(world.settings))
        assert list(dict.fromkeys(row["name"] for row in rows)) and {row["name"] for row in rows} == set(CHECKS)
        unknown = {row["name"] for row in rows if row["status"] == "unknown"}
        assert unknown == set(CHECKS) - {"volume", "category_mix", "new_item_share", "neighbour_sparsity"}
        assert all(
            row["advice"].endswith(".") and (row["value"] is None) == (row["status"] == "unknown") for row in rows
        )

    def test_is_known_to_the_table_of_checks(self) -> None:
        model = sources.dbt_project() / "models/marts/evaluation/results/operations.yml"
        (table,) = (one for one in yaml.safe_load(model.read_text())["models"] if one["name"] == "fct_health")
        (name,) = (column for column in table["columns"] if column["name"] == "name")
        assert name["data_tests"][0]["accepted_values"]["arguments"]["values"] == list(CHECKS)

    def test_names_the_files_of_the_inbox_that_were_refused_or_are_no_table(self, world: World) -> None:
        left = [{"file": f"orders-{n}.csv", "kind": "refused", "why": "it ends early"} for n in range(5)]
        left += [{"file": "late.csv", "kind": "waiting", "why": "it is still being written"}]
        write_json(world.settings.paths.landing / "inbox.json", {"files": {}, "not_taken": left})
        rows = [row for row in checks.check_rows(checks.check_health(world.settings)) if row["name"] == "inbox_files"]
        assert [(row["subject"], row["value"], row["status"]) for row in rows] == [
            ("refused", 5, "warn"),
            ("unused", 0, "ok"),
        ]
        assert rows[0]["advice"].startswith("orders-0.csv: it ends early.")
        assert rows[0]["advice"].endswith("And 2 more.")

    def test_says_its_data_set_and_as_of(self, world: World) -> None:
        artifact = checks.check_health(world.settings)
        assert {(row["dataset"], row["as_of"], row["version"]) for row in checks.check_rows(artifact)} == {
            ("by_hand", CUT_OFF, artifact.version)
        }


class TestLandedRows:
    def test_the_share_set_apart_leaves_repeats_out_and_names_the_main_reason(self, world: World) -> None:
        rows = [{"user_id": "u1"}] * 8 + [{"status": "repeat"}] * 30 + [faulty("bad_weight", "x")] * 2
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            stage(connection, interactions=rows)
        row = world.one("set_apart")
        assert (row["subject"], row["value"], row["status"]) == ("interactions", 0.2, "warn")
        assert row["advice"].endswith("above all bad_weight.")
        assert world.one("set_apart", max_set_apart=0.3)["status"] == "ok"

    def test_a_user_who_holds_most_is_reported_without_the_id_with_a_query_that_finds_it(self, world: World) -> None:
        rows = [{"user_id": f"u{n}", "item_id": f"i{n}"} for n in range(4)]
        rows += [{"user_id": "crawler", "item_id": f"i{n}"} for n in range(8)]
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            stage(connection, interactions=rows)
        artifact = checks.check_health(world.settings)
        users, items = (row for row in checks.check_rows(artifact) if row["name"] == "concentration")
        assert (users["status"], items["status"]) == ("warn", "ok")
        assert "One user holds most" in users["advice"]
        assert not any(b"crawler" in file.read_bytes() for file in artifact.path.iterdir())
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            assert connection.execute(users["advice"].split('"')[1]).fetchall() == [("crawler",)]

    def test_another_refused_file_is_another_check_whose_parameters_do_not_quote_it(self, world: World) -> None:
        artifacts = []
        for why in ("line 3 cannot be read: 'ann,x", "line 3 cannot be read: 'bob,x"):
            left = [{"file": "orders.csv", "kind": "refused", "why": why}]
            write_json(world.settings.paths.landing / "inbox.json", {"files": {}, "not_taken": left})
            artifacts.append(checks.check_health(world.settings))
        assert len({artifact.version for artifact in artifacts}) == 2
        assert not any("cannot be read" in json.dumps(artifact.manifest) for artifact in artifacts)


class TestVolume:
    def test_a_steady_log_passes(self, world: World) -> None:
        row = world.one("volume")
        assert row["status"] == "ok"
        assert row["value"] == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize(("in_window", "value"), [(4, 0.2), (0, 0.0), (80, 4.0)])
    def test_a_log_that_shrinks_or_doubles_twice_is_reported(self, world: World, in_window: int, value: float) -> None:
        world.warehouse(log(in_window=in_window))
        row = world.one("volume")
        assert (row["status"], row["value"]) == ("warn", pytest.approx(value, abs=0.1))

    def test_where_splits_came_with_the_data_the_window_ends_with_the_log(self, world: World) -> None:
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            connection.execute("update int_snapshots set as_of = timestamptz '2999-01-01', ts_is_synthetic = true")
        assert world.one("volume")["value"] == pytest.approx(1, abs=0.05)

    def test_a_log_without_times_or_hardly_longer_than_the_window_is_unknown(self, world: World) -> None:
        for known, why in (([("u1", "i1", None)], "no times"), (log(days_before=0), "not a day longer")):
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
        artifact = checks.check_health(world.settings)
        assert drifted_checks(artifact) == ["category_mix"]
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
        assert "new_item_share" in drifted_checks(checks.check_health(world.settings))

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


class TestCheckingTwice:
    def test_reuses_the_artifact_and_other_bounds_or_data_make_another(self, world: World) -> None:
        first = checks.check_health(world.settings)
        written = (first.path / "checks.parquet").stat().st_mtime_ns
        assert checks.check_health(world.settings).version == first.version
        assert (first.path / "checks.parquet").stat().st_mtime_ns == written
        looser = world.settings.health.model_copy(update={"max_volume": 9.0})
        other = checks.check_health(world.settings.model_copy(update={"health": looser}))
        write_json(world.settings.paths.current_build, {"features_fingerprint": "w2"})
        newer = checks.check_health(world.settings)
        assert len({first.version, other.version, newer.version}) == 3
        assert sources.current_versions(world.settings.paths, "health") == {newer.version}

    def test_the_tables_of_the_evaluation_phase_are_stale_after_a_new_check(self, world: World) -> None:
        (world.settings.paths.landing / "interactions").mkdir()
        write_json(
            world.settings.paths.dataset, {"name": "x", "split_mode": "temporal", "has_event_ts": True, "batches": []}
        )
        dataset = world.settings.paths.require_dataset()
        before = sources.fingerprints(sources.inputs_of_build(world.settings, dataset))
        checks.check_health(world.settings)
        after = sources.fingerprints(sources.inputs_of_build(world.settings, dataset))
        assert {name for name in before if before[name] != after[name]} == {"evaluation"}


class TestRequiring:
    def test_every_failing_check_is_named_with_value_bound_and_advice(self, world: World) -> None:
        world.embeddings(world.profiles(broken=2), vectors(TEXTS, length=2))
        artifact = checks.check_health(world.settings)
        with pytest.raises(HealthError) as caught:
            checks.require_healthy(artifact, world.settings)
        message = str(caught.value)
        assert caught.value.exit_code == 9
        assert "profile_format of user is 0.75, must be at least 0.999: Profiles break the grammar" in message
        assert "embedding_norm of item profile is 1, must be at most 0.001: " in message
        assert "volume" not in message

    def test_a_breach_that_does_not_fail_is_a_warning(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        world.warehouse(log(in_window=1))
        checks.require_healthy(checks.check_health(world.settings), world.settings)
        assert "warning: volume of interactions is 0.04995, must be at least 0.3" in capsys.readouterr().err

    def test_what_fails_is_a_setting(self, world: World, tmp_path: Path) -> None:
        world.warehouse(log(in_window=1))
        strict = world.settings.model_copy(
            update={"health": world.settings.health.model_copy(update={"fail": ("volume",)})}
        )
        with pytest.raises(HealthError, match="a health check fails"):
            checks.require_healthy(checks.check_health(strict), strict)
        with pytest.raises(SettingsError, match="profile_fromat"):
            load_settings(["health.fail=profile_fromat"], workspace=tmp_path, environment={})
