"""The endpoint's engine with a server that fails in many ways: every prompt is answered once, none is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty_endpoint import FAULTS, KEY, Fault, Server, completion, refuses, says, status

from reclm.errors import ModelError, SettingsError
from reclm.llm.engines import openai
from reclm.llm.engines.answers import generate
from reclm.llm.engines.openai import OpenAIEngine
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.requests import Request
from reclm.profiles import grammar
from reclm.settings.loading import load
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


class TestTalkativeModels:
    @pytest.mark.parametrize(
        "wording",
        ["<think>Hm.</think>\n{}", "```\n{}\n```", "**{}**", 'Sure: {{"profile": "{}"}}', "Here it is.\n\n{}"],
    )
    def test_the_profile_is_taken_from_what_they_say(
        self, wording: str, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start()
        server.wording = wording.format
        assert ask(settings(server), tmp_path) == expected()
        assert server.answered.total() == len(PROMPTS)


class TestFirstAnswersWithoutAProfile:
    @pytest.mark.parametrize(
        ("answer", "cause"),
        [
            (
                completion("", reasoning_content="They like"),
                "content is empty and the reasoning is not: raise openai.max",
            ),
            (completion(None, reasoning="They like"), "turn reasoning off with openai.extra"),
            (completion("<think>They", "length"), "cut off: raise openai.max_tokens"),
            (completion(None, refusal="I cannot help."), "refuses to answer: I cannot help"),
            (completion("", "content_filter"), "refuses to answer: content filter"),
            (completion("<!DOCTYPE html><p>Log in"), "HTML page: check openai.base_url"),
            (completion(""), "it is empty"),
            (completion("It rains."), "try another model"),
        ],
    )
    def test_end_the_run_with_one_of_them_and_the_likely_cause(
        self, answer: dict[str, Any], cause: str, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start(*[says(answer)] * 500)
        with pytest.raises(ModelError, match="none of the first 20 answers of 'm-1'") as raised:
            ask(settings(server, concurrency=1), tmp_path)
        assert cause in str(raised.value)
        assert repr(answer["choices"][0]["message"]["content"] or "") in str(raised.value)
        assert len(server.bodies) == 20

    def test_do_not_end_it_where_one_was_good(self, start: Callable[..., Server], tmp_path: Path) -> None:
        bad = says(completion("It rains."))
        server = start(says(completion("User identity: a; User interests: b")), *[bad] * 60)
        answers = ask(settings(server, concurrency=1), tmp_path)
        assert len(answers) == len(PROMPTS)

    def test_that_are_fewer_are_counted_and_one_is_said(
        self, start: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server = start(*[says(completion("It rains."))] * 19)
        ask(settings(server), tmp_path, PROMPTS[:3])
        tries = Settings().profiles.retries + 1
        said = f"3 of 3 answers hold no profile after {tries} tries; the first: 'It rains.'"
        assert said in capsys.readouterr().err

    def test_are_an_html_page_that_is_named(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start(*[says(b"<html><body>Please log in</body></html>")] * 9)
        with pytest.raises(ModelError, match="an HTML page and no JSON: <html><body>Please log in"):
            ask(settings(server, retries=1), tmp_path, PROMPTS[:1])


class TestRequestFields:
    UNSUPPORTED = "Unsupported parameter: {!r} is not supported with this model."

    def test_a_model_that_wants_another_name_for_max_tokens_gets_it_and_is_told_once(
        self, start: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = self.UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead."
        server = start(refuses("max_tokens", message))
        assert ask(settings(server, concurrency=1), tmp_path) == expected()
        refused, *others = server.bodies
        assert refused["max_tokens"] == others[0]["max_completion_tokens"] == Settings().llm.max_profile_tokens
        assert not any("max_tokens" in body for body in others)
        said = capsys.readouterr().err
        assert (
            said.count("the model refuses the request field 'max_tokens'; it is sent as 'max_completion_tokens'") == 1
        )
        assert KEY not in said

    @pytest.mark.parametrize("field", ["temperature", "seed"])
    def test_a_model_with_its_own_value_is_left_it(
        self, field: str, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        message = f"Unsupported value: {field!r} does not support 0 with this model. Only the default is supported."
        server = start(refuses(field, message))
        assert ask(settings(server, concurrency=1), tmp_path) == expected()
        assert field in server.bodies[0]
        assert not any(field in body for body in server.bodies[1:])

    def test_one_request_may_need_several_changes_and_many_may_be_refused_at_once(
        self, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start()

        def choosy(handler: Any) -> None:
            body = server.bodies[-1]
            field = next((name for name in ("max_tokens", "temperature", "seed") if name in body), None)
            if field:
                refuses(field, self.UNSUPPORTED.format(field), 422)(handler)
            else:
                says(completion("User identity: reader; User interests: " + body["messages"][-1]["content"]))(handler)

        server.faults += [choosy] * 500
        server.pause = 0.02
        chosen = settings(server, concurrency=1)
        assert ask(chosen, tmp_path) == expected()
        assert len(server.bodies) == len(PROMPTS) + 3

    @pytest.mark.parametrize("message", ["max_tokens is too large", "the prompt is too long"])
    def test_another_fault_of_a_field_ends_the_run(
        self, message: str, start: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = start(refuses("max_tokens", message))
        with pytest.raises(ModelError, match=message):
            ask(settings(server, concurrency=1), tmp_path, PROMPTS[:1])

    def test_settings_add_and_replace_and_leave_out_fields(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start()
        extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "seed": None}
        ask(settings(server, max_tokens=4000, extra=extra), tmp_path, PROMPTS[:1])
        body = server.bodies[0]
        assert (body["max_tokens"], body["reasoning_effort"]) == (4000, "low")
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert "seed" not in body

    def test_they_are_read_from_a_flag_a_variable_and_a_file(self, tmp_path: Path) -> None:
        file, value = tmp_path / "reclm.toml", '{"top_p": 0.9}'
        file.write_text("[openai.extra]\ntop_p = 0.9\n")
        by_flag, by_file = load([f"openai.extra={value}"], environment={}), load(file=file, environment={})
        by_variable = load(environment={"RECLM_OPENAI__EXTRA": value})
        assert by_flag.openai.extra == by_file.openai.extra == by_variable.openai.extra == {"top_p": 0.9}
        with pytest.raises(SettingsError, match="not a JSON object"):
            load(["openai.extra=top_p"], environment={})


class TestRevision:
    def of(self, chosen: Settings) -> str:
        engine = OpenAIEngine(chosen)
        engine.close()
        return engine.revision

    def test_is_where_the_model_comes_from_and_since_when_it_exists(self, start: Callable[..., Server]) -> None:
        server = start()
        server.about = {"root": "/models/tuned-7", "created": 1_700_000_000}
        assert self.of(settings(server)) == "root /models/tuned-7, created 1700000000"

    def test_is_empty_where_the_server_says_nothing(self, start: Callable[..., Server]) -> None:
        server = start()
        server.about = {"root": "m-1"}
        assert self.of(settings(server)) == ""

    def test_a_young_model_is_believed_and_a_clock_is_not(
        self, start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(openai, "CLOCK_PAUSE", 0)
        server, now = start(), int(time.time())
        server.about = {"created": now}
        assert self.of(settings(server)) == f"created {now}"
        server.about = {"created": lambda: now + server.listings}
        assert self.of(settings(server)) == ""

    def test_a_vllm_server_has_the_time_of_the_request_there(self, start: Callable[..., Server]) -> None:
        server = start(owner="vllm")
        server.about = {"root": "/models/tuned-7", "created": 1_700_000_000}
        assert self.of(settings(server)) == "root /models/tuned-7"

    def test_that_the_settings_name_needs_no_server(self, start: Callable[..., Server]) -> None:
        server = start()
        server.about = {"created": 1_700_000_000}
        assert self.of(settings(server, revision="of May")) == "of May"
        assert openai.served_model(settings(server, model="m-1", revision="of May")) == ("m-1", "of May")
        assert server.listings == 1

    def test_answers_of_another_one_are_not_reused(self, start: Callable[..., Server], tmp_path: Path) -> None:
        server = start()
        first, second = settings(server, revision="of May"), settings(server, revision="of June")
        ask(first, tmp_path)
        ask(first, tmp_path)
        assert server.answered.total() == len(PROMPTS)
        ask(second, tmp_path)
        assert server.answered.total() == 2 * len(PROMPTS)
