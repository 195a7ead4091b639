"""Keep what people do, durably, before it is acknowledged.

In: events of requests. Out: lines in a segment of `<workspace>/events/interactions`, which ingest lands; events of
erased users are not kept. One thread writes. Requests that arrive while it waits for the disk are written together next
(group commit), so that many requests cost little more than one. An event whose id this process has written before
counts as a duplicate and is not written again; the build removes other duplicates.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reclm.serving.metrics import EVENTS
from reclm.serving.queues import take
from reclm.storage.erasures import erased_users
from reclm.storage.segments import SegmentWriter

if TYPE_CHECKING:
    from reclm.storage.erasures import Erasures
    from reclm.storage.workspace import Workspace

REMEMBERED_IDS = 200_000
MAX_GROUP = 256  # requests written together
log = logging.getLogger("reclm.serve")
Event = dict[str, Any]


class EventsNotWrittenError(Exception):
    """The events could not be written; nothing was acknowledged."""


class Appended(NamedTuple):
    """How many events of a request are new, were written before, and are of erased users."""

    accepted: int
    duplicates: int
    erased: int


class _Request(NamedTuple):
    events: Sequence[Event]
    answer: asyncio.Future[Appended]
    loop: asyncio.AbstractEventLoop


class EventLog:
    """Append events to the log of this process."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._writer = SegmentWriter(workspace.events / "interactions", durable=True)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="event-log", daemon=True)

    def start(self) -> None:
        """Start the writing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what has arrived and stop."""
        self._requests.put(None)
        self._thread.join()

    async def append(self, events: Sequence[Event]) -> Appended:
        """Write events; returns once they are on the disk.

        An event holds `event_id`, `event_type`, `user_id`, `item_id`, `event_ts`, `weight` and `request_id`. Raises
        EventsNotWrittenError, with the system's reason, when they could not be written.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Appended] = loop.create_future()
        self._requests.put(_Request(events, answer, loop))
        return await answer

    def _work(self) -> None:
        while True:
            requests, stopping = take(self._requests, MAX_GROUP)
            self._write(requests)
            if stopping:
                self._writer.close()
                return

    def _write(self, requests: Sequence[_Request]) -> None:
        lines: list[Event] = []
        answers: list[Appended | EventsNotWrittenError] = []
        try:
            with erased_users(self._workspace) as erased:
                answers += [self._collect(request.events, erased, lines) for request in requests]
                if lines:
                    text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in lines)
                    self._writer.write(text.encode())
            for outcome in Appended._fields:
                EVENTS.labels(outcome).inc(sum(getattr(answer, outcome) for answer in answers))
        except Exception as error:  # whatever is wrong, the senders must hear that their events are not on the disk
            log.error("events cannot be written: %s", error)
            for event in lines:
                self._seen.pop(event["event_id"], None)
            reason = getattr(error, "strerror", None) or type(error).__name__  # the message may hold paths
            answers = [EventsNotWrittenError(reason)] * len(requests)
        while len(self._seen) > REMEMBERED_IDS:
            self._seen.popitem(last=False)
        for request, answer in zip(requests, answers, strict=True):
            with contextlib.suppress(RuntimeError):  # the event loop has closed
                request.loop.call_soon_threadsafe(_settle, request.answer, answer)

    def _collect(self, events: Sequence[Event], erased: Erasures, lines: list[Event]) -> Appended:
        """Add those of a request's events that must be written to `lines`."""
        before = len(lines)
        kept = [event for event in events if event["user_id"] not in erased]
        for event in kept:
            if event["event_id"] not in self._seen:
                self._seen[event["event_id"]] = None
                lines.append(event)
        accepted = len(lines) - before
        return Appended(accepted, len(kept) - accepted, len(events) - len(kept))


def _settle(future: asyncio.Future[Appended], answer: Appended | EventsNotWrittenError) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
