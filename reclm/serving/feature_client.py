"""Read a user's features from the feature store for the service.

In: a user id. Out: one row of `serving_v2`, or an error. One thread reads the store. Requests that arrive during a read
are answered together by the next read, so many requests cost little more than one. A row that cannot be decoded
degrades the answer of its own user alone.

A read that takes longer than `serve.store_timeout_ms` counts as failed: once, however many requests waited for it, and
once more each time that this limit passes again. After `serve.breaker_failures` failures in a row the store is not read
for `serve.breaker_seconds`; then one request tries it (a circuit breaker: Nygard, "Release It!", 2007).
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

from google.protobuf.message import DecodeError

from reclm.serving.metrics import STORE_AWAY, STORE_SECONDS
from reclm.serving.queues import take

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.features.store import Store
    from reclm.settings.tree import Settings

MAX_BATCH = 64
DECODING_ERRORS = (DecodeError, ValueError, TypeError, KeyError)
log = logging.getLogger("reclm.serve")


class StoreUnavailableError(Exception):
    """The feature store did not answer; the message says how."""


class UnreadableRowError(Exception):
    """A row of the feature store cannot be decoded; the store itself answers."""


class FailedReadError(Exception):
    """A read of the store failed; `number` tells the reads apart, the message is the kind of the error."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class FeatureRequest(NamedTuple):
    """Hold one request: the user, the model version, and the future that receives the answer."""

    user_id: str
    version: str
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class CircuitBreaker:
    """Decide whether the store may be read. It has no lock: only the event loop calls it."""

    def __init__(self, failures: int, seconds: float, timeout: float) -> None:
        self.failures, self.seconds, self.timeout = failures, seconds, timeout
        self._counted_read, self._counted_at = -1, 0.0
        self.failures_in_a_row, self.open_until, self.reason = 0, 0.0, ""

    @property
    def is_open(self) -> bool:
        """Return True after too many failures in a row, until a read succeeds."""
        return self.failures_in_a_row >= self.failures

    def allows_request(self) -> bool:
        if not self.is_open:
            return True
        if time.monotonic() < self.open_until:
            return False
        self.open_until = (
            time.monotonic() + self.seconds
        )  # this request tries; the others are refused until it succeeds
        return True

    def record_failure(self, reason: str, read: int) -> None:
        """Count a failed read, once for all requests that waited for it; a read that hangs counts at each timeout."""
        now = time.monotonic()
        if read == self._counted_read and now < self._counted_at + self.timeout:
            return
        self._counted_read, self._counted_at = read, now
        self.failures_in_a_row += 1
        self.reason = reason
        if self.is_open:
            self.open_until = now + self.seconds
        STORE_AWAY.set(self.is_open)

    def record_success(self) -> None:
        self.failures_in_a_row, self.reason = 0, ""
        STORE_AWAY.set(0)


class FeatureClient:
    """Read features for requests, with batching, a time limit and a circuit breaker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.timeout = settings.serve.store_timeout_ms / 1000
        self.breaker = CircuitBreaker(settings.serve.breaker_failures, settings.serve.breaker_seconds, self.timeout)
        self._store: Store | None = None
        self._reads = 0  # started so far; written by the reading thread alone
        self._requests: queue.SimpleQueue[FeatureRequest | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="feature-store", daemon=True)

    def start(self) -> None:
        """Open the store and start the reading thread.

        Raises WorkspaceError when nothing was ever published; with `serve.wait` the first read opens the store instead.
        """
        if not self.settings.serve.wait:
            self._store = self._opened()
        self._thread.start()

    def _opened(self) -> Store:
        from reclm.features.online import read_users
        from reclm.features.store import open_for_requests

        store = open_for_requests(self.settings, self.timeout)
        with contextlib.suppress(Exception):  # the first read is slow; a store that is down may come back
            read_users(store, [""], "")
        return store

    def stop(self) -> None:
        """Stop the thread after the requests that it has."""
        self._requests.put(None)

    async def user(self, user_id: str, version: str) -> UserFeatures | None:
        """Read a user's features and their vector of model `version`; None when nothing is published.

        Raises StoreUnavailableError when the store does not answer in time.
        """
        if not self.breaker.allows_request():
            raise StoreUnavailableError(self.breaker.reason)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        started = time.monotonic()
        self._requests.put(FeatureRequest(user_id, version, answer, loop))
        try:
            found: UserFeatures | None = await asyncio.wait_for(answer, self.timeout)
        except TimeoutError:
            reason = f"no answer within {self.timeout * 1000:g} ms"
            self.breaker.record_failure(reason, self._reads)
            raise StoreUnavailableError(reason) from None
        except FailedReadError as error:
            self.breaker.record_failure(str(error), error.number)
            raise StoreUnavailableError(str(error)) from None
        except UnreadableRowError as error:
            raise StoreUnavailableError(str(error)) from None
        self.breaker.record_success()
        STORE_SECONDS.observe(time.monotonic() - started)
        return found

    def _work(self) -> None:
        while True:
            requests, stopping = take(self._requests, MAX_BATCH)
            waiting = [request for request in requests if not request.answer.done()]
            for version in {request.version for request in waiting}:
                self._read([request for request in waiting if request.version == version], version)
            if stopping:
                return

    def _read(self, requests: Sequence[FeatureRequest], version: str) -> None:
        from reclm.features.online import read_users

        self._reads += 1
        try:
            self._store = self._store or self._opened()
            found: Sequence[Any] = read_users(self._store, [request.user_id for request in requests], version)
        except DECODING_ERRORS as error:
            if len(requests) > 1:  # halves, until the row that cannot be decoded stands alone
                middle = len(requests) // 2
                self._read(requests[:middle], version)
                self._read(requests[middle:], version)
                return
            log.warning("a user's row of the feature store cannot be decoded: %s", type(error).__name__)
            found = [UnreadableRowError("the user's row cannot be decoded; run `reclm publish` to write it again")]
        except Exception as error:  # any other error of a store's client means that it did not answer
            log.debug("feature store: %s", error)
            found = [FailedReadError(self._reads, type(error).__name__) for _ in requests]
        for request, answer in zip(requests, found, strict=True):
            with contextlib.suppress(RuntimeError):  # the event loop has closed
                request.loop.call_soon_threadsafe(_settle, request.answer, answer)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
