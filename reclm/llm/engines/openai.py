"""Answer prompts by OpenAI-compatible endpoints.

In: prompts. Out: answers, as the servers return them. Requests run concurrently, start no faster than
`openai.requests_per_minute`, and go to the endpoint with the fewest open requests. Failures that may pass are retried
after the time that the server names (Retry-After) or a time that doubles: time-outs, 408, 409, 429, 5xx, connections
refused or dropped, replies without an answer. A request field that the model refuses is changed once and for all
(`replies.py`). Any other failure ends the run, and so do first answers of which none is a profile; finished answers are
kept. The API key is read from the environment when it is used and appears in no message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.engines.base import Answer
from reclm.llm.engines.replies import FirstAnswers, RequestFields, is_page, message_of
from reclm.llm.prompts.messages import Message
from reclm.profiles import grammar

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Model
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
YOUNG = 86_400.0
"""Age in seconds below which a model's `created` may be the time of the request: some servers put their clock there."""
CLOCK_PAUSE = 1.1
"""Seconds after which such a clock shows another time."""


class ServedModel(NamedTuple):
    """The model that an endpoint serves: its name, and which state of it (`openai.revision`), '' when unknown."""

    model: str
    revision: str


class _NoAnswerError(Exception):
    """Raised for a reply that is not a chat completion."""


@dataclass
class _Endpoint:
    """One server, its model and its number of open requests."""

    base_url: str
    client: AsyncOpenAI
    model: str = ""
    revision: str = ""
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
        self._fields = RequestFields(self.settings.extra, self._describe)
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
        self.revision = "; ".join(sorted({endpoint.revision for endpoint in self._endpoints}))
        self.version = f"chat-completions {self.revision}".strip()  # answers of another revision are not its own
        self._first = FirstAnswers(f"{self.model_version!r} at {self.settings.base_url}")

    async def _find_models(self) -> None:
        """Find the model of each endpoint, and whether vLLM serves it. All endpoints must serve the same model."""
        for endpoint in self._endpoints:
            models = await self._until_answered(endpoint, _listed)
            model_id = self.settings.model or (models[0].id if models else "")
            if not model_id:
                raise ModelError(f"{endpoint.base_url} lists no model; name one as openai.model")
            endpoint.model = model_id
            served = next((model for model in models if model.id == model_id), None)
            endpoint.is_vllm = served is not None and served.owned_by == VLLM
            endpoint.revision = self.settings.revision or await self._revision(endpoint, served)
        names = {endpoint.model for endpoint in self._endpoints}
        if len(names) > 1:
            raise ModelError(
                f"the endpoints serve different models ({', '.join(sorted(names))}); name one as openai.model"
            )

    async def _revision(self, endpoint: _Endpoint, model: Model | None) -> str:
        """Return what the server says about the state of its model: where it comes from, and since when it exists."""
        root, created = getattr(model, "root", None), getattr(model, "created", None)
        if endpoint.is_vllm:
            created = None  # the time of the request
        elif created and time.time() - created < YOUNG:
            await asyncio.sleep(CLOCK_PAUSE)
            again = await self._until_answered(endpoint, _listed)
            if not any(one.id == endpoint.model and one.created == created for one in again):
                created = None
        about = {"root": root if root != endpoint.model else None, "created": created}
        return ", ".join(f"{name} {value}" for name, value in about.items() if value)

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
        body: dict[str, Any] = {"temperature": temperature, "max_tokens": self.settings.max_tokens or max_tokens}

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
            # vLLM on a CPU takes no seed per request; its answers are greedy, or sampled by the server's own state
            options: dict[str, Any] = {} if endpoint.is_vllm else {"seed": seed}
            if structured and endpoint.is_vllm:
                options["structured_outputs"] = {"regex": grammar.pattern()}
            reply = await self._complete(endpoint, messages, body | options)
            if not getattr(reply, "choices", None) or reply.choices[0].message is None:
                raise _NoAnswerError(_what_else(reply))
            return reply

        started = time.monotonic()
        reply = await self._until_answered(None, once)
        elapsed = (time.monotonic() - started) * 1000
        if structured:
            self._first.see(reply.choices[0])
        text = (reply.choices[0].message.content or "").strip()
        tokens = reply.usage.completion_tokens if reply.usage else 0
        self._usage.prompt_tokens += reply.usage.prompt_tokens if reply.usage else 0
        self._usage.answer_tokens += tokens
        return Answer(text, tokens, elapsed)

    async def _complete(self, endpoint: _Endpoint, messages: list[Message], fields: dict[str, Any]) -> ChatCompletion:
        """Send one request; again with other fields while the model refuses some of these."""
        import openai

        create: Any = endpoint.client.chat.completions.create
        while True:
            sent = self._fields.of(fields)
            try:
                reply: ChatCompletion = await create(
                    model=endpoint.model, messages=[dict(one) for one in messages], extra_body=sent
                )
            except openai.APIStatusError as error:
                if not self._fields.adapt(error, sent):
                    raise
            else:
                return reply

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
        line = message_of(error)
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


async def _listed(endpoint: _Endpoint) -> list[Model]:
    """Return the models that an endpoint lists."""
    listed = await endpoint.client.models.list()
    if not hasattr(listed, "data"):
        raise _NoAnswerError(_what_else(listed))
    return listed.data or []


def _what_else(reply: Any) -> str:
    if isinstance(reply, str) and is_page(reply):
        return "an HTML page and no JSON; check openai.base_url"
    return "a reply of another form"


def served_model(settings: Settings, *, retries: int | None = None) -> ServedModel:
    """Return the model and revision of the settings, or else what the endpoint serves.

    Raises ModelError when the endpoint does not answer after `retries` retries (default: `openai.retries`), or names no
    model.
    """
    if settings.openai.model and settings.openai.revision:
        return ServedModel(settings.openai.model, settings.openai.revision)
    if retries is not None:
        settings = settings.model_copy(update={"openai": settings.openai.model_copy(update={"retries": retries})})
    engine = OpenAIEngine(settings)
    engine.close()
    return ServedModel(engine.model_version, engine.revision)


def request_parameters(settings: Settings) -> dict[str, Any]:
    """Return the settings of the section `openai` that an answer depends on besides the model."""
    extra = {"extra": settings.openai.extra} if settings.openai.extra else {}
    return {"max_tokens": settings.openai.max_tokens or settings.llm.max_profile_tokens, **extra}


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
