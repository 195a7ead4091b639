"""Hand requests from the event loop to a thread that works on many at once."""

from __future__ import annotations

import contextlib
import queue
from typing import TypeVar

Request = TypeVar("Request")


def take(
    waiting: queue.SimpleQueue[Request | None], most: int, timeout: float | None = None
) -> tuple[list[Request], bool]:
    """Wait for a request and return it with those that have arrived since: (at most `most` requests, whether to stop).

    A None in the queue means that the thread must stop after these. When nothing arrives within `timeout` seconds
    (None: however long it takes), the list is empty.
    """
    taken: list[Request | None] = []
    with contextlib.suppress(queue.Empty):
        taken.append(waiting.get(timeout=timeout))
        while len(taken) < most:
            taken.append(waiting.get_nowait())
    requests = [request for request in taken if request is not None]
    return requests, len(requests) < len(taken)
