"""Days with faults, under a real scheduler with PostgreSQL and Redis, and a backfill beside daily runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from integration import airflow_world as world
from integration import servers

from reclm.features.fused import load_fused
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

DAILY = {"schedule.features": "0 0 * * *", "schedule.retries": 6}
WORSE = {
    "train.variants": "augment",
    "train.models": "bpr",
    "train.bpr_iterations": 1,
    "train.bpr_learning_rate": 1e-9,
}  # learns nothing, not even popularity
SAME_EVERY_DAY = [
    "dim_users",
    "dim_items",
    "fct_known_interactions",
    "fct_user_status",
    "fct_item_status",
    "fct_user_neighbours",
    "fct_item_neighbours",
    "fct_user_prompts",
    "fct_item_prompts",
    "fct_truth",
    "fct_mask",
    "fct_candidates",
    "dim_user_profiles",
    "dim_item_profiles",
    "feast_user_profile",
    "feast_item_profile",
    "feast_item_content",
    "feast_user_activity",
    "feast_item_activity",
]
RUN_TIMESTAMPS = ("created_at", "latency_ms")


@dataclass
class Story:
    """What could be seen after each act, by its name."""

    acts: dict[str, dict[str, Any]] = field(default_factory=dict)


def tables(file: Path) -> dict[str, Any]:
    """{table: rows without embeddings}, and `embeddings`: {table: (n, d)} in the order of the rows."""
    with duckdb.connect(str(file), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"set file_search_path = '{file.parents[1]}'")
        found: dict[str, Any] = {"embeddings": {}}
        for name in SAME_EVERY_DAY:
            described = [row[0] for row in connection.execute(f"describe {name}").fetchall()]
            columns = ", ".join(column for column in described if column not in (*RUN_TIMESTAMPS, "embedding"))
            found[name] = connection.execute(f"select {columns} from {name} order by all").fetchall()
            if "embedding" in described:
                rows = connection.execute(
                    f"select embedding from {name} where embedding is not null order by {columns}"
                ).fetchall()
                found["embeddings"][name] = np.array([row[0] for row in rows], dtype=np.float32)
        return found


def seen(airflow: world.Airflow, workspace: Workspace | None = None) -> dict[str, Any]:
    workspace = workspace or airflow.workspace
    return {
        "runs": airflow.states(),
        "champion": read_json(workspace.champion) if workspace.champion.exists() else None,
        "published": read_json(workspace.feast / "published.json")["version"],
        "artifacts": {kind: sorted(a.version for a in artifacts.all_of(workspace, kind)) for kind in artifacts.KINDS},
        "tables": tables(workspace.warehouse),
        "quarantined": airflow.sql("select count(*) from quarantine_interactions")[0][0],
        "decisions": airflow.sql("select decision, reason from fct_promotions order by decided_at"),
    }


def one_day(airflow: world.Airflow, moment: Any) -> list[dict[str, Any]]:
    """A run of reclm_features, and all that follows. Returns its task instances."""
    run = airflow.trigger("reclm_features", moment)
    airflow.wait("reclm_features", run)
    airflow.wait_for_quiet()
    return airflow.instances("reclm_features", run)


@contextmanager
def no_room(folder: Path) -> Iterator[bool]:
    """Mount a disk of 64 KiB at `folder`; yields False where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder, story = tmp_path_factory.mktemp("faults"), Story()
    shop = world.Shop(folder / "shop", world.SHOP)
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres())
        redis_port = servers.free_port()
        redis = ExitStack()
        stack.callback(redis.close)
        redis.enter_context(servers.redis(folder, redis_port))
        online = {"feast.online_store": "redis", "feast.redis_url": f"127.0.0.1:{redis_port}"}
        settings = {**world.SHOP, **world.KEYWORDS, **DAILY, **online}
        airflow = stack.enter_context(world.running(folder / "airflow-world", settings, database))
        acts = story.acts
        airflow.wait_for_quiet()  # the run of last midnight, which finds an empty inbox

        known = shop.drop(airflow.inbox, None, shop.day(4), set())
        one_day(airflow, shop.day(4) + world.SECOND)
        acts["first"] = seen(airflow)
        acts["twice"] = {"tasks": one_day(airflow, shop.day(4) + world.MINUTE)} | seen(airflow)
        acts["empty"] = {"tasks": one_day(airflow, shop.day(3) - world.MINUTE)} | seen(airflow)

        shop.write(airflow.inbox / "interactions-garbage.csv", ("user_id", "item_id", "event_ts"), world.GARBAGE)
        acts["garbage"] = {"tasks": one_day(airflow, shop.day(3) - 2 * world.MINUTE)} | seen(airflow)

        known |= shop.drop(airflow.inbox, shop.day(4), shop.day(3), known)
        killed = threading.Thread(target=world.kill_parent_of, args=("reclm.warehouse.dbt", airflow))
        killed.start()
        acts["killed"] = {"tasks": one_day(airflow, shop.day(3) + world.SECOND)}
        killed.join()
        acts["killed"] |= seen(airflow)

        airflow.set(**WORSE)
        known |= shop.drop(airflow.inbox, shop.day(3), shop.day(2), known)
        one_day(airflow, shop.day(2) + world.SECOND)
        acts["worse"] = seen(airflow)
        airflow.set(**{name: world.SHOP[name] for name in ("train.models", "train.variants")})
        airflow.wait("reclm_training", airflow.trigger("reclm_training"))
        acts["better"] = seen(airflow)
        back = airflow.reclm("rollback", "--reason", "a test")
        acts["rollback"] = {"output": back.stdout + back.stderr, "code": back.returncode} | seen(airflow)

        with no_room(airflow.workspace.artifacts / ".partial") as mounted:
            run = airflow.trigger("reclm_training", settings={"train.seeds": 7})
            if mounted:
                world.until(
                    lambda: any(one["state"] == "up_for_retry" for one in airflow.instances("reclm_training", run)),
                    200,
                    "a training without room to fail",
                    airflow,
                )
            acts["no room"] = {"mounted": mounted, "said": airflow.errors()} | seen(airflow)
        acts["room"] = {"state": airflow.wait("reclm_training", run)} | seen(airflow)

        known |= shop.drop(airflow.inbox, shop.day(2), shop.day(1), known)
        before = acts["room"]["published"]
        run = airflow.trigger("reclm_features", shop.day(1) + world.SECOND)
        airflow.wait("reclm_features", run)
        redis.close()
        profiles = world.until(
            lambda: next(
                (r["dag_run_id"] for r in airflow.runs("reclm_profiles")[::-1] if r["state"] == "running"), ""
            ),
            60,
            "reclm_profiles to start",
            airflow,
        )
        world.until(
            lambda: any(one["try_number"] > 1 for one in airflow.instances("reclm_profiles", profiles)),
            200,
            "publish to fail for want of Redis",
            airflow,
        )
        during = read_json(airflow.workspace.feast / "published.json")["version"]
        redis.enter_context(servers.redis(folder, redis_port))
        airflow.wait_for_quiet()
        acts["redis"] = {"before": before, "during": during, "tasks": airflow.instances("reclm_profiles", profiles)}
        acts["redis"] |= seen(airflow) | {"health": airflow.reclm("health").stdout}

        brand_new = set(sorted(shop.items.keys() - known)[:3])
        shop.drop_items(airflow.inbox, "brand-new", brand_new)
        daily = airflow.trigger("reclm_features", shop.day(0) + world.SECOND)
        cold = airflow.trigger("reclm_cold_items")
        airflow.wait_for_quiet()
        pair = [
            next(one for one in airflow.instances(dag, run) if one["task_id"] == task)
            for dag, run, task in (("reclm_features", daily, "build"), ("reclm_cold_items", cold, "add"))
        ]
        airflow.wait("reclm_cold_items", airflow.trigger("reclm_cold_items"))
        ids, _ = load_fused(
            Settings(workspace=airflow.workspace.root), "item", read_json(airflow.workspace.champion)["version"]
        )
        acts["both"] = {"pair": pair, "new": brand_new, "candidates": set(ids.tolist())}

        airflow.set(**{"feast.online_store": "sqlite"})  # one database of a Redis server belongs to one workspace
        other = Workspace(folder / "backfilled")
        for file in airflow.inbox.glob("*.csv"):
            if file.stem in {f"{kind}-{shop.day(n):%Y-%m-%d}" for kind in ("interactions", "items") for n in (4, 3, 2)}:
                (other.root / "inbox").mkdir(parents=True, exist_ok=True)
                shutil.copy(file, other.root / "inbox" / file.name)
        words = ["backfill", "create", "--dag-id", "reclm_features", "--max-active-runs", "1"]
        words += [
            "--from-date",
            f"{shop.day(4):%Y-%m-%dT00:00:00+00:00}",
            "--to-date",
            f"{shop.day(2):%Y-%m-%dT00:00:00+00:00}",
        ]
        words += ["--dag-run-conf", json.dumps({"workspace": str(other.root)})]
        created = subprocess.run(
            ["airflow", *words], env=airflow.variables, capture_output=True, text=True, check=False
        )
        assert created.returncode == 0, created.stdout[-2000:] + created.stderr[-2000:]
        world.until(
            lambda: (
                sum(r["run_type"] == "backfill" and r["state"] == "success" for r in airflow.runs("reclm_features"))
                == 3
            ),
            600,
            "three days of backfill",
            airflow,
        )
        airflow.wait_for_quiet()
        acts["backfill"] = {"tables": tables(other.warehouse), "champion": read_json(other.champion)}
    yield story


def states(act: dict[str, Any]) -> dict[str, str]:
    return {one["task_id"]: one["state"] for one in act["tasks"]}


def unchanged(story: Story, act: str, *others: str) -> bool:
    names = ("champion", "published", "artifacts", *others)
    same = all(story.acts[act][what] == story.acts["first"][what] for what in names)
    return same and same_tables(story.acts[act], story.acts["first"])


def same_tables(one: dict[str, Any], other: dict[str, Any]) -> bool:
    rows = all(one["tables"][name] == other["tables"][name] for name in SAME_EVERY_DAY)
    vectors, others = one["tables"]["embeddings"], other["tables"]["embeddings"]
    return rows and all(np.array_equal(vectors[name], others[name]) for name in vectors)


class TestADayThatBringsNothing:
    def test_run_twice_does_nothing_twice(self, story: Story) -> None:
        assert states(story.acts["twice"]) | {"ingest": "success"} == {
            "ingest": "success",
            "refused": "success",
            "build": "skipped",
            "health": "skipped",
            "tuning_due": "skipped",
        }
        assert unchanged(story, "twice", "quarantined")

    def test_an_empty_day_ends_well_and_changes_nothing(self, story: Story) -> None:
        assert set(states(story.acts["empty"]).values()) == {"success", "skipped"}
        assert unchanged(story, "empty", "quarantined")

    def test_garbage_is_quarantined_and_the_champion_stays(self, story: Story) -> None:
        assert set(states(story.acts["garbage"]).values()) == {"success", "skipped"}
        assert story.acts["garbage"]["quarantined"] == story.acts["first"]["quarantined"] + len(world.GARBAGE)
        assert unchanged(story, "garbage")


class TestATaskThatIsKilled:
    def test_is_tried_again_and_the_day_ends_right(self, story: Story) -> None:
        act = story.acts["killed"]
        tries = {one["task_id"]: one["try_number"] for one in act["tasks"]}
        assert set(states(act).values()) == {"success", "skipped"} and tries["build"] == 2
        assert act["decisions"][-1][0] == "promoted" and len(act["decisions"]) == 2
        assert act["champion"]["previous"] == story.acts["first"]["champion"]["measured"]


class TestACandidate:
    def test_that_is_worse_is_kept_out(self, story: Story) -> None:
        act = story.acts["worse"]
        assert act["champion"] == story.acts["killed"]["champion"]
        assert act["decisions"][-1][0] == "kept" and len(act["decisions"]) == 3, act["decisions"]

    def test_that_is_better_gets_in(self, story: Story) -> None:
        act = story.acts["better"]
        assert act["decisions"][-1][0] == "promoted" and len(act["decisions"]) == 4, act["decisions"]
        assert act["champion"]["previous"] == story.acts["worse"]["champion"]["measured"]

    def test_is_rolled_back_in_one_command(self, story: Story) -> None:
        act = story.acts["rollback"]
        assert act["code"] == 0, act["output"]
        assert act["champion"]["version"] == story.acts["worse"]["champion"]["version"]
        assert act["decisions"][-1] == ("rolled_back", "a test")


class TestAFullDisk:
    def test_is_reported_and_changes_nothing_finished(self, story: Story) -> None:
        act = story.acts["no room"]
        if not act["mounted"]:
            pytest.skip("no file system may be mounted here")
        assert "No space left on device" in act["said"]
        for what in ("champion", "published", "artifacts"):
            assert act[what] == story.acts["rollback"][what]
        assert same_tables(act, story.acts["rollback"])

    def test_goes_on_when_there_is_room(self, story: Story) -> None:
        act = story.acts["room"]
        assert act["state"] == "success"
        assert len(act["artifacts"]["backbone"]) > len(story.acts["rollback"]["artifacts"]["backbone"])


class TestAFeatureStoreThatIsDown:
    def test_is_tried_again_and_nothing_is_half_published(self, story: Story) -> None:
        act = story.acts["redis"]
        assert act["during"] == act["before"] != act["published"]
        tries = {one["task_id"]: one["try_number"] for one in act["tasks"]}
        assert tries["publish"] > 1 and set(states(act).values()) == {"success"}

    def test_holds_the_offline_features_when_it_is_back(self, story: Story) -> None:
        skew = [line for line in story.acts["redis"]["health"].splitlines() if "train_serve_skew" in line]
        assert skew and all(line.startswith("ok") for line in skew), skew


class TestTheDailyBuildAndColdItems:
    def test_at_once_take_turns(self, story: Story) -> None:
        daily, cold = sorted(story.acts["both"]["pair"], key=lambda one: one["start_date"])
        assert {daily["state"], cold["state"]} <= {"success", "skipped"} and "success" in (
            daily["state"],
            cold["state"],
        )
        assert daily["end_date"] <= cold["start_date"]

    def test_end_with_every_new_item_a_candidate(self, story: Story) -> None:
        both = story.acts["both"]
        assert len(both["new"]) == 3 and both["new"] <= both["candidates"]


class TestABackfill:
    def test_of_three_days_gives_the_tables_of_three_daily_runs(self, story: Story) -> None:
        daily, backfilled = story.acts["worse"]["tables"], story.acts["backfill"]["tables"]
        for name in SAME_EVERY_DAY:
            assert daily[name], name
            assert backfilled[name] == daily[name], name

    def test_gives_the_vectors_that_daily_runs_gave_but_for_rounding(self, story: Story) -> None:
        daily, backfilled = (story.acts[act]["tables"]["embeddings"] for act in ("worse", "backfill"))
        assert daily.keys() == backfilled.keys() and len(daily) == 3
        for name, vectors in daily.items():  # a text is encoded beside others, whose lengths sway its last digits
            assert len(vectors) and np.allclose(vectors, backfilled[name], atol=1e-5), name

    def test_reaches_a_champion_of_its_own(self, story: Story) -> None:
        assert story.acts["backfill"]["champion"]["version"]
