"""Answer prompts by OpenAI-compatible endpoints.

In: prompts. Out: answers, as the servers return them. Requests run concurrently, start no faster than
`openai.requests_per_minute`, and go to the endpoint with the fewest open requests. Failures that may pass are retried
after the time that the server names (Retry-After) or a time that doubles: time-outs, 408, 409, 429, 5xx, connections
refused or dropped, replies without an answer. Any other failure ends the run; finished answers are kept. The API key is
read from the environment when it is used and appears in no message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.engines.base import Answer
from reclm.llm.prompts.messages import Message
from reclm.profiles import grammar

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

    from reclm.settings.tree import Settings

VLLM = "vllm"
"""The owner that a vLLM server names for its models."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first retry, and at most before any."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds that a server's Retry-After may ask for at most."""
RETRIED_STATUSES = {408, 409, 429}
NO_KEY = "none"


class _NoAnswerError(Exception):
    """Raised for a reply that is not a chat completion."""


@dataclass
class _Endpoint:
    """One server, its model and its number of open requests."""

    base_url: str
    client: AsyncOpenAI
    model: str = ""
    is_vllm: bool = False
    open_requests: int = 0
    refused: int = 0


@dataclass
class _Usage:
    """Requests and tokens so far."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass
class _Pace:
    """Spaces requests `gap` seconds apart."""

    gap: float
    next_at: float = field(default=0.0)

    async def wait(self) -> None:
        now = time.monotonic()
        begin = max(now, self.next_at)
        self.next_at = begin + self.gap
        if begin > now:
            await asyncio.sleep(begin - now)


class OpenAIEngine:
    """Chat completions of the endpoints in `openai.base_url`, separated by commas.

    Raises ModelError if none lists a model.
    """

    name = "openai"

    def __init__(self, settings: Settings) -> None:
        from openai import AsyncOpenAI

        self.settings = settings.openai
        self.version = "chat-completions"
        key = os.environ.get(self.settings.api_key_env) or NO_KEY
        self._key = key
        self._runner = asyncio.Runner()
        self._usage = _Usage()
        per_minute = self.settings.requests_per_minute
        self._pace = _Pace(60 / per_minute if per_minute else 0.0)
        urls = [url.strip() for url in self.settings.base_url.split(",") if url.strip()]
        if not urls:
            raise ModelError("openai.base_url is empty; give the address of an OpenAI-compatible endpoint")
        self._endpoints = [
            _Endpoint(url, AsyncOpenAI(base_url=url, api_key=key, timeout=self.settings.timeout, max_retries=0))
            for url in urls
        ]
        try:
            self._runner.run(self._find_models())
        except BaseException:
            self.close()
            raise
        self.model_version = self._endpoints[0].model

    async def _find_models(self) -> None:
        """Find the model of each endpoint, and whether vLLM serves it. All endpoints must serve the same model."""
        for endpoint in self._endpoints:
            listed = await self._until_answered(endpoint, lambda one: one.client.models.list())
            models = listed.data or []
            model_id = self.settings.model or (models[0].id if models else "")
            if not model_id:
                raise ModelError(f"{endpoint.base_url} lists no model; name one as openai.model")
            endpoint.model = model_id
            endpoint.is_vllm = any(model.id == model_id and model.owned_by == VLLM for model in models)
        served = {endpoint.model for endpoint in self._endpoints}
        if len(served) > 1:
            raise ModelError(
                f"the endpoints serve different models ({', '.join(sorted(served))}); name one as openai.model"
            )

    def answer(
        self,
        prompts: Sequence[list[Message]],
        *,
        kinds: Sequence[EntityKind],
        temperature: float,
        seed: int,
        max_tokens: int,
        structured: bool,
    ) -> Iterator[tuple[int, Answer]]:
        waiting = iter(range(len(prompts)))
        ready: list[tuple[int, Answer]] = []
        body: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}

        async def work() -> None:
            for row in waiting:
                ready.append((row, await self._ask(prompts[row], body, seed, structured)))  # noqa: PERF401

        async def next_answers(workers: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
            """Wait until there are answers or no worker is left; the error of one worker ends all."""
            while workers and not ready:
                done, workers = await asyncio.wait(workers, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for worker in done:
                    worker.result()
            return workers

        async def start() -> set[asyncio.Task[None]]:
            return {asyncio.ensure_future(work()) for _ in range(min(self.settings.concurrency, len(prompts)))}

        async def stop(workers: set[asyncio.Task[None]]) -> None:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

        workers = self._runner.run(start())
        all_workers = set(workers)
        try:
            while workers or ready:
                workers = self._runner.run(next_answers(workers))
                while ready:
                    yield ready.pop(0)
        finally:
            self._runner.run(stop(all_workers))

    async def _ask(self, messages: list[Message], body: dict[str, Any], seed: int, structured: bool) -> Answer:
        async def once(endpoint: _Endpoint) -> ChatCompletion:
            extra: dict[str, Any] = {}
            # vLLM on a CPU takes no seed per request; its answers are greedy, or sampled by the server's own state
            options = {} if endpoint.is_vllm else {"seed": seed}
            if structured and endpoint.is_vllm:
                extra["structured_outputs"] = {"regex": grammar.pattern()}
            reply = await endpoint.client.chat.completions.create(
                model=endpoint.model, messages=[dict(one) for one in messages], extra_body=extra, **body, **options
            )  # type: ignore[call-overload]
            if not getattr(reply, "choices", None) or reply.choices[0].message is None:
                raise _NoAnswerError("a reply without a choice")
            return reply  # type: ignore[no-any-return]

        started = time.monotonic()
        reply = await self._until_answered(None, once)
        elapsed = (time.monotonic() - started) * 1000
        text = (reply.choices[0].message.content or "").strip()
        tokens = reply.usage.completion_tokens if reply.usage else 0
        self._usage.prompt_tokens += reply.usage.prompt_tokens if reply.usage else 0
        self._usage.answer_tokens += tokens
        return Answer(text, tokens, elapsed)

    async def _until_answered(self, fixed: _Endpoint | None, once: Any) -> Any:
        """Return the result of `once`, retried while failures may pass; each try goes to the least busy endpoint."""
        tries = self.settings.retries + 1
        for attempt in range(tries):
            await self._pace.wait()
            endpoint = fixed or min(self._endpoints, key=lambda one: (one.refused + one.open_requests, one.base_url))
            endpoint.open_requests += 1
            self._usage.requests += 1
            try:
                answer = await once(endpoint)
            except Exception as error:
                wait = self._wait_after(error, attempt, endpoint)
                if attempt + 1 == tries:
                    raise ModelError(
                        f"{endpoint.base_url} gave no answer in {tries} tries ({self._describe(error)}); finished "
                        "answers are kept: run the command again to continue, or raise openai.retries"
                    ) from None
            else:
                endpoint.refused = 0
                return answer
            finally:
                endpoint.open_requests -= 1
            self._usage.retries += 1
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    def _wait_after(self, error: Exception, attempt: int, endpoint: _Endpoint) -> float:
        """Return the seconds until the next try. Raises ModelError for a failure that waiting cannot fix."""
        import openai

        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
        if isinstance(error, openai.APIStatusError):
            if error.status_code in RETRIED_STATUSES or error.status_code >= 500:
                return _retry_after(error.response.headers.get("retry-after"), wait)
            remedy = _REMEDIES.get(error.status_code, "see the endpoint's own documentation")
            raise ModelError(
                f"{endpoint.base_url} refuses the request ({self._describe(error)}); "
                + remedy.format(key=self.settings.api_key_env, model=endpoint.model)
            ) from None
        if isinstance(error, openai.APIConnectionError):  # time-outs are among them
            endpoint.refused += 1
            return wait
        if isinstance(
            error, openai.APIResponseValidationError | _NoAnswerError | ValueError | AttributeError | TypeError
        ):
            return wait
        raise error

    def _describe(self, error: Exception) -> str:
        """Return the error in one line, without the API key."""
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return line if self._key == NO_KEY else line.replace(self._key, "…")

    def usage(self) -> dict[str, int]:
        """Return the requests, retries and tokens since the engine was opened."""
        return vars(self._usage).copy()

    def cost(self) -> float:
        """Return the price of that usage, from `openai.price_in` and `openai.price_out`."""
        used = self._usage
        return (used.prompt_tokens * self.settings.price_in + used.answer_tokens * self.settings.price_out) / 1e6

    def close(self) -> None:
        async def close_all() -> None:
            for endpoint in self._endpoints:
                await endpoint.client.close()

        self._runner.run(close_all())
        self._runner.close()


def served_model(settings: Settings, *, retries: int | None = None) -> str:
    """Return `openai.model`, or else the model that the endpoint serves.

    Raises ModelError when the endpoint names none after `retries` retries (default: `openai.retries`).
    """
    if settings.openai.model:
        return settings.openai.model
    if retries is not None:
        settings = settings.model_copy(update={"openai": settings.openai.model_copy(update={"retries": retries})})
    engine = OpenAIEngine(settings)
    engine.close()
    return engine.model_version


_REMEDIES = {
    401: "put a valid key into the environment variable {key}",
    403: "the key in the environment variable {key} may not use this model",
    404: "check openai.base_url (it ends in /v1) and that it serves the model {model!r}",
}


def _retry_after(header: str | None, otherwise: float) -> float:
    """Return the seconds that a Retry-After header names, as a number or a date; `otherwise` when it names none."""
    if not header:
        return otherwise
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return otherwise
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
