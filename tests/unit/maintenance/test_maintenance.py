"""What maintenance removes, what it never touches, and that a kill half-way is made up for."""

from __future__ import annotations

import os
import shutil
import sqlite3
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pytest
from integration import feast_world
from unit.maintenance_world import NOBODY, World

from reclm import stages
from reclm.dataset import ENTITY_KINDS
from reclm.features import fused, publish, store
from reclm.maintenance import cleanup
from reclm.storage import artifacts, runs
from reclm.storage.files import read_json, write_json


class TestRetention:
    def test_old_artifacts_go_and_the_newest_of_each_kind_stay(self, world: World) -> None:
        old = [world.make("evaluation") for _ in range(4)]
        result = world.maintain(keep=2)
        assert world.versions("evaluation") == set(old[2:])
        assert {row["version"] for row in result["removed"]} == set(old[:2])
        assert result["artifacts"] == 2 and result["bytes"] > 2000

    def test_the_young_stay(self, world: World) -> None:
        made = [world.make("evaluation", days) for days in (15, 13, 1)]
        world.maintain(days=14)
        assert world.versions("evaluation") == set(made[1:])

    def test_the_newest_of_each_model_variant_and_seed_stay(self, world: World) -> None:
        made = [world.backbone(model=model) for model in ("als", "als", "ncf")]
        world.maintain()
        assert world.versions("backbone") == set(made[1:])

    def test_decisions_are_the_history_of_champions_and_stay(self, world: World) -> None:
        decisions = {world.promoted("v", days=100 - n, decision="kept") for n in range(3)}
        world.maintain()
        assert world.versions("promotion") == decisions


class TestInUse:
    def test_the_champion_and_so_many_before_it_stay(self, world: World) -> None:
        made = [world.served() for _ in range(7)]
        for number, decision in enumerate(("promoted", "promoted", "rolled_back", "kept", "promoted")):
            world.promoted(made[number], 50 - number, decision)
        world.champion(made[4])
        world.maintain(champions=2)
        assert world.versions("served") == {made[1], made[2], made[4], made[6]}

    def test_the_challenger_is_kept(self, world: World) -> None:
        tried, _ = world.served(), [world.served() for _ in range(5)]
        write_json(world.settings.paths.challenger, {"version": tried})
        world.maintain()
        assert tried in world.versions("served")

    def test_what_the_tables_show_stays_however_old(self, world: World) -> None:
        made = [world.backbone() for _ in range(3)]
        world.current("backbone", made[0])
        world.maintain()
        assert world.versions("backbone") == {made[0], made[2]}

    def test_the_language_model_that_the_settings_would_write_with_stays(self, world: World) -> None:
        chosen, other, newest = (world.make("sft", seed=seed) for seed in (world.settings.seed, 7, 8))
        world.maintain()
        assert world.versions("sft") == {chosen, newest}
        assert other not in world.versions("sft")

    def test_everything_in_the_line_of_what_stays_does(self, world: World) -> None:
        base, sft, reward = world.make("base"), "", ""
        sft = world.make("sft", parents={"base": base, "warehouse": "w"})
        reward = world.make("reward", parents={"sft": sft})
        backbone = world.backbone()
        evaluation = world.make("evaluation", parents={"backbone/als-augment-1": backbone, "features": "f"})
        for kind in ("base", "sft", "reward", "evaluation"):
            world.make(kind)
        world.backbone()
        refined = world.make("refine", parents={"reward": reward})
        assert world.maintain()["orphans"] == []
        assert {base} < world.versions("base") and {sft} < world.versions("sft") and {reward} < world.versions("reward")
        assert world.versions("refine") == {refined}
        assert evaluation not in world.versions("evaluation") and backbone not in world.versions("backbone")

    def test_a_labelled_parent_is_one_too(self, world: World) -> None:
        backbone = world.backbone()
        world.backbone()
        world.make("evaluation", parents={"backbone/als-augment-1": backbone})
        world.maintain()
        assert backbone in world.versions("backbone")


class TestStores:
    def test_an_artifact_with_a_vector_that_is_still_used_stays_and_others_go(self, world: World) -> None:
        first = world.profiles(["a", "b"])
        used, unused = world.embeddings(first, ["a"]), world.embeddings(first, ["b"])
        doubled = world.embeddings(first, ["c"])
        last = world.profiles(["a", "c"])
        newest = world.embeddings(last, ["c"])
        result = world.maintain()
        assert world.versions("embeddings") == {used, newest}
        assert {unused, doubled} <= {row["version"] for row in result["removed"]}
        assert world.versions("profiles") == {last}
        assert result["orphans"] == []

    def test_the_texts_of_items_are_used_too(self, world: World) -> None:
        used = world.embeddings(world.profiles(), ["kettle"])
        world.embeddings(world.profiles(), [])
        file = world.settings.paths.warehouse
        file.parent.mkdir(parents=True)
        with duckdb.connect(str(file)) as connection:
            connection.execute("create table dim_items as select 'kettle' as full_text")
        world.maintain()
        assert used in world.versions("embeddings")

    def test_vectors_of_an_encoder_that_is_not_used_go(self, world: World) -> None:
        other = world.embeddings(world.profiles(["a"]), ["a"], model="other")
        world.embeddings(world.profiles(["a"]), ["a"])
        world.maintain()
        assert other not in world.versions("embeddings")

    def test_an_answer_that_current_profiles_are_made_of_is_not_asked_again(self, world: World) -> None:
        used = world.profiles(answers=["p1", "p2"])
        unused = world.profiles(answers=["p3"])
        doubled = world.profiles(answers=["p1"])
        newest = world.profiles(asked=["p1", "p2", "p4"], answers=["p4"])
        world.maintain()
        # the newer holder of p1 counts, as it does where answers are read; p2 stands in the older one alone
        assert world.versions("profiles") == {used, doubled, newest}
        assert unused not in world.versions("profiles")


@pytest.fixture
def served(world: World) -> World:
    """Two models with vectors in the feature store; the second is champion."""
    feast_world.write_marts(world.settings, feast_world.marts())
    publish.publish(world.settings)
    build = read_json(world.settings.paths.current_build)
    write_json(world.settings.paths.current_build, build | {"features_fingerprint": "w"})
    for _ in range(2):
        version = world.served()
        vectors = np.ones((3, 2), np.float32)
        fused.publish_fused(
            world.settings, version, ["u1", "u2", "u3"], vectors, ["i1", "i2", "i3"], vectors, feast_world.T2
        )
    world.champion(version)
    return world


class TestServedVectors:
    def test_those_of_a_removed_model_go_from_file_and_store(self, served: World) -> None:
        gone, champion = (artifact.version for artifact in artifacts.all_of(served.settings.paths, "served"))
        result = served.maintain()
        assert result["fused_rows"] == 6
        assert store.model_versions(served.settings.paths) == [champion]
        assert fused.online_versions(served.settings) == {champion}
        assert served.versions("served") == {champion} and gone != champion

    def test_killed_before_the_artifact_goes_the_next_run_ends_it(
        self, served: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cleanup, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            served.maintain()
        assert len(served.versions("served")) == 2
        assert len(fused.online_versions(served.settings)) == 1
        monkeypatch.undo()
        assert served.maintain()["orphans"] == []
        assert len(served.versions("served")) == 1

    def test_vectors_without_a_model_are_reported_and_left(self, served: World) -> None:
        gone, champion = artifacts.all_of(served.settings.paths, "served")
        shutil.rmtree(gone.path)
        expected = [f"vectors of model {gone.version} are published, and it is missing"]
        assert served.maintain()["orphans"] == expected
        for side in ENTITY_KINDS:
            store.vector_file(served.settings.paths, side, gone.version).unlink()
        assert served.maintain()["orphans"] == [f"vectors of model {gone.version} are online and in no file"]
        assert fused.online_versions(served.settings) == {gone.version, champion.version}

    def test_a_store_with_much_free_space_gives_it_back(self, served: World) -> None:
        file = served.settings.paths.feast / "online.db"
        assert served.maintain()["vacuumed_bytes"] == 0
        with sqlite3.connect(file) as connection:
            connection.execute("create table much as select randomblob(3000000) as bytes")
            connection.execute("drop table much")
        connection.close()
        before = file.stat().st_size
        assert served.maintain()["vacuumed_bytes"] == before - file.stat().st_size > 2_000_000
        assert fused.online_versions(served.settings)


class TestWhileOthersWork:
    @pytest.mark.parametrize(
        ("pid", "removed"), [(os.getppid(), 0), (NOBODY, 1), (os.getpid(), 1)], ids=["parent", "nobody", "own"]
    )
    def test_nothing_is_removed_while_a_stage_of_another_process_lives(
        self, world: World, pid: int, removed: int
    ) -> None:
        for _ in range(2):
            world.make("evaluation")
        record = {"stage": "train", "started": datetime.now(UTC).isoformat(), "status": "running", "pid": pid}
        write_json(world.settings.paths.runs / "20240101-train.json", record)
        result = world.maintain()
        assert result["artifacts"] == removed
        assert bool(result["postponed"]) is not bool(removed)

    def test_being_postponed_is_in_the_record_and_in_the_line_of_the_stage(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = {"stage": "train", "started": datetime.now(UTC).isoformat(), "status": "running", "pid": os.getppid()}
        write_json(world.settings.paths.runs / "20240101-train.json", other)
        busy = f"stage train of process {os.getppid()} is at work"
        assert stages.maintain(world.settings)["postponed"] == busy
        record = runs.history(world.settings.paths)[-1]
        assert (record["stage"], record["about"]["postponed"]) == ("maintain", busy)
        assert f"postponed, {busy}" in capsys.readouterr().err.splitlines()[-1]

    def test_the_stage_is_recorded_with_what_it_did(self, world: World) -> None:
        for _ in range(5):
            world.make("evaluation")
        assert stages.maintain(world.settings)["artifacts"] == 2
        (record,) = runs.history(world.settings.paths)
        assert (record["stage"], record["status"], record["about"]["artifacts"]) == ("maintain", "done", 2)
