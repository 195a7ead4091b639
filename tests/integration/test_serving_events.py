"""Events come in over HTTP and answers are logged, in this process, over a toy shop."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend
from unit import backbones_world as bw

from reclm.features.online_writer import forget_users
from reclm.serving.candidate_index import load_index
from reclm.serving.impression_log import ImpressionLog
from reclm.serving.offline import recommend_to_users
from reclm.serving.text_search import TextSearch
from reclm.settings.tree import Settings
from reclm.storage.erasures import remember
from reclm.storage.segments import SegmentWriter, close_segments
from reclm.storage.workspace import Workspace

USER = "user 3"


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
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0, "erased": 0})
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
        for expected in ({"accepted": 1, "duplicates": 1, "erased": 0}, {"accepted": 0, "duplicates": 2, "erased": 0}):
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
        log = ImpressionLog(Workspace(tmp_path), max_waiting=1)  # its thread does not run
        for _ in range(3):
            log.record({"items": [{}, {}]})
        assert dropped.get() - before == 4


def item(row: int) -> str:
    return f"item '{row}'"


def send(client: TestClient, *events: dict[str, Any]) -> None:
    answer = client.post("/v1/events", json={"events": list(events)})
    assert answer.status_code == 202, answer.text


def listed(answer: dict[str, Any]) -> list[str]:
    return [one["item_id"] for one in answer["items"]]


COLD = [item(row) for row in np.flatnonzero(bw.COLD)]
WARM_OF_CIRCLE_1 = [item(row) for row in range(bw.ITEMS_EACH, bw.ITEMS_EACH + bw.WARM_EACH)]


class TestTheNextAnswer:
    def test_leaves_out_what_a_user_bought_and_what_they_skipped(self, client: TestClient) -> None:
        bought, skipped = listed(recommend(client, user_id="user 5", k=2))
        send(
            client,
            event("b5", user_id="user 5", item_id=bought, type="purchase"),
            event("s5", user_id="user 5", item_id=skipped, type="skip"),
        )
        assert {bought, skipped}.isdisjoint(listed(recommend(client, user_id="user 5", k=bw.N_ITEMS)))

    def test_turns_towards_what_a_known_user_liked(self, client: TestClient) -> None:
        def lead(answer: dict[str, Any]) -> float:
            """How much higher the cold items of circle 1 score than those of circle 0."""
            scores = {one["item_id"]: one["score"] for one in answer["items"] if one["item_id"] in COLD}
            first, second = ([scores[one] for one in COLD if world.circle_of(one) == circle] for circle in (0, 1))
            return float(np.mean(second) - np.mean(first))

        before = recommend(client, user_id="user 1", k=bw.N_ITEMS)
        send(client, *(event(f"l{n}", user_id="user 1", item_id=one) for n, one in enumerate(WARM_OF_CIRCLE_1[:6])))
        after = recommend(client, user_id="user 1", k=bw.N_ITEMS)
        assert (before["source"], after["source"]) == ("trained", "folded_in")
        assert lead(after) > lead(before)

    def test_knows_a_new_user_by_their_first_events(self, client: TestClient) -> None:
        assert recommend(client, user_id="stranger")["source"] == "popularity"
        send(client, *(event(f"n{n}", user_id="stranger", item_id=one) for n, one in enumerate(WARM_OF_CIRCLE_1[:2])))
        found = recommend(client, user_id="stranger", k=3)
        assert (found["source"], set(world.circles(found))) == ("folded_in", {1})

    def test_is_as_if_the_events_were_a_history_of_the_request(self, client: TestClient) -> None:
        history = WARM_OF_CIRCLE_1[:3]
        send(client, *(event(f"h{n}", user_id="user 7", item_id=one) for n, one in enumerate(history)))
        found = recommend(client, user_id="user 7")
        assert found["items"] == recommend(client, user_id="user 7", history=history)["items"]

    def test_does_not_count_twice_what_the_champion_knows(self, client: TestClient) -> None:
        before = recommend(client, user_id="user 2")
        known = [item(row) for row in range(bw.WARM_EACH) if row != bw.WITHHELD[2]]
        send(client, *(event(f"k{n}", user_id="user 2", item_id=one) for n, one in enumerate(known)))
        after = recommend(client, user_id="user 2")
        assert (after["source"], after["items"]) == (before["source"], before["items"])

    def test_goes_by_the_newest_event_of_an_item(self, client: TestClient) -> None:
        liked, other = WARM_OF_CIRCLE_1[:2]
        send(client, event("t1", user_id="taster", item_id=liked), event("t2", user_id="taster", item_id=other))
        later = {"event_ts": "2025-01-04T00:00:00Z", "type": "return"}
        send(client, event("t3", user_id="taster", item_id=liked, **later))
        found = recommend(client, user_id="taster", k=bw.N_ITEMS)
        assert liked not in listed(found)
        assert {one["reasons"]["like"]["item_id"] for one in found["items"]} == {other}

    def test_ignores_an_impression(self, client: TestClient) -> None:
        send(client, event("seen", user_id="window shopper", type="impression"))
        assert recommend(client, user_id="window shopper")["source"] == "popularity"

    def test_shows_everything_on_request(self, client: TestClient) -> None:
        send(client, event("all", user_id="user 9", type="skip"))
        assert len(listed(recommend(client, user_id="user 9", k=bw.N_ITEMS, exclude_seen=False))) == bw.N_ITEMS

    def test_is_known_to_other_processes(self, client: TestClient, shop: Settings) -> None:
        send(client, event("shared", user_id="traveller", item_id=WARM_OF_CIRCLE_1[0]))
        with opened_client(shop) as other:
            assert recommend(other, user_id="traveller")["source"] == "folded_in"

    def test_an_event_is_accepted_though_the_feature_store_does_not_take_it(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from reclm.features import recent

        def down(*_: Any) -> None:
            raise ConnectionError

        with monkeypatch.context() as patched:
            patched.setattr(recent, "push_recent", down)
            send(client, event("patient", user_id="patient"))
        send(client, event("other", user_id="other"))  # goes out together with what had to wait
        world.wait_until(lambda: recommend(client, user_id="patient")["source"] == "folded_in")


class TestForgetting:
    def test_a_forgotten_user_has_no_recent_events(self, client: TestClient, shop: Settings) -> None:
        send(client, event("gone", user_id="forgotten", item_id=WARM_OF_CIRCLE_1[0]))
        assert forget_users(shop, {"forgotten"}) > 0
        assert recommend(client, user_id="forgotten")["source"] == "popularity"

    def test_what_an_erased_user_does_is_kept_nowhere(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path)
        with opened_client(settings) as client:
            send(client, event("before", user_id="erased"))
            remember(settings.paths, ["erased"])
            forget_users(settings, {"erased"})
            both = [event("after", user_id="erased", item_id=WARM_OF_CIRCLE_1[0]), event("other")]
            answer = client.post("/v1/events", json={"events": both}).json()
            assert answer == {"accepted": 1, "duplicates": 0, "erased": 1}
            assert recommend(client, user_id="erased")["source"] == "popularity"
        events = logged(settings.paths.events / "interactions")
        assert [one["event_id"] for one in events] == ["before", "other"]
        assert "erased" not in [one["user_id"] for one in logged(settings.paths.events / "impressions")]


class TestDislikesOfTheBuild:
    def test_a_disliked_item_is_never_recommended_to_that_user(self, client: TestClient, shop: Settings) -> None:
        found = listed(recommend(client, user_id=world.FUSSY, k=bw.N_ITEMS))
        assert sorted(set(map(item, range(bw.N_ITEMS))) - set(found)) == [item(0)]
        assert len(listed(recommend(client, user_id="nobody", k=bw.N_ITEMS))) == bw.N_ITEMS


def set_available(client: TestClient, item_id: str, available: bool) -> None:
    answer = client.put(f"/v1/items/{item_id}/availability", json={"available": available})
    assert (answer.status_code, answer.json()) == (200, {"item_id": item_id, "available": available})


class TestAvailability:
    @pytest.fixture(autouse=True)
    def everything_is_shown_again(self, client: TestClient) -> Iterator[None]:
        yield
        for one in client.get("/v1/hidden-items").json()["items"]:
            set_available(client, one["item_id"], True)

    def test_a_hidden_item_is_in_no_list_until_it_is_shown_again(self, client: TestClient) -> None:
        hidden = listed(recommend(client, user_id=USER, k=1))[0]
        near = client.get(f"/v1/items/{item(1)}/similar").json()["items"][0]["item_id"]
        set_available(client, hidden, False)
        set_available(client, near, False)
        for body in ({"user_id": USER}, {"history": WARM_OF_CIRCLE_1[:2]}, {}, {"items": [hidden]}):
            assert {hidden, near}.isdisjoint(listed(recommend(client, k=100, **body)))
        similar = client.get(f"/v1/items/{item(1)}/similar", params={"k": 100}).json()["items"]
        assert {hidden, near}.isdisjoint(one["item_id"] for one in similar)
        set_available(client, hidden, True)
        assert listed(recommend(client, user_id=USER, k=1)) == [hidden]

    def test_the_explorer_lists_no_hidden_item(self, client: TestClient) -> None:
        links = ["/item?" + urlencode({"id": item(row)}) + '"' for row in range(bw.N_ITEMS)]
        page = client.get("/", params={"q": "title"}).text
        shown = next(row for row, link in enumerate(links) if link in page)
        set_available(client, item(shown), False)
        assert links[shown] not in client.get("/", params={"q": "title"}).text

    def test_hidden_items_are_listed(self, client: TestClient) -> None:
        set_available(client, "not yet a candidate", False)
        set_available(client, "not yet a candidate", False)
        (found,) = client.get("/v1/hidden-items").json()["items"]
        assert found["item_id"] == "not yet a candidate"

    def test_another_process_and_a_batch_hide_it_too(self, client: TestClient, shop: Settings) -> None:
        (before,) = recommend_to_users(shop, [USER], top_k=1)
        with opened_client(shop) as other:
            set_available(client, listed(before)[0], False)
            assert listed(recommend(other, user_id=USER, k=1)) != listed(before)
        (after,) = recommend_to_users(shop, [USER], top_k=1)
        assert listed(after) != listed(before)

    def test_a_hidden_item_is_not_found_by_its_meaning(self, client: TestClient, shop: Settings) -> None:
        index = load_index(shop)
        search = TextSearch(shop)
        search._encode = lambda _: index.catalogue.meaning[:1]
        best = str(index.item_ids[search.find(index, "", 1)[0][0]])
        set_available(client, best, False)
        assert best not in index.item_ids[search.find(index, "", 100)[0]]

    @pytest.mark.parametrize("body", [{}, {"available": "no"}, {"available": None}, {"available": True, "x": 1}])
    def test_anything_but_yes_or_no_is_refused(self, client: TestClient, body: dict[str, Any]) -> None:
        assert client.put(f"/v1/items/{item(1)}/availability", json=body).status_code == 422
