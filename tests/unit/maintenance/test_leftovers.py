"""What killed runs left behind, what is out of place, and what a dry run reports."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from unit.maintenance_world import DAY, World

from reclm import stages
from reclm.maintenance import leftovers
from reclm.storage import runs
from reclm.storage.files import write_json


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
        write_json(
            workspace.current_build,
            {"fingerprint": "w", "marts": {"feast_a": "warehouse/external/now/feast_a.parquet"}},
        )
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
        assert world.maintain()["orphans"] == ["served model lost, the champion, is missing"]


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
