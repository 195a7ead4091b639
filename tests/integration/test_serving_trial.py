"""Two models answer side by side, and some lists are random, in this process, over a toy shop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend
from unit import backbones_world as bw

from reclm.errors import ModelError
from reclm.promotion import challenger
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import read_json, write_json
from reclm.storage.segments import close_segments

USERS = [f"user {u}" for u in range(bw.N_USERS)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A shop whose champion is biasmf/augment, and whose challenger is biasmf/base."""
    settings = world.open_shop(tmp_path_factory.mktemp("shop"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(challenger, "refit_on_serve", world.served_of)
        base = next(
            one
            for one in artifacts.all_of(settings.paths, "backbone")
            if one.manifest["parameters"]["variant"] == "base"
        )
        challenger.challenge(settings, base.version)
    return settings


@pytest.fixture
def serving(shop: Settings) -> Iterator[Any]:
    """Opens a service with settings of its own."""
    with ExitStack() as opened:
        yield lambda **serve: opened.enter_context(serve_with(shop, **serve))


def serve_with(shop: Settings, **serve: Any) -> TestClient:
    return opened_client(shop.model_copy(update={"serve": shop.serve.model_copy(update=serve)}))


def impressions(settings: Settings, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the log that an answer left behind."""
    closed = close_segments(settings.paths.events / "impressions")
    lines = [json.loads(line) for path in closed for line in path.read_text().splitlines()]
    return [line for line in lines if line["request_id"] == answer["request_id"]]


class TestSplit:
    def test_each_user_meets_one_model_and_the_answer_names_it(self, serving: Any, shop: Settings) -> None:
        client = serving(challenger_share=0.5)
        versions = {arm: read_json(shop.paths.root / f"{arm}.json")["version"] for arm in ("champion", "challenger")}
        arms = {}
        for user in USERS:
            answer, again = recommend(client, user_id=user, k=3), recommend(client, user_id=user, k=3)
            arms[user] = answer["arm"]
            assert answer["model"]["version"] == versions[answer["arm"]]
            assert {item["arm"] for item in answer["items"]} == {answer["arm"]} == {again["arm"]}
            assert answer["challenger"] is None
        assert set(arms.values()) == {"champion", "challenger"}
        assert client.get("/health/ready").json()["challenger"]["version"] == versions["challenger"]

    def test_a_request_without_a_user_is_split_by_its_own_id(self, serving: Any) -> None:
        client = serving(challenger_share=0.5)
        arms = Counter(recommend(client, history=["item '1'"])["arm"] for _ in range(40))
        assert len(arms) == 2

    def test_share_zero_leaves_everybody_with_the_champion(self, serving: Any) -> None:
        client = serving(challenger_share=0.0)
        assert {recommend(client, user_id=user)["arm"] for user in USERS} == {"champion"}

    def test_impressions_name_arm_and_model(self, shop: Settings) -> None:
        with serve_with(shop, challenger_share=0.5) as client:
            answers = [recommend(client, user_id=user, k=3) for user in USERS[:6]]
        for answer in answers:
            (line,) = impressions(shop, answer)
            assert line["model_version"] == answer["model"]["version"]
            assert {item["arm"] for item in line["items"]} == {answer["arm"]}


class TestInterleaving:
    def test_a_list_holds_items_of_both_models_and_each_is_logged_under_its_own(self, shop: Settings) -> None:
        with serve_with(shop, challenger_share=1.0, trial="interleave") as client:
            answer = recommend(client, user_id=USERS[0], k=6)
        assert (answer["arm"], len(answer["items"])) == ("interleaved", 6)
        assert Counter(item["arm"] for item in answer["items"]) == {"champion": 3, "challenger": 3}
        assert len({item["item_id"] for item in answer["items"]}) == 6
        by_place = {
            item["position"]: (item["item_id"], item["arm"], line["model_version"])
            for line in impressions(shop, answer)
            for item in line["items"]
        }
        models = {"champion": answer["model"]["version"], "challenger": answer["challenger"]["version"]}
        assert [by_place[place] for place in range(1, 7)] == [
            (item["item_id"], item["arm"], models[item["arm"]]) for item in answer["items"]
        ]


class TestAChallengerThatCannotBeUsed:
    def test_one_that_cannot_be_read_leaves_the_champion_answering(self, serving: Any, shop: Settings) -> None:
        pointer = read_json(shop.paths.challenger)
        write_json(shop.paths.challenger, pointer | {"version": "0123456789abcdef"})
        try:
            client = serving(challenger_share=1.0)
            assert recommend(client, user_id=USERS[0])["arm"] == "champion"
            ready = client.get("/health/ready").json()
            assert ready["status"] == "degraded"
            assert any("the challenger could not be loaded" in problem for problem in ready["problems"])
            write_json(shop.paths.challenger, pointer)
            client.post("/admin/reload")
            assert recommend(client, user_id=USERS[0])["arm"] == "challenger"
        finally:
            write_json(shop.paths.challenger, pointer)

    def test_a_model_of_the_champions_kind_is_none(self, shop: Settings) -> None:
        champion = read_json(shop.paths.champion)
        with pytest.raises(ModelError, match="biasmf/augment as the champion is"):
            challenger.challenge(shop, champion["measured"])

    def test_ending_the_trial_gives_everybody_the_champion(self, serving: Any, shop: Settings) -> None:
        client, pointer = serving(challenger_share=1.0), read_json(shop.paths.challenger)
        assert recommend(client, user_id=USERS[0])["arm"] == "challenger"
        ended = challenger.withdraw(shop)
        assert ended is not None and ended["version"] == pointer["version"]
        client.post("/admin/reload")
        assert recommend(client, user_id=USERS[0])["arm"] == "champion"
        write_json(shop.paths.challenger, pointer)


class TestExploration:
    def test_some_lists_are_random_and_their_propensities_say_so(self, serving: Any) -> None:
        client = serving(challenger_share=0.0, exploration=0.5, exploration_pool=12)
        usual = [item["item_id"] for item in recommend(client, user_id=USERS[0], k=3, exclude=["nothing"])["items"]]
        answers = [recommend(client, user_id=USERS[0], k=3)["items"] for _ in range(40)]
        lists = [[item["item_id"] for item in items] for items in answers]
        assert 8 < sum(shown == usual for shown in lists) < 32
        for items in answers:
            for item in items:
                expected = 0.5 * (item["item_id"] in usual) + 0.5 * 3 / 12
                assert item["propensity"] == pytest.approx(expected)

    def test_only_plain_requests_of_users_are_explored(self, serving: Any) -> None:
        client = serving(challenger_share=0.0, exploration=0.5)
        for body in ({"history": ["item '1'"]}, {"user_id": USERS[0], "items": ["item '20'"]}):
            assert {item["propensity"] for item in recommend(client, **body)["items"]} == {None}

    def test_is_off_by_default(self, serving: Any) -> None:
        items = recommend(serving(), user_id=USERS[0])["items"]
        assert {item["propensity"] for item in items} == {None}


def test_maintenance_names_a_challenger_that_is_missing(shop: Settings, tmp_path: Path) -> None:
    from reclm.maintenance.leftovers import orphans

    pointer = read_json(shop.paths.challenger)
    write_json(shop.paths.challenger, pointer | {"version": "0123456789abcdef"})
    try:
        assert "served model 0123456789abcdef, the challenger, is missing" in orphans(shop, [])
    finally:
        write_json(shop.paths.challenger, pointer)
