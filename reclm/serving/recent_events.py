"""Let the next answer know what a user just did.

In: events that are on the disk. Out: rows of the feature store's view `user_recent`. One thread pushes; events that
arrive during a push go out together with the next one. Events that could not be pushed are kept and tried again; when
there are too many, the oldest are dropped and counted: they are in the log and reach the next build.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from reclm.serving.metrics import PUSHES
from reclm.serving.queues import take

if TYPE_CHECKING:
    from reclm.features.online import RecentEvent
    from reclm.features.store import Store
    from reclm.settings.tree import Settings

PAUSE_SECONDS = 0.1  # between two pushes: fewer and larger ones
RETRY_SECONDS = 1.0
MAX_GROUP = 10_000  # requests in one push
USERS_AT_ONCE = 500  # in one write to the store
MAX_USERS = 10_000  # users with events that wait for a push
TIMEOUT_SECONDS = 1.0
log = logging.getLogger("reclm.serve")
Events = Mapping[str, Sequence["RecentEvent"]]


class _Request(NamedTuple):
    events: Events
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class RecentEvents:
    """Push the events of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: Store | None = None
        self._waiting: dict[str, list[RecentEvent]] = {}
        self._away = False  # whether the last push failed
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recent-events", daemon=True)

    def start(self) -> None:
        """Start the pushing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Push what waits, once, and stop."""
        self._requests.put(None)
        self._thread.join()

    async def push(self, events: Events) -> None:
        """Push events, `{user_id: events}`; returns once other readers see them, or after TIMEOUT_SECONDS.

        Does not wait while the store is away: the events are on the disk already.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._requests.put(_Request(events, done, loop))
        if self._away:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, TIMEOUT_SECONDS)

    def _work(self) -> None:
        from reclm.features.recent import merged

        stopping = False
        while not stopping:
            requests, stopping = take(self._requests, MAX_GROUP, RETRY_SECONDS if self._waiting else None)
            for request in requests:
                for user_id, events in request.events.items():
                    self._waiting[user_id] = merged(self._waiting.get(user_id, ()), events)
            self._push()
            for request in requests:
                with contextlib.suppress(RuntimeError):  # the event loop has closed
                    request.loop.call_soon_threadsafe(_settle, request.done)
            time.sleep(PAUSE_SECONDS)

    def _push(self) -> None:
        from reclm.features.recent import push_recent
        from reclm.features.store import open_for_requests

        if not self._waiting:
            return
        try:
            self._store = self._store or open_for_requests(self.settings, TIMEOUT_SECONDS)
            while self._waiting:
                some = dict(islice(self._waiting.items(), USERS_AT_ONCE))
                push_recent(self._store, some)
                self._waiting = {user: events for user, events in self._waiting.items() if user not in some}
        except Exception as error:  # any error of a store's client means that it did not take them
            log.warning("events could not be pushed: %s", type(error).__name__)
            PUSHES.labels("failed").inc()
            self._away = True
            while len(self._waiting) > MAX_USERS:
                self._waiting.pop(next(iter(self._waiting)))
                PUSHES.labels("dropped").inc()
        else:
            PUSHES.labels("done").inc()
            self._away = False


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
