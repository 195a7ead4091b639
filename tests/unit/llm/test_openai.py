"""The endpoint's engine with a server that fails in many ways: every prompt is answered once, none is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty_endpoint import FAULTS, KEY, Fault, Server, completion, says, status

from reclm.errors import ModelError
from reclm.llm.engines import openai
from reclm.llm.engines.answers import generate
from reclm.llm.engines.openai import OpenAIEngine
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.requests import Request
from reclm.profiles import grammar
from reclm.settings.tree import Settings

PROMPTS = [f"taste {number}" for number in range(30)]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(openai, "FIRST_WAIT", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started: list[Server] = []

    def make(*faults: Fault, **options: Any) -> Server:
        started.append(Server(faults, **options))
        return started[-1]

    yield make
    for server in started:
        server.stop()


def settings(*servers: Server, **options: Any) -> Settings:
    urls = ",".join(server.url for server in servers)
    return Settings(
        openai={"base_url": urls, "timeout": 0.4, **options},  # type: ignore[arg-type]
        profiles={"engine": "openai", "shard_size": 8},  # type: ignore[arg-type]
    )


def ask(chosen: Settings, folder: Path, prompts: Sequence[str] = PROMPTS) -> dict[str, str]:
    """{prompt: answer}, through the writing of shards, as the stages do it."""
    messages: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in prompts]
    engine = OpenAIEngine(chosen)
    try:
        rows = generate(chosen, engine, [Request("user", one) for one in messages], folder)
    finally:
        engine.close()
    assert all(row.model_version == "m-1" for row in rows.values())
    return dict(zip(prompts, (row.text for row in rows.values()), strict=True))


def expected(prompts: Sequence[str] = PROMPTS) -> dict[str, str]:
    return {prompt: f"User identity: reader; User interests: {prompt}" for prompt in prompts}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_the_request_is_retried_after(self, fault: str, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(FAULTS[fault])
        assert ask(settings(server), tmp_path, PROMPTS[:3]) == expected(PROMPTS[:3])
        assert server.answered == Counter(PROMPTS[:3])

    def test_all_of_them_together_lose_and_repeat_nothing(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(*(fault for fault in FAULTS.values() for _ in range(2)))
        assert ask(settings(server), tmp_path) == expected()
        assert server.answered == Counter(PROMPTS)

    def test_the_servers_retry_after_is_obeyed(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(status(429, Retry_After="0.3"))
        ask(settings(server), tmp_path, PROMPTS[:1])
        assert 0.3 <= server.begun[1] - server.begun[0] < 2

    def test_without_one_the_waiting_time_doubles(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(*[status(500)] * 4)
        ask(settings(server), tmp_path, PROMPTS[:1])
        gaps = [late - early for early, late in zip(server.begun, server.begun[1:], strict=False)]
        assert all(gap >= 0.02 * 2**place for place, gap in enumerate(gaps))

    def test_a_server_that_dies_and_comes_back_is_waited_for(
        self, start: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(openai, "FIRST_WAIT", 0.1)
        first = start()
        first.pause = 0.05
        chosen, returned = settings(first, concurrency=2), []

        def die_and_return() -> None:
            while len(first.answered) < 6:
                time.sleep(0.01)
            first.stop()
            time.sleep(0.3)
            returned.append(start(port=first.server_address[1]))

        thread = threading.Thread(target=die_and_return)
        thread.start()
        answers = ask(chosen, tmp_path)
        thread.join()
        assert answers == expected()
        assert set(first.answered) | set(returned[0].answered) == set(PROMPTS)
        assert returned[0].answered.total() >= len(PROMPTS) - first.answered.total()

    def test_a_server_that_stays_down_ends_the_run_and_a_later_run_continues(
        self, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start()
        ask(settings(server), tmp_path / "warm-up", PROMPTS[:1])
        server.faults += [says(completion(f"User identity: a; User interests: {n}")) for n in range(8)]
        server.faults += [status(503)] * 500
        with pytest.raises(ModelError, match="gave no answer in 3 tries"):
            ask(settings(server, retries=2), tmp_path / "run")
        server.faults.clear()
        before = server.answered.total()
        answers = ask(settings(server), tmp_path / "run")
        assert len(answers) == len(PROMPTS)
        assert server.answered.total() - before == len(PROMPTS) - 8


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "remedy"), [(401, "OPENAI_API_KEY"), (404, "openai.base_url"), (400, "documentation")]
    )
    def test_other_failures_end_the_run_at_once_without_showing_the_key(
        self, code: int, remedy: str, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start(*[status(code)] * 20)
        with pytest.raises(ModelError, match=remedy) as raised:
            ask(settings(server, concurrency=1), tmp_path, PROMPTS[:3])
        assert KEY not in str(raised.value)
        assert len(server.bodies) == 1

    def test_the_message_names_an_endpoint_that_does_not_exist(
        self, tmp_path: Path, start: Callable[..., Server]
    ) -> None:
        server = start()
        chosen = settings(server, retries=1)
        server.stop()
        with pytest.raises(ModelError, match=r"127\.0\.0\.1"):
            OpenAIEngine(chosen)


class TestRequests:
    def test_the_first_listed_model_is_asked_with_the_key_of_the_environment(
        self, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start()
        ask(settings(server), tmp_path, PROMPTS[:2])
        for body in server.bodies:
            assert (body["model"], body["authorization"]) == ("m-1", f"Bearer {KEY}")
            assert body["temperature"] == 0.0
            assert body["seed"] == Settings().seed
            assert body["max_tokens"] == Settings().llm.max_profile_tokens
            assert "structured_outputs" not in body

    def test_a_vllm_server_gets_the_grammar_and_no_seed(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(owner="vllm")
        ask(settings(server), tmp_path, PROMPTS[:1])
        assert server.bodies[0]["structured_outputs"] == {"regex": grammar.pattern()}
        assert "seed" not in server.bodies[0]

    def test_open_requests_are_limited(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start()
        server.pause = 0.03
        ask(settings(server, concurrency=3), tmp_path)
        assert server.most_under_way == 3

    def test_requests_per_minute_are_limited(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start()
        ask(settings(server, requests_per_minute=1200), tmp_path, PROMPTS[:10])
        assert max(server.begun) - min(server.begun) >= 9 * 0.05 * 0.9

    def test_several_endpoints_share_the_work(self, start: Callable[..., Server], tmp_path: Path) -> None:
        servers = [start(), start()]
        for server in servers:
            server.pause = 0.02
        assert ask(settings(*servers), tmp_path) == expected()
        assert servers[0].answered + servers[1].answered == Counter(PROMPTS)
        assert min(server.answered.total() for server in servers) >= 5

    def test_the_others_take_the_work_of_one_that_is_down(self, start: Callable[..., Server], tmp_path: Path) -> None:
        servers = [start(), start()]
        engine_settings = settings(*servers)
        engine = OpenAIEngine(engine_settings)
        servers[1].stop()
        messages: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        rows = generate(engine_settings, engine, [Request("user", one) for one in messages], tmp_path)
        engine.close()
        assert len(rows) == len(PROMPTS) == servers[0].answered.total()

    def test_usage_and_cost_add_up(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(status(500))
        engine = OpenAIEngine(settings(server, price_in=2.0, price_out=4.0))
        options = {"temperature": 0.0, "seed": 1, "max_tokens": 8, "structured": False}
        messages: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:4]]
        answers = dict(engine.answer(messages, kinds=["user"] * 4, **options))  # type: ignore[arg-type]
        assert sorted(answers) == [0, 1, 2, 3]
        assert engine.usage() == {"requests": 6, "retries": 1, "prompt_tokens": 40, "answer_tokens": 20}
        assert engine.cost() == pytest.approx((40 * 2 + 20 * 4) / 1e6)
        engine.close()
