"""What the feature store knows of a user, now: an id comes in, one row of `serving_v1` goes out, or the news that it is away.

One thread asks the store. Whatever came in while it was asking goes into its next question together, so many requests
cost little more than one. A look-up that takes longer than `serve.store_timeout_ms` counts as failed; after
`serve.breaker_failures` in a row nobody asks for `serve.breaker_seconds`, then one may try (a circuit breaker, Nygard,
"Release It!", 2007).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reclm.serving.metrics import STORE_AWAY, STORE_SECONDS

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.features.store import Store
    from reclm.settings.tree import Settings

MOST_AT_ONCE = 64
log = logging.getLogger("reclm.serve")


class StoreUnavailableError(Exception):
    """The feature store did not answer; the message says how."""


class FeatureRequest(NamedTuple):
    """One look-up on its way: for whom, of which model, and where the answer is waited for."""

    user_id: str
    version: str
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class CircuitBreaker:
    """Whether the store may be asked. Not locked: only the event loop calls it."""

    def __init__(self, failures: int, seconds: float) -> None:
        self.failures, self.seconds = failures, seconds
        self.in_a_row, self.shut_until, self.reason = 0, 0.0, ""

    @property
    def away(self) -> bool:
        """True from the failure that shut it until a look-up succeeds."""
        return self.in_a_row >= self.failures

    def lets_through(self) -> bool:
        if not self.away:
            return True
        if time.monotonic() < self.shut_until:
            return False
        self.shut_until = time.monotonic() + self.seconds  # this one tries; the others wait for what it finds
        return True

    def failed(self, reason: str) -> None:
        self.in_a_row += 1
        self.reason = reason
        if self.away:
            self.shut_until = time.monotonic() + self.seconds
        STORE_AWAY.set(self.away)

    def succeeded(self) -> None:
        self.in_a_row, self.reason = 0, ""
        STORE_AWAY.set(0)


class FeatureClient:
    """The service's way to the feature store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.timeout = settings.serve.store_timeout_ms / 1000
        self.breaker = CircuitBreaker(settings.serve.breaker_failures, settings.serve.breaker_seconds)
        self._store: Store
        self._questions: queue.SimpleQueue[FeatureRequest | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="feature-store", daemon=True)

    def start(self) -> None:
        """Opens the store and begins to answer. Raises WorkspaceError when nothing was ever published."""
        from reclm.features.online import read_users
        from reclm.features.store import open_for_requests

        self._store = open_for_requests(self.settings, self.timeout)
        with contextlib.suppress(Exception):  # the first look-up takes long; a store that is away now may come back
            read_users(self._store, [""], "")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what it has been asked."""
        self._questions.put(None)

    async def user(self, user_id: str, version: str) -> UserFeatures | None:
        """What is published of the user and of the vector of model `version`; None: nothing. Raises StoreAwayError."""
        if not self.breaker.lets_through():
            raise StoreUnavailableError(self.breaker.reason)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        started = time.monotonic()
        self._questions.put(FeatureRequest(user_id, version, answer, loop))
        try:
            found: UserFeatures | None = await asyncio.wait_for(answer, self.timeout)
        except TimeoutError:
            self.breaker.failed(f"no answer within {self.timeout * 1000:g} ms")
            raise StoreUnavailableError(self.breaker.reason) from None
        except Exception as error:
            self.breaker.failed(f"{type(error).__name__}")
            raise StoreUnavailableError(self.breaker.reason) from None
        self.breaker.succeeded()
        STORE_SECONDS.observe(time.monotonic() - started)
        return found

    def _work(self) -> None:
        while True:
            asked = [self._questions.get()]
            with contextlib.suppress(queue.Empty):
                while len(asked) < MOST_AT_ONCE:
                    asked.append(self._questions.get_nowait())
            waiting = [one for one in asked if one is not None and not one.answer.done()]
            for version in {one.version for one in waiting}:
                self._ask([one for one in waiting if one.version == version], version)
            if None in asked:  # the end; nothing is asked after it
                return

    def _ask(self, questions: Sequence[FeatureRequest], version: str) -> None:
        from reclm.features.online import read_users

        try:
            found: Sequence[Any] = read_users(self._store, [question.user_id for question in questions], version)
        except Exception as error:  # whatever a store's client raises means: no answer
            log.debug("feature store: %s", error)
            found = [error] * len(questions)
        for question, answer in zip(questions, found, strict=True):
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                question.loop.call_soon_threadsafe(_settle, question.answer, answer)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
