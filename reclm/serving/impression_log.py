"""Log what was recommended: the list of every answer, with its model, positions and scores.

In: answers. Out: lines in a segment of `<workspace>/events/impressions`, which ingest lands. Nothing waits for it: a
bounded queue takes the answers, one thread writes them a few times a second, and what does not fit is dropped and
counted. Answers to erased users are not logged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError
from reclm.serving.metrics import IMPRESSIONS
from reclm.storage.erasures import erased_users
from reclm.storage.segments import SegmentWriter
from reclm.trials.assignment import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from reclm.storage.workspace import Workspace

MAX_WAITING = 2000  # answers, whole ones: ten seconds of 200 a second
PAUSE_SECONDS = 0.25  # between two writes: fewer and larger ones
log = logging.getLogger("reclm.serve")
Answer = dict[str, Any]


def new_request_id() -> str:
    """Return an id for an answer: 16 hex digits."""
    return secrets.token_hex(8)


class ImpressionLog:
    """Log answers of this process."""

    def __init__(self, workspace: Workspace, max_waiting: int = MAX_WAITING) -> None:
        self._workspace = workspace
        self._writer = SegmentWriter(workspace.events / "impressions", durable=False)
        self._answers: queue.Queue[tuple[Answer, datetime]] = queue.Queue(max_waiting)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="impression-log", daemon=True)

    def start(self) -> None:
        """Start the writing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits and stop."""
        self._stopping.set()
        self._thread.join()

    def record(self, answer: Answer) -> None:
        """Log an answer, the fields of `schemas.Recommendations`, without waiting.

        An item carries its `arm` and its `propensity`, the probability with which it was in the list, or None.
        """
        try:
            self._answers.put_nowait((answer, datetime.now(UTC)))
        except queue.Full:
            IMPRESSIONS.labels("dropped").inc(len(answer["items"]))

    def _work(self) -> None:
        while True:
            last = self._stopping.wait(PAUSE_SECONDS)
            waiting: list[tuple[Answer, datetime]] = []
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._answers.get_nowait())
            self._write(waiting)
            if last:
                self._writer.close()
                return

    def _write(self, answers: list[tuple[Answer, datetime]]) -> None:
        shown = sum(len(answer["items"]) for answer, _ in answers)
        if not shown:
            return
        try:
            with erased_users(self._workspace) as erased:
                kept = [(answer, at) for answer, at in answers if answer["user_id"] not in erased]
                lines = (
                    json.dumps(line, ensure_ascii=False) + "\n" for answer, at in kept for line in _lines(answer, at)
                )
                self._writer.write("".join(lines).encode())
            IMPRESSIONS.labels("logged").inc(sum(len(answer["items"]) for answer, _ in kept))
        except (OSError, WorkspaceError) as error:
            log.error("impressions cannot be written: %s", error)
            IMPRESSIONS.labels("dropped").inc(shown)


def _lines(answer: Answer, shown_at: datetime) -> Iterator[dict[str, Any]]:
    """One line for each model that has items in the list."""
    models: Mapping[str, Mapping[str, str]] = {answer["arm"]: answer["model"]}
    if answer["challenger"] is not None:
        models = {CHAMPION: answer["model"], CHALLENGER: answer["challenger"]}
    for arm, model in models.items():
        items = [
            {
                "position": position,
                "item_id": item["item_id"],
                "score": item["score"],
                "propensity": item["propensity"],
                "arm": arm,
            }
            for position, item in enumerate(answer["items"], start=1)
            if item["arm"] == arm
        ]
        if items:
            yield {
                "request_id": answer["request_id"],
                "user_id": answer["user_id"],
                "shown_at": shown_at.isoformat(),
                "model_version": model["version"],
                "model": model["model"],
                "variant": model["variant"],
                "source": answer["source"],
                "items": items,
            }
