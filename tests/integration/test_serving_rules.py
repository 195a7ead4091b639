"""What a shop asks of a list besides relevance: rules of re-ranking, and named lists of items."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend
from unit import backbones_world as bw

from reclm.settings.tree import Settings

USER = "user 3"


class TestRules:
    def test_that_are_not_used_change_nothing(self, client: TestClient) -> None:
        plain = recommend(client, user_id=USER)["items"]
        nothing = {"diversity": 0, "max_per_category": 0, "pin": [], "boosts": {"categories": {}, "items": {}}}
        assert recommend(client, user_id=USER, **nothing)["items"] == plain
        assert {one["pinned"] for one in plain} == {False}

    def test_a_limit_for_each_category_and_diversity_mix_the_circles(self, client: TestClient) -> None:
        assert set(world.circles(recommend(client, user_id=USER, k=2))) == {0}
        assert sorted(world.circles(recommend(client, user_id=USER, k=3, max_per_category=1))) == [0, 1, 2]
        assert len(set(world.circles(recommend(client, user_id=USER, k=2, diversity=0.9)))) == 2

    def test_a_pin_shows_an_item_that_the_user_knows_and_an_exclusion_hides_it(self, client: TestClient) -> None:
        pin = [{"item_id": "item '0'", "position": 2}, {"item_id": "nothing"}]
        found = recommend(client, user_id=USER, k=3, pin=pin)
        assert [one["pinned"] for one in found["items"]] == [False, True, False]
        assert found["items"][1]["item_id"] == "item '0'"
        assert found["unknown_items"] == ["nothing"]
        hidden = recommend(client, user_id=USER, k=3, pin=pin, exclude=["item '0'"])
        assert {one["pinned"] for one in hidden["items"]} == {False}

    def test_a_boost_lifts_a_category_for_everybody(self, client: TestClient) -> None:
        for body in ({"user_id": USER}, {}):
            found = recommend(client, k=3, boosts={"categories": {"rocket": 50}}, **body)
            assert set(world.circles(found)) == {2}

    def test_the_settings_hold_where_a_request_says_nothing(self, shop: Settings) -> None:
        flags = {"max_per_category": 1, "boosts": ("Rocket=50",)}
        with opened_client(shop.model_copy(update={"serve": shop.serve.model_copy(update=flags)})) as client:
            found = world.circles(recommend(client, user_id=USER, k=3))
            assert (found[0], sorted(found)) == (2, [0, 1, 2])
            assert len(recommend(client, user_id=USER, k=9, max_per_category=0)["items"]) == 9

    @pytest.mark.parametrize(
        "rules",
        [
            {"diversity": 1.1},
            {"max_per_category": -1},
            {"pin": ["item"]},
            {"pin": [{"item_id": "i", "position": 0}]},
            {"boosts": {"categories": {"a": "much"}}},
            {"boosts": {"category": {"a": 1}}},
            {"items_list": "none such"},
            {"exclude_list": "../keys"},
        ],
    )
    def test_that_cannot_be_are_refused(self, client: TestClient, rules: dict[str, Any]) -> None:
        assert client.post("/v1/recommendations", json=rules).status_code == 422


class TestNamedLists:
    def test_of_any_length_are_sent_once_and_named(self, client: TestClient) -> None:
        text = {"content-type": "text/plain; charset=utf-8"}
        stock = [f"item '{row}'" for row in range(0, bw.N_ITEMS, 2)] + [f"later {n}" for n in range(20_000)]
        written = client.put("/v1/lists/stock", content="\r\n".join(stock), headers=text)
        assert (written.status_code, written.json()["items"]) == (200, len(stock))
        only = [one["item_id"] for one in recommend(client, user_id=USER, k=100, items_list="stock")["items"]]
        never = [one["item_id"] for one in recommend(client, user_id=USER, k=100, exclude_list="stock")["items"]]
        assert only and set(only) <= set(stock)
        assert never and not set(never) & set(stock)
        both = recommend(client, user_id=USER, items_list="stock", exclude_list="stock")
        assert (both["items"], both["why_empty"][:26]) == ([], "no item passes the filters")
        assert [one["name"] for one in client.get("/v1/lists").json()] == ["stock"]
        assert client.delete("/v1/lists/stock").status_code == 204
        assert client.delete("/v1/lists/stock").status_code == 404
        assert client.post("/v1/recommendations", json={"items_list": "stock"}).status_code == 422

    def test_that_are_no_lists_are_refused_with_the_line(self, client: TestClient) -> None:
        text = {"content-type": "text/plain"}
        for body, place in ((b"a\nb\x00", "line 2"), (b"\xff", "line 1"), (b"a\n\n" + b"x" * 513, "line 3")):
            refused = client.put("/v1/lists/stock", content=body, headers=text)
            assert refused.status_code == 422
            assert refused.json()["error"].startswith(place)
        assert client.put("/v1/lists/stock", json=["a"]).status_code == 415
        assert client.put("/v1/lists/.stock", content=b"a", headers=text).status_code == 422
