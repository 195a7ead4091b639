"""Events sent to a service process that is killed: what was acknowledged is landed, once."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from integration import served
from integration import serving_world as world
from unit.ingest_world import landed

from reclm import stages

pytestmark = pytest.mark.full
FLAGS = ("runtime.threads=1", "serve.search=false")
SENDERS, EVENTS_EACH = 4, 5


def event(event_id: str) -> dict[str, str]:
    about = {"event_id": event_id, "type": "click", "user_id": "user 3", "item_id": "item '20'"}
    return {**about, "event_ts": "2025-01-03T00:00:00Z"}


def send_until_it_is_gone(url: str, sender: int, sent_some: threading.Event) -> list[str]:
    """Post events without pause until the service does not answer; returns the ids of the acknowledged ones."""
    acknowledged: list[str] = []
    with httpx.Client(base_url=url, timeout=20) as client:
        for turn in range(100_000):
            batch = [f"{sender} {turn} {number}" for number in range(EVENTS_EACH)]
            try:
                answer = client.post("/v1/events", json={"events": [event(one) for one in batch]})
            except httpx.HTTPError:
                return acknowledged
            assert answer.status_code == 202, answer.text
            acknowledged += batch
            if turn == 20:
                sent_some.set()
    raise AssertionError("the service was not killed")


class TestKilledService:
    def test_every_acknowledged_event_is_landed_exactly_once(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path / "shop")
        (tmp_path / "log.csv").write_text("user_id,item_id,event_ts\nuser 3,item '20',2025-01-01\n")
        stages.ingest(settings, tmp_path / "log.csv")
        sent_some = threading.Event()
        with (
            served.service(settings.paths.root, FLAGS) as service,
            ThreadPoolExecutor(SENDERS) as pool,
        ):
            senders = [pool.submit(send_until_it_is_gone, service.url, sender, sent_some) for sender in range(SENDERS)]
            assert sent_some.wait(timeout=60)
            stages.ingest_events(settings)  # the service goes on
            os.kill(service.process.pid, signal.SIGKILL)
            acknowledged = [one for sender in senders for one in sender.result(timeout=60)]
        stages.ingest_events(settings)
        stages.ingest_events(settings)
        found = Counter(row[0] for row in landed(settings, "interactions", "event_id", "event_id is not null"))
        assert len(acknowledged) > EVENTS_EACH * 20
        assert set(acknowledged) - set(found) == set()
        assert set(found.values()) == {1}
