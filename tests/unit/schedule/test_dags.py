"""The DAG files: what they hold, that they load at once, and which asset events they emit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reclm.errors import PublishError, WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import write_json

DAGS = Path(__file__).resolve().parents[3] / "dags"
NAMES = sorted(path.stem for path in DAGS.glob("*.py"))
HEAVY = ("torch", "transformers", "trl", "peft", "vllm", "duckdb", "feast", "dbt", "pandas", "numpy", "implicit")
LOAD = """
import importlib.util, json, sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl
found = {}
for path in sys.argv[2:]:
    started = time.process_time()
    spec = importlib.util.spec_from_file_location("dag_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dag, seconds = module.dag, time.process_time() - started
    found[dag.dag_id] = {
        "seconds": seconds, "doc": dag.doc_md, "tags": sorted(dag.tags), "params": sorted(dag.params),
        "max_active_runs": dag.max_active_runs, "catchup": dag.catchup, "deadline": bool(dag.deadline),
        "schedule": str(dag.schedule),
        "tasks": {
            task.task_id: {
                "owner": task.owner, "retries": task.retries, "pool": task.pool, "doc": task.doc_md or task.doc,
                "notifies": bool(task.on_failure_callback),
                "minutes": task.execution_timeout and task.execution_timeout.total_seconds() / 60,
                "after": sorted(task.upstream_task_ids),
                "emits": [asset.name for asset in task.outlets],
            }
            for task in dag.tasks
        },
    }
print(json.dumps({"dags": found, "heavy": [name for name in sys.argv[1].split(",") if name in sys.modules]}))
"""


def load(tmp_path: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    import os

    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RECLM_", "AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, ",".join(HEAVY), *(str(DAGS / f"{name}.py") for name in NAMES)],
        env=environ | {"AIRFLOW_HOME": str(tmp_path)} | (environment or {}),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return load(tmp_path_factory.mktemp("airflow"))


class TestEveryFile:
    def test_holds_the_dag_of_its_name(self, loaded: dict[str, Any]) -> None:
        kinds = ("cold_items", "features", "maintenance", "profiles", "training", "tuning")
        assert sorted(loaded["dags"]) == NAMES == [f"reclm_{kind}" for kind in kinds]

    def test_loads_within_a_second_and_imports_nothing_heavy(self, loaded: dict[str, Any]) -> None:
        assert loaded["heavy"] == []
        assert max(dag["seconds"] for dag in loaded["dags"].values()) < 1.0

    @pytest.mark.parametrize("name", NAMES)
    def test_describes_itself_and_what_to_do_when_it_fails(self, name: str, loaded: dict[str, Any]) -> None:
        dag = loaded["dags"][name]
        assert dag["doc"].strip().startswith("###") and "reclm" in dag["tags"]
        assert {"workspace", "settings"} <= set(dag["params"])
        assert dag["max_active_runs"] == 1 and dag["catchup"] is False and dag["deadline"]
        for task in dag["tasks"].values():
            assert task["doc"] and task["owner"] == "reclm" and task["retries"] >= 1 and task["notifies"]


class TestTheChain:
    def test_language_models_and_the_warehouse_have_one_slot_each(self, loaded: dict[str, Any]) -> None:
        pools = {
            name: {task: about["pool"] for task, about in dag["tasks"].items()} for name, dag in loaded["dags"].items()
        }
        assert set(pools["reclm_tuning"].values()) == {"accelerator"}
        assert pools["reclm_features"]["build"] == pools["reclm_cold_items"]["add"] == "warehouse"
        assert pools["reclm_maintenance"] == {"maintain": "warehouse"}

    def test_no_task_may_hang_for_ever_and_training_may_take_longer(self, tmp_path: Path) -> None:
        environment = {"RECLM_SCHEDULE__TASK_MINUTES": "3", "RECLM_SCHEDULE__TRAINING_MINUTES": "7"}
        dags = load(tmp_path, environment)["dags"]
        found = {
            (task["pool"] == "accelerator", task["minutes"]) for dag in dags.values() for task in dag["tasks"].values()
        }
        assert found == {(False, 3), (True, 7)}

    def test_assets_link_what_follows(self, loaded: dict[str, Any]) -> None:
        emitted = {
            (name, asset) for name, dag in loaded["dags"].items() for t in dag["tasks"].values() for asset in t["emits"]
        }
        assert emitted == {
            ("reclm_features", "reclm_features"),
            ("reclm_features", "reclm_tuning_due"),
            ("reclm_tuning", "reclm_model"),
            ("reclm_profiles", "reclm_profiles"),
            ("reclm_training", "reclm_champion"),
        }
        started_by = {name: loaded["dags"][name]["schedule"] for name in NAMES}
        assert "reclm_features" in started_by["reclm_profiles"] and "reclm_model" in started_by["reclm_profiles"]
        assert "reclm_profiles" in started_by["reclm_training"] and "reclm_tuning_due" in started_by["reclm_tuning"]

    def test_nothing_is_promoted_before_it_is_evaluated(self, loaded: dict[str, Any]) -> None:
        tasks = loaded["dags"]["reclm_training"]["tasks"]
        assert "evaluate" in tasks["promote"]["after"] and tasks["evaluate"]["after"] == ["train"]

    def test_a_person_is_asked_where_settings_say_so(self, tmp_path: Path) -> None:
        dags = load(tmp_path, {"RECLM_SCHEDULE__APPROVAL": "true", "RECLM_SCHEDULE__FEATURES": ""})["dags"]
        tasks = dags["reclm_training"]["tasks"]
        assert tasks["propose"]["after"] == ["evaluate", "train"] and tasks["approve"]["after"] == ["propose"]
        assert "approve" in tasks["promote"]["after"]
        assert dags["reclm_features"]["schedule"] == "None"


class Events(list[SimpleNamespace]):
    """Asset events as a task sees them: newest first if ascending(False)."""

    def ascending(self, flag: bool) -> Events:
        return self if flag else Events(reversed(self))

    def limit(self, number: int) -> Events:
        return Events(self[:number])


def event(**extra: Any) -> SimpleNamespace:
    return SimpleNamespace(
        extra=extra, timestamp=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=extra.pop("day", 0))
    )


class TestAssetEvents:
    def emit(self, events: list[SimpleNamespace], result: dict[str, Any]) -> list[Any]:
        from reclm.schedule.parts import FEATURES, announced

        emitted: Iterator[Any] = announced(FEATURES, result, {FEATURES: Events(events)})
        return list(emitted)

    def test_are_emitted_for_a_new_version(self) -> None:
        result = {"workspace": "/w", "version": "b"}
        assert self.emit([], result)[0].extra == result
        assert self.emit([event(workspace="/w", version="b"), event(workspace="/w", version="a")], result)

    def test_are_not_emitted_for_the_version_of_the_last_event(self) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        events = [event(workspace="/w", version="b"), event(workspace="/other", version="z")]
        with pytest.raises(AirflowSkipException, match="nothing new"):
            self.emit(events, {"workspace": "/w", "version": "b"})


class TestARunThatAnAssetStarted:
    def test_works_on_the_data_set_of_the_newest_event_unless_a_person_named_one(self) -> None:
        from reclm.schedule.parts import request

        events = {"one": [event(workspace="/a", day=1)], "two": [event(workspace="/b", day=2)]}
        assert request({"workspace": None, "x": 1}, events) == {"workspace": "/b", "x": 1}
        assert request({"workspace": "/mine"}, events)["workspace"] == "/mine"
        assert request({"workspace": None}, None)["workspace"] is None


class TestCallbacks:
    def test_post_what_failed_and_survive_a_dead_webhook(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        from http.server import BaseHTTPRequestHandler, HTTPServer
        from threading import Thread

        from reclm.schedule import callbacks

        heard: list[dict[str, Any]] = []

        class Listener(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        monkeypatch.chdir(tmp_path)
        server = HTTPServer(("127.0.0.1", 0), Listener)
        thread = Thread(target=server.serve_forever)
        thread.start()
        instance = SimpleNamespace(dag_id="reclm_training", task_id="train", run_id="r")
        monkeypatch.setenv("RECLM_SCHEDULE__WEBHOOK", f"http://127.0.0.1:{server.server_port}/")
        callbacks.failed({"task_instance": instance, "exception": WorkspaceError("no room")})
        server.shutdown()
        thread.join()
        server.server_close()
        assert heard == [
            {
                "event": "task_failed",
                "dag_id": "reclm_training",
                "task_id": "train",
                "run_id": "r",
                "error": "WorkspaceError: no room",
            }
        ]
        callbacks.failed({"task_instance": instance, "exception": WorkspaceError("no room")})
        assert "could not notify by webhook" in caplog.text


class TestAMessageThatLeavesTheHouse:
    @pytest.mark.parametrize(
        ("text", "sent"),
        [
            (
                "view user_profile, column as_of, row 7 (user_id 'ann'): NaN; run `reclm build`",
                "view user_profile, column as_of, row 7 (user_id '…'): NaN; run `reclm build`",
            ),
            ('user "o\'neil" of bob@example.org has 4711', "user '…' of … has …"),
            (
                "/inbox/events-2026-01-01.csv, line 3 cannot be read: it's odd\nOriginal Line: ann,x",
                "/inbox/events-2026-01-01.csv, line 3 cannot be read: it's odd",
            ),
        ],
    )
    def test_names_no_user(self, text: str, sent: str) -> None:
        from reclm.schedule import callbacks

        assert callbacks.without_values(PublishError(text)) == f"PublishError: {sent}"

    def test_of_another_library_is_the_name_of_the_error_alone(self) -> None:
        from reclm.schedule import callbacks

        assert callbacks.without_values(ValueError("could not convert string to float: ann")) == "ValueError"


class TestTheParametersOfARun:
    def test_override_settings_of_every_kind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from reclm.schedule import tasks

        monkeypatch.chdir(tmp_path)
        overrides = {
            "train.models": ["lightgcn", "als"],
            "train.epochs": 3,
            "data.min_weight": None,
            "llm.base_model": "x",
        }
        settings = tasks.load({"workspace": str(tmp_path), "settings": overrides, "as_of": "2024-05-02"})
        assert settings.train.models == ("lightgcn", "als") and settings.train.epochs == 3
        assert settings.llm.base_model == "x" and settings.data.as_of == "2024-05-02T00:00:00+00:00"

    def test_a_dry_run_lands_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from reclm.schedule import tasks

        monkeypatch.chdir(tmp_path)
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "interactions.csv").write_text("user_id,item_id,event_ts\nann,tea,2025-01-01\n")
        params = {"workspace": str(tmp_path)}
        assert tasks.ingest(params | {"dry_run": True}) == {"new_batches": 0, "batches": 0, "files": 1}
        assert not tasks.has_data(params)
        assert tasks.ingest(params | {"settings": {"schedule.settle_seconds": 0}})["new_batches"] == 1


class TestARefusedFileOfTheInbox:
    def test_fails_its_own_task_by_name_after_the_others_have_landed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        from reclm.schedule import tasks
        from reclm.schedule.parts import require_whole

        monkeypatch.chdir(tmp_path)
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "interactions.csv").write_text("user_id,item_id,event_ts\nann,tea,2025-01-01\n")
        (inbox / "interactions-2.csv").write_text("a,b\n1,2\n")
        params = {"workspace": str(tmp_path), "settings": {"schedule.settle_seconds": 0}}
        landed = tasks.ingest(params)
        assert landed["new_batches"] == 1 and landed["refused"] == ["interactions-2.csv"]
        with pytest.raises(AirflowFailException, match=r"interactions-2\.csv: .*no column for the user"):
            require_whole(landed)
        (inbox / "interactions-2.csv").unlink()
        again = tasks.ingest(params)
        require_whole(again)
        assert again["new_batches"] == 0

    def test_holds_up_neither_the_build_nor_what_follows_it(self, loaded: dict[str, Any]) -> None:
        tasks = loaded["dags"]["reclm_features"]["tasks"]
        assert tasks["refused"]["after"] == tasks["build"]["after"] == ["ingest"]


class TestWhenToTune:
    def test_there_is_a_reason_while_no_model_may_write_and_when_interactions_have_drifted(
        self, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from reclm import stages
        from reclm.llm import lineage
        from reclm.schedule import tasks

        settings = workspace_settings(profiles={"engine": "transformers"})
        write_json(settings.paths.current_build, {"fingerprint": "f", "features_fingerprint": "f1"})
        monkeypatch.setattr(tasks, "settings_of_build", lambda params: settings)
        monkeypatch.setattr(stages, "fall_back_to_keywords", lambda settings: settings)

        def refuse(settings: Settings, warehouse: str) -> None:
            raise WorkspaceError(f"every model is trained on later data than {warehouse}")

        def reason(*drifted: str) -> str:
            return str(tasks.tuning_due({}, drifted)["reason"])

        assert reason("mix") == reason()
        assert "holds no refine model" in reason()
        with artifacts.writing(settings.paths, "refine", {}, {"warehouse": "f1"}):
            pass
        assert (reason(), reason("mix")) == ("", "drift: mix")
        assert tasks.can_write_profiles({})
        monkeypatch.setattr(lineage, "newest_model", refuse)
        assert reason() == "every model is trained on later data than f1"
        assert not tasks.can_write_profiles({})
