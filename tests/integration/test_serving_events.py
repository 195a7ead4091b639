"""Events come in over HTTP and answers are logged, in this process, over a toy shop."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend

from reclm.serving.impression_log import ImpressionLog
from reclm.settings.tree import Settings
from reclm.storage.segments import SegmentWriter, close_segments

USER = "user 3"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return world.open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def client(shop: Settings) -> Iterator[TestClient]:
    with opened_client(shop) as opened:
        yield opened


def event(event_id: str, **more: Any) -> dict[str, Any]:
    about = {"event_id": event_id, "type": "click", "user_id": USER, "item_id": "item '20'"}
    return {**about, "event_ts": "2025-01-03T02:00:00+02:00", **more}


def logged(folder: Path) -> list[dict[str, Any]]:
    """All lines of the log; reading them closes the segments."""
    return [json.loads(line) for path in close_segments(folder) for line in path.read_text().splitlines()]


class TestEvents:
    def test_an_accepted_event_is_in_the_log_when_the_answer_comes(self, client: TestClient, shop: Settings) -> None:
        sent = event("first", request_id="r1", weight=2.5, type="purchase")
        answer = client.post("/v1/events", json={"events": [sent]})
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0})
        assert {
            "event_id": "first",
            "event_type": "purchase",
            "user_id": USER,
            "item_id": "item '20'",
            "event_ts": "2025-01-03T00:00:00+00:00",
            "weight": 2.5,
            "request_id": "r1",
        } in logged(shop.paths.events / "interactions")

    def test_an_event_sent_again_counts_once(self, client: TestClient, shop: Settings) -> None:
        for expected in ({"accepted": 1, "duplicates": 1}, {"accepted": 0, "duplicates": 2}):
            answer = client.post("/v1/events", json={"events": [event("again"), event("again", type="like")]})
            assert answer.json() == expected
        lines = logged(shop.paths.events / "interactions")
        assert [line["event_type"] for line in lines if line["event_id"] == "again"] == ["click"]

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            ({"type": "dance"}, "body.events.0.type"),
            ({"event_id": ""}, "body.events.0.event_id"),
            ({"user_id": None}, "body.events.0.user_id"),
            ({"item_id": "\x00"}, "body.events.0.item_id"),
            ({"event_ts": "2025-01-03T00:00:00"}, "body.events.0.event_ts"),
            ({"event_ts": "2999-01-03T00:00:00Z"}, "body.events.0.event_ts"),
            ({"event_ts": "1969-12-31T23:59:59Z"}, "body.events.0.event_ts"),
            ({"event_ts": "yesterday"}, "body.events.0.event_ts"),
            ({"weight": "heavy"}, "body.events.0.weight"),
            ({"weight": 1e300}, "body.events.0.weight"),
            ({"userId": "u"}, "body.events.0"),
        ],
    )
    def test_a_faulty_field_is_named_and_nothing_is_accepted(
        self, client: TestClient, shop: Settings, change: dict[str, Any], place: str
    ) -> None:
        answer = client.post("/v1/events", json={"events": [event("faulty") | change, event("beside a faulty one")]})
        assert answer.status_code == 422
        assert [one.partition(":")[0] for one in answer.json()["where"]] == [place]
        assert "beside a faulty one" not in [one["event_id"] for one in logged(shop.paths.events / "interactions")]

    def test_no_events_and_too_many_are_refused(self, client: TestClient) -> None:
        assert client.post("/v1/events", json={"events": []}).status_code == 422
        assert client.post("/v1/events", json={"events": [event(str(n)) for n in range(501)]}).status_code == 422
        assert client.post("/v1/events", json={"events": [event("x" * 200_000)] * 2}).status_code == 413

    def test_an_event_that_could_not_be_written_is_not_accepted_and_can_be_sent_again(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(SegmentWriter, "write", full)
            answer = client.post("/v1/events", json={"events": [event("unlucky")]})
        assert answer.status_code == 503
        assert "No space left" in answer.json()["error"]
        assert client.post("/v1/events", json={"events": [event("unlucky")]}).json()["accepted"] == 1


class TestImpressions:
    def test_every_answer_has_an_id_of_its_own(self, client: TestClient) -> None:
        assert recommend(client)["request_id"] != recommend(client)["request_id"]

    def test_an_answer_is_logged_with_its_list_and_its_model(self, shop: Settings) -> None:
        with opened_client(shop) as opened:
            answer = recommend(opened, user_id=USER, k=3)
        (line,) = [
            one
            for one in logged(shop.paths.events / "impressions")
            if one["request_id"] == answer["request_id"]  # stopping has written what waited
        ]
        assert line["user_id"] == USER
        assert line["model_version"] == answer["model"]["version"]
        assert [(one["item_id"], one["score"]) for one in line["items"]] == [
            (one["item_id"], one["score"]) for one in answer["items"]
        ]
        assert {(one["arm"], one["propensity"]) for one in line["items"]} == {("champion", None)}

    def test_a_full_queue_drops_and_counts_instead_of_waiting(self, tmp_path: Path) -> None:
        from reclm.serving.metrics import IMPRESSIONS

        dropped = IMPRESSIONS.labels("dropped")._value  # type: ignore[attr-defined]
        before = dropped.get()
        log = ImpressionLog(tmp_path, max_waiting=1)  # its thread does not run
        for _ in range(3):
            log.record({"items": [{}, {}]})
        assert dropped.get() - before == 4
