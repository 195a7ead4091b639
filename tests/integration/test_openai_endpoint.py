"""The endpoint's engine against vLLM's own server, directly and through a proxy that fails, and when killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from faulty_endpoint import FAULTS, Server
from llm_world import dialogues, tiny_base

from reclm.llm.engines.answers import GenerationRow, generate
from reclm.llm.engines.opening import open_engine
from reclm.llm.prompts.messages import profile_request
from reclm.llm.prompts.requests import Request
from reclm.settings.tree import Settings

pytestmark = pytest.mark.full
STARTS_WITHIN = 300.0
REQUESTS = [Request("user", profile_request(dialogue.facts, "compact")) for dialogue in dialogues()][:40]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def vllm_server(model: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM's server on loopback, in a process group of its own that ends with the block."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    words = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager",
    ]  # fmt: skip
    with (model / f"server-{port}.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=model, start_new_session=True)
    try:
        _wait_until_it_answers(process, port, model / f"server-{port}.log")
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("vllm") is None:
        pytest.fail("vLLM is not installed; pip install 'reclm[vllm]'")
    return tiny_base(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def port(model: Path) -> Iterator[int]:
    chosen = free_port()
    with vllm_server(model, chosen):
        yield chosen


def settings(url: str, **endpoint: object) -> Settings:
    return Settings(
        openai={"base_url": url, "timeout": 30.0, **endpoint},  # type: ignore[arg-type]
        profiles={"engine": "openai", "shard_size": 16, "retries": 1},  # type: ignore[arg-type]
        llm={"max_profile_tokens": 32},  # type: ignore[arg-type]
    )


def ask(chosen: Settings, folder: Path) -> dict[str, GenerationRow]:
    with open_engine(chosen, "") as engine:
        assert engine.model_version == "tiny"
        return generate(chosen, engine, REQUESTS, folder)


class TestVllmsServer:
    def test_every_prompt_is_answered_through_a_proxy_that_fails(self, port: int, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{port}/v1"
        direct = ask(settings(url), tmp_path / "direct")
        assert len(direct) == len({row.prompt_hash for row in direct.values()}) > 30
        assert all(row.tokens > 0 and row.text for row in direct.values())
        faults = [fault for name, fault in FAULTS.items() if "malformed" not in name and "null" not in name]
        proxy = Server(faults * 2, upstream=url)
        try:
            behind = ask(settings(proxy.url), tmp_path / "behind")
        finally:
            proxy.stop()
        assert list(behind) == list(direct)
        assert not proxy.faults
        first_tries = [key for key in direct if direct[key].attempts == behind[key].attempts == 1]
        assert all(direct[key].text == behind[key].text for key in first_tries)

    def test_a_server_killed_half_way_and_started_again_loses_nothing(self, model: Path, tmp_path: Path) -> None:
        chosen, rows = free_port(), {}
        proxy_free = settings(f"http://127.0.0.1:{chosen}/v1", concurrency=2, retries=12)
        with vllm_server(model, chosen) as first:
            asking = threading.Thread(target=lambda: rows.update(ask(proxy_free, tmp_path / "run")))
            asking.start()
            while not list((tmp_path / "run").glob("generations-*.parquet")):
                time.sleep(0.02)
            end(first)
            with vllm_server(model, chosen):
                asking.join()
        assert set(rows) == set(ask_hashes())
        assert all(row.text for row in rows.values())


def ask_hashes() -> list[str]:
    from reclm.llm.prompts.requests import prompt_hash

    return [prompt_hash(request.messages) for request in REQUESTS]
