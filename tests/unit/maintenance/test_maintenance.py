"""What maintenance removes, what it never touches, and that a kill half-way is made up for."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
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

from reclm import maintenance, stages
from reclm.features import fused, publish, store
from reclm.maintenance import leftovers
from reclm.settings.tree import Settings
from reclm.storage import artifacts, runs
from reclm.storage.files import read_json, write_json
from reclm.text.encoder import model_name, text_hash
from reclm.warehouse import sources

DAY = 86_400
NOBODY = 2**22 + 1
"""A number that no process has."""


class World:
    """A workspace in which artifacts are made with an age, oldest first unless said."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.made = 0

    def make(
        self,
        kind: str,
        days: float = 100,
        parents: dict[str, str] | None = None,
        files: Callable[[Path], None] = lambda folder: None,
        **parameters: Any,
    ) -> str:
        self.made += 1
        parameters |= {"number": self.made}
        with artifacts.writing(self.settings.paths, kind, parameters, parents or {}) as draft:
            (draft.path / "weights").write_bytes(b"0" * 1000)
            files(draft.path)
        version = artifacts.version_of(kind, parameters, parents or {})
        manifest = self.settings.paths.artifacts / kind / version / "manifest.json"
        created = datetime.now(UTC) - timedelta(days=days) + timedelta(seconds=self.made)
        write_json(manifest, read_json(manifest) | {"created_at": created.isoformat()})
        return version

    def backbone(self, days: float = 100, model: str = "als", **parents: str) -> str:
        return self.make("backbone", days, parents, model=model, variant="augment", seed=1)

    def profiles(
        self, texts: Sequence[str] = (), answers: Sequence[str] = (), asked: Sequence[str] = (), **more: Any
    ) -> str:
        """Profiles of these `texts`, made of the answers to the prompts `asked`; `answers` are those they hold."""

        def files(folder: Path) -> None:
            schema = pa.schema(
                [(name, pa.string()) for name in ("profile", "parse_status", "prompt_hash", "engine_version")]
            )
            rows = [{"profile": text, "parse_status": "ok"} for text in texts]
            rows += [{"profile": "said", "prompt_hash": prompt, "engine_version": "m1"} for prompt in asked]
            for kind, some in (("user", rows), ("item", [])):
                pq.write_table(pa.Table.from_pylist(some, schema=schema), folder / f"{kind}_profiles.parquet")
            if answers:
                shard = pa.table({"prompt_hash": list(answers), "model_version": ["m1"] * len(answers)})
                pq.write_table(shard, folder / "generations-00000.parquet")

        return self.make("profiles", files=files, **more)

    def embeddings(self, profiles: str, texts: Sequence[str], **more: Any) -> str:
        def files(folder: Path) -> None:
            table = pa.table({"text_hash": pa.array([text_hash(text) for text in texts], pa.string())})
            pq.write_table(table, folder / "vectors-00000.parquet")

        model = model_name(self.settings.embedding)
        return self.make("embeddings", parents={"profiles": profiles}, files=files, **{"model": model, **more})

    def promoted(self, version: str, days: float, decision: str = "promoted") -> str:
        def files(folder: Path) -> None:
            row = {
                "decision": decision,
                "candidate_version": version,
                "decided_at": datetime.now(UTC) - timedelta(days=days),
            }
            pq.write_table(pa.Table.from_pylist([row]), folder / "decision.parquet")

        return self.make("promotion", days, files=files)

    def champion(self, version: str) -> None:
        write_json(self.settings.paths.champion, {"version": version})

    def current(self, kind: str, *versions: str) -> None:
        sources.set_current_artifacts(self.settings.paths, kind, versions)

    def maintain(self, *, dry_run: bool = False, **rule: Any) -> dict[str, Any]:
        retention = self.settings.retention.model_copy(update={"keep": 1, **rule})
        return maintenance.maintain(self.settings.model_copy(update={"retention": retention}), dry_run=dry_run)

    def versions(self, kind: str) -> set[str]:
        return {artifact.version for artifact in artifacts.all_of(self.settings.paths, kind)}


@pytest.fixture
def world(workspace_settings: Callable[..., Settings]) -> World:
    return World(workspace_settings())


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
        made = [world.backbone() for _ in range(7)]
        for number, decision in enumerate(("promoted", "promoted", "rolled_back", "kept", "promoted")):
            world.promoted(made[number], 50 - number, decision)
        world.champion(made[4])
        world.maintain(champions=2)
        assert world.versions("backbone") == {made[1], made[2], made[4], made[6]}

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
    root = Path(build["external_root"])
    write_json(world.settings.paths.current_build, build | {"features_fingerprint": "w", "external_root": str(root)})
    for _ in range(2):
        version = world.backbone()
        vectors = np.ones((3, 2), np.float32)
        fused.publish_fused(
            world.settings, version, ["u1", "u2", "u3"], vectors, ["i1", "i2", "i3"], vectors, feast_world.T2
        )
    world.champion(version)
    return world


class TestServedVectors:
    def test_those_of_a_removed_model_go_from_file_and_store(self, served: World) -> None:
        gone, champion = (artifact.version for artifact in artifacts.all_of(served.settings.paths, "backbone"))
        result = served.maintain()
        assert result["fused_rows"] == 6
        assert store.model_versions(served.settings.paths) == [champion]
        assert fused.online_versions(served.settings) == {champion}
        assert served.versions("backbone") == {champion} and gone != champion

    def test_killed_before_the_artifact_goes_the_next_run_ends_it(
        self, served: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(maintenance, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            served.maintain()
        assert len(served.versions("backbone")) == 2
        assert len(fused.online_versions(served.settings)) == 1
        monkeypatch.undo()
        assert served.maintain()["orphans"] == []
        assert len(served.versions("backbone")) == 1

    def test_vectors_without_a_model_are_told_and_left(self, served: World) -> None:
        gone, champion = artifacts.all_of(served.settings.paths, "backbone")
        shutil.rmtree(gone.path)
        told = [f"vectors of model {gone.version} are published and no such backbone stands"]
        assert served.maintain()["orphans"] == told
        for side in store.ENTITY_KINDS:
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


def aged(path: Path, days: float) -> Path:
    """The path, made if need be, as if last touched so long ago."""
    if path.suffix in (".json", ".tmp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    else:
        path.mkdir(parents=True)
        (path / "shard").write_text("x")
        os.utime(path / "shard", (time.time() - days * DAY,) * 2)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


class TestLeftovers:
    def test_old_drafts_builds_and_temporary_files_go_and_fresh_ones_stay(self, world: World) -> None:
        workspace = world.settings.paths
        write_json(workspace.current_build, {"external_root": "warehouse/external/now", "features_fingerprint": "w"})
        places = {
            "drafts": (
                workspace.artifacts / ".partial" / "profiles-old",
                workspace.artifacts / ".partial" / "profiles-new",
            ),
            "external_builds": (workspace.external / "old", workspace.external / "new"),
            "temporary_files": (workspace.runs / ".a.json.1.tmp", workspace.runs / ".b.json.1.tmp"),
        }
        for old, new in places.values():
            aged(old, 2), aged(new, 0.5)
        kept = [aged(workspace.external / name, 9) for name in ("now", "manual")]
        result = world.maintain()
        for what, (old, new) in places.items():
            assert not old.exists() and new.exists(), what
            assert result[what] == 1
        assert all(path.exists() for path in kept)

    def test_a_draft_counts_as_old_by_the_newest_file_in_it(self, world: World) -> None:
        draft = aged(world.settings.paths.artifacts / ".partial" / "profiles-v", 2)
        (draft / "shard-1").write_text("x")
        os.utime(draft, (time.time() - 2 * DAY,) * 2)
        world.maintain()
        assert draft.exists()

    def test_records_of_runs_beyond_the_bound_go_oldest_first(self, world: World) -> None:
        for _ in range(4):
            with runs.recorded(world.settings.paths, "build"):
                pass
        records = sorted(world.settings.paths.runs.glob("*.json"))
        assert world.maintain(runs=3)["run_records"] == 1
        assert sorted(world.settings.paths.runs.glob("*.json")) == records[1:]

    def test_an_artifact_that_was_half_removed_is_never_seen_and_goes_in_the_next_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, newest = world.make("evaluation"), world.make("evaluation")

        def killed(path: Path, **_: Any) -> None:
            next(path.glob("weights"), path / "none").unlink(missing_ok=True)
            if path.exists():
                raise KeyboardInterrupt

        monkeypatch.setattr(leftovers.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            world.maintain()
        monkeypatch.undo()
        assert world.versions("evaluation") == {newest}
        assert len(list((world.settings.paths.artifacts / ".partial").glob(f"*{old}"))) == 1
        assert world.maintain()["drafts"] == 1
        assert list((world.settings.paths.artifacts / ".partial").iterdir()) == []


class TestOrphans:
    def test_a_parent_that_is_missing_is_told_and_nothing_removed_for_it(self, world: World) -> None:
        world.make("evaluation", parents={"backbone/als-augment-1": "lost", "warehouse": "w"})
        (orphan,) = world.maintain()["orphans"]
        assert orphan.startswith("backbone lost, a parent of evaluation ")
        assert len(world.versions("evaluation")) == 1

    def test_a_champion_that_is_missing_is_told(self, world: World) -> None:
        world.champion("lost")
        assert world.maintain()["orphans"] == ["backbone lost, the champion, is missing"]


class TestDryRun:
    def test_it_tells_what_would_go_and_changes_nothing(self, world: World) -> None:
        for _ in range(2):
            world.make("evaluation")
        aged(world.settings.paths.artifacts / ".partial" / "removed-x", 0)
        before = {path: path.stat().st_mtime_ns for path in world.settings.paths.root.rglob("*")}
        result = world.maintain(dry_run=True)
        assert (result["artifacts"], result["drafts"], result["dry_run"]) == (1, 1, True)
        assert result["bytes"] > 1000
        stages.maintain(world.settings, dry_run=True)
        assert {path: path.stat().st_mtime_ns for path in world.settings.paths.root.rglob("*")} == before
        assert {row["version"] for row in world.maintain()["removed"]} == {row["version"] for row in result["removed"]}


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

    def test_the_stage_is_recorded_with_what_it_did(self, world: World) -> None:
        for _ in range(5):
            world.make("evaluation")
        assert stages.maintain(world.settings)["artifacts"] == 2
        (record,) = runs.history(world.settings.paths)
        assert (record["stage"], record["status"], record["about"]["artifacts"]) == ("maintain", "done", 2)
