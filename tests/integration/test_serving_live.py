"""The service as a process: promotions and a dying Redis under load, a fuzzer, Ctrl-C, an address that needs a key."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration import pipeline, served
from integration import serving_world as world
from integration.servers import free_port

from reclm.serving import api_keys

pytestmark = pytest.mark.full
FLAGS = ("runtime.threads=1", "serve.search=false", "serve.reload_seconds=0.1")
BODIES = (
    {"user_id": "user 3"},
    {"user_id": "user 20", "k": 5},
    {"user_id": world.NEWCOMER},
    {"history": ["item '10'", "item '12'"]},
    {},
)


@contextmanager
def redis_that_keeps(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A Redis server that writes every change to disk, so that it has its data after a kill and restart."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed; `apt-get install redis-server`"
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]
    with subprocess.Popen([program, *options], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("eady to accept connections" in line for line in server.stdout)
        try:
            yield server
        finally:
            server.kill()


class TestUnderLoad:
    def test_twenty_promotions_fail_no_request(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        models = [world.fit(settings, world.shop_data(), "biasmf", "augment", seed=seed) for seed in (2, 3)]
        versions = [world.promote(settings, model) for model in models]
        with (
            served.service(settings.paths.root, FLAGS) as service,
            served.crowd(service.url, BODIES) as seen,
        ):
            for turn in range(20):
                world.promote(settings, models[turn % 2])
                deadline = time.monotonic() + 20
                while service.ask()["model"]["version"] != versions[turn % 2]:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
        assert seen.errors == []
        assert seen.statuses == {200}
        assert {body["model"]["version"] for _, _, body in seen.answers} == set(versions)
        assert len(seen.answers) > 200

    def test_redis_killed_and_started_again_costs_no_answer(self, tmp_path: Path) -> None:
        port = free_port()
        flags = ("feast.online_store=redis", f"feast.redis_url=localhost:{port},db=0")
        with redis_that_keeps(tmp_path, port) as first:
            settings = world.open_shop(tmp_path / "shop", *flags)
            with (
                served.service(settings.paths.root, (*FLAGS, *flags)) as service,
                served.crowd(service.url, BODIES) as seen,
            ):
                time.sleep(1)
                first.kill()
                first.wait()
                deadline = time.monotonic() + 10
                while service.get("/health/ready").json()["status"] != "degraded":
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                time.sleep(
                    12
                )  # longer than a client's default time limit, which would still be waiting when Redis is back
                with redis_that_keeps(tmp_path, port):
                    back = time.monotonic()
                    while service.get("/health/ready").json()["status"] != "ready":
                        assert time.monotonic() < back + 5, "did not recover within five seconds"
                        time.sleep(0.05)
                    time.sleep(0.5)
                    assert service.ask(user_id=world.NEWCOMER)["source"] == "profile"
                    last = [body for _, _, body in seen.answers if body["user_id"] is not None][-1]
        assert seen.errors == []
        assert seen.statuses == {200}
        labels = {body["degraded"] is None for _, _, body in seen.answers if body["user_id"] is not None}
        assert labels == {True, False}
        assert last["degraded"] is None
        away = [body for _, _, body in seen.answers if body["degraded"] and body["user_id"] == "user 3"]
        assert {body["source"] for body in away} == {"trained"}


class TestAFuzzer:
    def test_that_follows_links_finds_no_server_error_and_nothing_undocumented(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        with served.service(settings.paths.root, [*FLAGS, "serve.search=true"]) as service:
            body = {"query": "a dragon"}
            deadline = time.monotonic() + 120
            while served.httpx.post(f"{service.url}/v1/search", json=body, timeout=20).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            done = subprocess.run(
                [
                    *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"),
                    *("--checks", "all", "--max-examples", "40", "--seed", "1"),
                    # settings bound `k`, and lists must exist: what a schema cannot say. An item id may end with
                    # `/availability`, so its path takes GET as well.
                    *("--exclude-checks", "positive_data_acceptance,allow_header_conformance"),
                    *("--phases", "examples,coverage,fuzzing,stateful"),
                ],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=600,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-6000:]
        links = re.search(r"API Links: +(\d+) covered / (\d+) selected", done.stdout)
        assert links is not None and 2 * int(links[1]) > int(links[2]), done.stdout[-6000:]
        assert "Traceback" not in (settings.paths.root / "serve.log").read_text()


class TestTheProcess:
    def test_refuses_to_be_open_to_others_without_a_key(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        done = pipeline.reclm(
            "serve", "-w", str(settings.paths.root), "--host", "0.0.0.0", "--port", "0", folder=tmp_path
        )
        assert done.returncode == 2
        assert "reclm key add" in done.stderr

    def test_needs_a_champion_and_names_the_command_that_makes_one(self, tmp_path: Path) -> None:
        done = pipeline.reclm("serve", "-w", str(tmp_path / "empty"), "--port", "0", folder=tmp_path)
        assert done.returncode == 4
        assert "reclm run" in done.stderr

    def test_ends_at_ctrl_c_and_its_log_has_no_ids(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        with served.service(settings.paths.root, FLAGS) as service:
            service.ask(user_id="user 3", history=["item '10'"])
            service.get("/v1/users/user%203")
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(timeout=20) == 0
        said = (settings.paths.root / "serve.log").read_text()
        assert "/v1/users/{user_id:path} 200" in said
        assert "user 3" not in said and "user%203" not in said and "item '" not in said
        assert "Traceback" not in said

    def test_two_workers_answer_are_replaced_and_end_with_their_parent(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        token = api_keys.add(settings.paths, "shop", ["admin"])
        headers = {"authorization": f"Bearer {token}"}
        with served.service(settings.paths.root, [*FLAGS, "serve.workers=2"]) as service:
            first = served.serving_processes(service.process.pid)
            for _ in range(40):  # a connection each, so that both processes answer some
                assert service.get("/v1/users/user%203", headers=headers).json()["trained"] is True
            counter = 'reclm_requests_total{route="/v1/users/{user_id:path}",status="200"}'
            assert f"{counter} 40.0" in service.get("/metrics", headers=headers).text
            os.kill(first[0], signal.SIGKILL)
            served.until(lambda: len(set(served.serving_processes(service.process.pid)) - set(first)) == 1)
            assert service.get("/health/ready").status_code == 200
            os.kill(first[1], signal.SIGKILL)  # now only processes that replaced others can answer
            served.until(lambda: not set(served.serving_processes(service.process.pid)) & set(first))
            for _ in range(5):
                assert service.get("/v1/users/user%203", headers=headers).status_code == 200
            last = served.serving_processes(service.process.pid)
            service.process.kill()
            served.until(lambda: not any(served.runs(pid) for pid in last))

    def test_workers_that_cannot_start_say_why(self, tmp_path: Path) -> None:
        root = str(tmp_path / "empty")
        done = pipeline.reclm("serve", "-w", root, "--port", "0", "--workers", "2", folder=tmp_path)
        assert done.returncode == 4
        assert "reclm run" in done.stderr

    def test_a_key_is_printed_once_and_works_at_once(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        root = str(settings.paths.root)
        with served.service(settings.paths.root, FLAGS) as service:
            assert service.get("/v1/users/user%203").status_code == 200
            made = pipeline.reclm("key", "add", "shop", "--scope", "explore", "-w", root, folder=tmp_path)
            assert made.returncode == 0
            assert service.get("/v1/users/user%203").status_code == 401
            headers = {"authorization": f"Bearer {made.stdout.strip()}"}
            assert service.get("/v1/users/user%203", headers=headers).status_code == 200
            listed = pipeline.reclm("key", "list", "-w", root, folder=tmp_path).stdout
            assert listed.startswith("shop") and made.stdout.strip() not in listed
            again = pipeline.reclm("key", "add", "shop", "-w", root, folder=tmp_path)
            assert again.returncode == 3


class TestSql:
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        settings = world.settings_of(tmp_path / "shop")
        world.write_tables(settings, world.shop_data())
        return str(settings.paths.root)

    def test_answers_as_table_csv_or_json(self, tmp_path: Path, root: str) -> None:
        query = "select user_id, n_interactions from fct_user_status order by user_id limit 2"
        ask = [
            pipeline.reclm("sql", query, "-f", form, "-w", root, folder=tmp_path) for form in ("table", "csv", "json")
        ]
        assert [one.returncode for one in ask] == [0, 0, 0]
        assert "(2 rows)" in ask[0].stdout
        assert ask[1].stdout == "user_id,n_interactions\nuser 0,7\nuser 1,7\n"
        assert [json.loads(line)["user_id"] for line in ask[2].stdout.splitlines()] == ["user 0", "user 1"]

    @pytest.mark.parametrize(
        "query",
        [
            "delete from dim_items",
            "create table mine as select 1",
            "select * from read_csv('/etc/passwd')",
            "copy dim_items to '/tmp/stolen.csv'",
            "attach '/tmp/other.duckdb'",
            "set enable_external_access = true",
            "select nonsense",
        ],
    )
    def test_cannot_change_anything_or_read_anything_else(self, tmp_path: Path, root: str, query: str) -> None:
        done = pipeline.reclm("sql", query, "-w", root, folder=tmp_path)
        assert done.returncode == 3
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
