"""From a log to recommendations in one command, on a small shop: what a user sees, and what must never change."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pytest
from integration import pipeline

from reclm.dataset import EVALUATION_SETTINGS, VARIANTS
from reclm.errors import ModelError
from reclm.promotion.policy import validation_value
from reclm.settings.loading import load
from reclm.storage import artifacts
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse import sql as warehouse_sql


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("end_to_end") / "shop"
    pipeline.demo(workspace)
    return workspace


class TestNcfWithProfilesEndToEnd:
    def test_ncf_with_profiles_end_to_end(self, shop: Path) -> None:
        done = pipeline.reclm("evaluate", "--format", "json", "-w", str(shop), *pipeline.flags(), folder=shop.parent)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        found = {(r["setting"], r["variant"]) for r in rows if r["model"] == "ncf" and r["metric"] == "recall"}
        assert found == {(s, v) for s in EVALUATION_SETTINGS for v in VARIANTS}
        keys = ["dataset", "regime", "setting", "model", "variant", "seed", "metric", "k", "value", "lo", "hi"]
        assert all(list(row) == keys for row in rows)
        assert all(0 <= row["value"] <= 1 for row in rows if row["metric"] in ("recall", "ndcg"))

    def test_the_champion_uses_profiles_and_recommends(self, shop: Path) -> None:
        champion = read_json(Workspace(shop).champion)
        assert (champion["model"], champion["variant"]) == ("ncf", "augment")
        done = pipeline.reclm(
            "recommend", "--sample", "3", "-k", "5", "--format", "json", "-w", str(shop), folder=shop.parent
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == 3
        for answer in answers:
            assert len(answer["items"]) == 5
            assert answer["profile"].startswith("User identity: ")

    def test_every_model_is_fitted_with_the_selected_cold_start_mix(self, shop: Path) -> None:
        made = artifacts.all_of(Workspace(shop), "backbone")
        recorded = [read_json(one.path / "config.json")["cold_start"] for one in made]
        assert recorded == [one.metrics["cold_start"] for one in made]
        assert all(set(one) == set(EVALUATION_SETTINGS) for one in recorded)
        assert any(cold_start["kernel_share"] for one in recorded for cold_start in one.values())

    def test_the_decision_that_made_it_champion_is_a_row_of_the_warehouse(self, shop: Path) -> None:
        pointer = read_json(Workspace(shop).champion)
        with duckdb.connect(str(Workspace(shop).warehouse), read_only=True) as connection:
            rows = connection.execute(
                "select decision, decided_by, candidate_version, candidate_value, version, guards from fct_promotions"
            ).fetchall()
        ((decision, decided_by, version, value, made, guards),) = rows
        assert (decision, decided_by, version, made) == ("promoted", "policy", pointer["measured"], pointer["decision"])
        found = {guard["guard"]: guard["passed"] or not guard["binding"] for guard in json.loads(guards)}
        alone = {"coverage", "popularity_lift", "latency_ms", "format"}
        assert found == dict.fromkeys(alone | {"users", "interactions", "popularity", "ease"}, True)
        model = artifacts.load(Workspace(shop), "backbone", version)
        assert value == validation_value(load(workspace=shop, environment={}), model).value

    def test_the_report_is_one_file_that_asks_for_nothing_else(self, shop: Path) -> None:
        page = Workspace(shop).report.read_text()
        assert "ncf" in page
        assert 'src="http' not in page and 'href="http' not in page and "<script src" not in page

    def test_the_status_names_every_stage(self, shop: Path) -> None:
        done = pipeline.reclm("status", "-w", str(shop), folder=shop.parent)
        for stage in ("ingest", "build", "profile", "embed", "publish", "train", "evaluate", "promote", "report"):
            assert f" {stage} " in done.stdout
        assert "killed" not in done.stdout


class TestRunningAgain:
    def test_it_reuses_every_stage_and_says_so(self, shop: Path) -> None:
        said = pipeline.demo(shop).stderr.splitlines()
        lines = {line.split()[0]: line.split()[1] for line in said if line}
        stages = ("build", "profile", "embed", "publish", "train", "evaluate", "promote")
        assert {stage: lines[stage] for stage in stages} == dict.fromkeys(stages, "reused")

    def test_it_says_a_line_a_stage_and_details_only_when_asked_for(self, shop: Path) -> None:
        assert not [line for line in pipeline.demo(shop).stderr.splitlines() if line.startswith(" ")]
        words = ("demo", "--verbose", "--workspace", str(shop), *pipeline.flags())
        assert [
            line for line in pipeline.reclm(*words, folder=shop.parent).stderr.splitlines() if line.startswith("  ")
        ]

    def test_it_ends_with_two_sentences_on_the_figures(self, shop: Path) -> None:
        lines = pipeline.demo(shop).stdout.splitlines()
        champion = next(row for row, line in enumerate(lines) if line.startswith("The champion is "))
        assert lines[champion].startswith("The champion is ncf with profiles. Its Recall@20: warm items 0.")
        second = "Profiles, Recall@20 of ncf: warm "
        assert lines[champion + 1].startswith(second)


class TestOneSeed:
    def test_two_runs_give_the_same_metrics_to_the_last_digit(self, shop: Path, tmp_path: Path) -> None:
        pipeline.demo(tmp_path / "twin")
        assert pipeline.tables(tmp_path / "twin")["fct_evaluation"] == pipeline.tables(shop)["fct_evaluation"]


QUERIES = re.findall(r"```sql\n(.*?)```", (Path(__file__).parents[2] / "docs" / "analysts.md").read_text(), re.DOTALL)
# for a small shop without faults, which nobody has asked for a recommendation
MAYBE_EMPTY = ("quarantine_interactions", "fct_health", "fct_comparisons")
MAYBE_EMPTY += ("fct_impressions", "fct_feedback", "fct_online_results", "fct_trials")


class TestTheAnalystsPage:
    @pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
    def test_every_query_returns_rows(self, shop: Path, query: str, capsys: pytest.CaptureFixture[str]) -> None:
        warehouse_sql.show(load(workspace=shop, environment={}), query, "json")
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert rows or any(table in query for table in MAYBE_EMPTY)

    def test_every_table_and_column_is_described_in_the_database(self, shop: Path) -> None:
        query = "select table_name, column_name from duckdb_columns() where comment is null and not internal"
        with duckdb.connect(str(Workspace(shop).warehouse), read_only=True) as connection:
            assert connection.execute(query).fetchall() == []
            assert connection.execute("select table_name from duckdb_tables() where comment is null").fetchall() == []


class TestTwoProcessesTrain:
    """`runtime.threads` 2 lets `train.jobs` have two processes of one thread, for the work of six models."""

    def test_they_train_the_very_models_that_one_does(self, shop: Path) -> None:
        made = []
        for threads in (2, 1):
            for old in trained(shop, 5):
                shutil.rmtree(old)
            done = pipeline.reclm(*training(shop, 5, threads), folder=shop.parent)
            assert done.returncode == 0, done.stderr
            files = (file for folder in trained(shop, 5) for file in folder.rglob("*") if file.name != "manifest.json")
            made.append({file: file.read_bytes() for file in files if file.is_file()})
        assert len(trained(shop, 5)) == 6
        assert made[0] == made[1]

    def test_they_end_with_the_one_that_started_them_and_another_run_finishes_the_work(self, shop: Path) -> None:
        with training_in_two(shop, 6) as (parent, children):
            parent.kill()
            parent.wait()
            deadline = time.monotonic() + 10
            while any(alive(child) for child in children):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert pipeline.reclm(*training(shop, 6, 2), folder=shop.parent).returncode == 0
        assert len(trained(shop, 6)) == 6

    def test_ctrl_c_ends_them_without_a_traceback(self, shop: Path) -> None:
        with training_in_two(shop, 8) as (parent, children):
            parent.send_signal(signal.SIGINT)
            assert "Traceback" not in parent.communicate(timeout=60)[1]
            assert parent.returncode == 130
            assert not any(alive(child) for child in children)

    def test_one_that_is_killed_ends_the_run_with_a_remedy(self, shop: Path) -> None:
        with training_in_two(shop, 7) as (parent, children):
            os.kill(children[0], signal.SIGKILL)
            assert "train.jobs=1" in parent.communicate(timeout=60)[1]
            assert parent.returncode == ModelError.exit_code
            assert not any(alive(child) for child in children)


def training(shop: Path, seed: int, threads: int) -> list[str]:
    own = (
        "train.models=ncf,als,biasmf",
        "train.variants=base,augment",
        f"train.seeds={seed}",
        f"runtime.threads={threads}",
        "train.jobs=2",  # this log is small: not set, one process trains
    )
    return ["train", "-w", str(shop), *pipeline.flags(*own)]


def trained(shop: Path, seed: int) -> list[Path]:
    found = artifacts.all_of(Workspace(shop), "backbone")
    return sorted(one.path for one in found if one.manifest["parameters"]["seed"] == seed)


@contextmanager
def training_in_two(shop: Path, seed: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run that trains in two processes, at a moment when one of them writes: (it, their process ids)."""
    partial = Workspace(shop).artifacts / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by killed runs
    words = pipeline.command(*training(shop, seed, 2))
    parent = subprocess.Popen(
        words,
        env=pipeline.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as on a terminal, wherever the tests run
    )
    try:
        while not list(partial.glob("backbone-*")):
            assert parent.poll() is None, parent.communicate()[1]
            time.sleep(0.02)
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        children = [pid for pid in pids if "reclm.training.pool" in words_of(pid) and parent_of(pid) == parent.pid]
        assert len(children) == 2
        yield parent, children
    finally:
        parent.kill()
        parent.communicate()


def words_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def alive(pid: int) -> bool:
    return bool(words_of(pid))


@pytest.mark.full
class TestKilledAnywhere:
    def test_killed_in_every_stage_then_run_again_gives_the_undisturbed_tables(
        self, shop: Path, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        undisturbed = pipeline.seconds_of_stages(shop)
        died = {
            stage: pipeline.demo_killed_in(stage, victim, undisturbed[stage] * 0.3)
            for stage in ("ingest", "build", "profile", "embed", "publish", "train", "evaluate", "promote")
        }
        assert died["build"] and died["train"], died
        pipeline.demo(victim)
        expected, found = pipeline.tables(shop), pipeline.tables(victim)
        assert set(found) == set(expected)
        assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.full
class TestForgetting:
    def test_a_forgotten_user_is_in_no_file_of_the_workspace(self, tmp_path: Path) -> None:
        workspace = tmp_path / "shop"
        pipeline.demo(workspace, "train.variants=augment", *pipeline.LANGUAGE_MODEL)
        user = json.loads(
            pipeline.reclm(
                "recommend", "--sample", "1", "--format", "json", "-w", str(workspace), folder=tmp_path
            ).stdout
        )["user_id"]
        done = pipeline.reclm("forget", user, "--yes", "-w", str(workspace), *pipeline.flags(), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [path for path in workspace.rglob("*") if path.is_file() and pipeline.holds_id(path, user)] == []
        assert not any(user in map(str, row) for rows in pipeline.tables(workspace).values() for row in rows)

    def test_an_unknown_user_is_an_error_and_nothing_is_recorded(self, shop: Path) -> None:
        done = pipeline.reclm("forget", "no-such-user", "--yes", "-w", str(shop), folder=shop.parent)
        assert done.returncode == 3
        assert "no-such-user" in done.stderr
        assert read_json(Workspace(shop).landing / "forgotten.json")["digests"] == []
