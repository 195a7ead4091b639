"""Three days under a real scheduler, on SQLite.

The first day's log lies in the inbox and becomes a champion. What people do on the second day comes in through the
running service alone, and is known to the champion of the third.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from integration import airflow_world as world
from integration import served

from reclm.features.fused import load_fused
from reclm.serving.offline import load_champion, recommend_to_users
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import read_json

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]


@dataclass
class Story:
    """What could be seen after each act."""

    seconds: float = 0.0
    new_items: set[str] = field(default_factory=set)
    first: dict[str, Any] = field(default_factory=dict)
    cold: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)
    hidden: str = ""
    shown: list[set[str]] = field(default_factory=list)
    settings: Settings | None = None


def seen(airflow: world.Airflow) -> dict[str, Any]:
    settings = Settings(workspace=airflow.workspace.root)
    assert airflow.workspace.champion.exists(), f"{airflow.states()}\n{airflow.errors()}"
    champion = read_json(airflow.workspace.champion)
    return {
        "runs": airflow.states(),
        "tasks": {
            dag: [airflow.tasks(dag, run["dag_run_id"]) for run in airflow.runs(dag)] for dag in airflow.states()
        },
        "champion": champion,
        "items": load_fused(settings, "item", champion["version"]),
        "backbones": len(artifacts.all_of(airflow.workspace, "backbone")),
        "models": len(artifacts.all_of(airflow.workspace, "refine")),
        "known": airflow.sql("select count(*) from fct_known_interactions where snapshot = 'serve'")[0][0],
        "known_pairs": set(airflow.sql("select user_id, item_id from fct_known_interactions where snapshot = 'serve'")),
        "latest": airflow.sql("select max(event_ts) from stg_interactions")[0][0],
        "engines": airflow.sql("select distinct engine from dim_user_profiles"),
        "decisions": airflow.sql("select decision, candidate_version from fct_promotions order by decided_at"),
        "health": airflow.sql("select distinct name from fct_health"),
    }


def send(service: served.Service, happened: list[tuple[str, str, datetime]]) -> list[tuple[str, str]]:
    """Post the events to the service, the first batch twice, and return the pairs of user and item."""
    events = [
        {"event_id": f"e{n}", "type": "purchase", "user_id": user, "item_id": item, "event_ts": at.isoformat()}
        for n, (user, item, at) in enumerate(happened)
    ]
    batches = [events[start : start + 100] for start in range(0, len(events), 100)]
    for batch in [batches[0], *batches]:
        answer = service.post("/v1/events", {"events": batch})
        assert answer.status_code == 202, answer.text
    return [(user, item) for user, item, _ in happened]


def listed(service: served.Service) -> set[str]:
    """The ids of all items that are recommended to somebody unknown."""
    return {item["item_id"] for item in service.ask(k=200)["items"]}


@contextmanager
def one_item_hidden(service: served.Service, story: Story) -> Iterator[None]:
    """Hide an item and collect what is recommended until the block ends; then show the item again."""
    story.hidden = service.ask(k=1)["items"][0]["item_id"]
    path, ended = f"/v1/items/{story.hidden}/availability", threading.Event()
    assert service.put(path, {"available": False}).status_code == 200

    def ask() -> None:
        while not ended.wait(0.5):
            story.shown.append(listed(service))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
        assert service.put(path, {"available": True}).status_code == 200


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder, story, began = tmp_path_factory.mktemp("two-days"), Story(), time.monotonic()
    shop = world.Shop(folder / "shop", world.SHOP)
    with world.running(folder / "airflow-world", {**world.SHOP, **world.LANGUAGE_MODEL}) as airflow:
        known = shop.drop(airflow.inbox, None, shop.day(2), set())
        airflow.trigger("reclm_features", shop.day(2))
        airflow.wait_for_quiet()
        story.first = seen(airflow)

        happened = [row for row in shop.log if shop.day(2) <= row[2] < shop.day(1)]
        story.new_items = {item for _, item, _ in happened} - known
        shop.drop_items(airflow.inbox, "new", story.new_items)
        airflow.wait("reclm_cold_items", airflow.trigger("reclm_cold_items"))
        story.cold = seen(airflow)

        with served.service(airflow.workspace.root) as service:
            story.sent = send(service, happened)
            with one_item_hidden(service, story):
                airflow.trigger("reclm_features", shop.day(1))
                airflow.wait_for_quiet()
            story.second = seen(airflow)
            served.until(lambda: service.ask()["model"]["version"] == story.second["champion"]["version"])
            story.second["items_shown_again"] = listed(service)
        story.settings = Settings(workspace=airflow.workspace.root)
    story.seconds = time.monotonic() - began
    yield story


class TestTheFirstDay:
    def test_walks_from_the_inbox_to_a_champion_by_assets_alone(self, story: Story) -> None:
        assert story.first["runs"] == {
            "reclm_cold_items": [],
            "reclm_features": ["success"],
            "reclm_maintenance": [],
            "reclm_profiles": ["success", "success"],
            "reclm_training": ["success"],
            "reclm_tuning": ["success"],
        }
        assert story.first["decisions"] == [("promoted", story.first["champion"]["measured"])]

    def test_profiles_wait_for_the_model_and_are_written_by_it(self, story: Story) -> None:
        waiting, writing = story.first["tasks"]["reclm_profiles"]
        assert set(waiting.values()) == {"skipped"} and set(writing.values()) == {"success"}
        assert story.first["engines"] == [("transformers",)]

    def test_nothing_after_the_day_is_used(self, story: Story) -> None:
        assert story.first["latest"] < story.second["latest"]

    def test_its_health_is_a_table(self, story: Story) -> None:
        assert {("volume",), ("profile_format",), ("train_serve_skew",)} <= set(story.first["health"])


class TestNewItems:
    def test_become_candidates_of_the_champion_with_nothing_trained(self, story: Story) -> None:
        assert story.new_items and story.cold["runs"]["reclm_cold_items"] == ["success"]
        assert story.cold["champion"] == story.first["champion"]
        for what in ("backbones", "models"):
            assert story.cold[what] == story.first[what]
        assert story.cold["runs"]["reclm_training"] == story.first["runs"]["reclm_training"]
        before, after = (set(story_of["items"][0].tolist()) for story_of in (story.first, story.cold))
        assert after - before == story.new_items
        assert np.isfinite(story.cold["items"][1]).all()

    def test_do_not_bring_in_interactions(self, story: Story) -> None:
        assert story.cold["known"] == story.first["known"] and story.cold["latest"] == story.first["latest"]


class TestTheSecondDay:
    def test_is_decided_without_tuning_again(self, story: Story) -> None:
        assert story.second["known"] > story.first["known"]
        assert story.second["runs"]["reclm_training"] == ["success", "success"]
        assert len(story.second["decisions"]) == 2
        assert story.second["runs"]["reclm_tuning"] == ["success"] and story.second["models"] == story.first["models"]

    def test_its_champion_knows_what_people_did_with_the_service(self, story: Story) -> None:
        assert len(story.sent) > 20
        assert set(story.sent) <= story.second["known_pairs"]
        assert not set(story.sent) <= story.first["known_pairs"]
        assert story.settings is not None
        model = load_champion(story.settings)
        for user, item in story.sent:
            row = model.fitted.known[model.fitted.user_position[user]]
            assert model.fitted.item_position[item] in row.indices

    def test_a_hidden_item_is_in_no_answer_until_it_is_shown_again(self, story: Story) -> None:
        assert len(story.shown) > 10
        assert not any(story.hidden in items for items in story.shown)
        assert story.hidden in story.second["items_shown_again"]

    def test_the_champion_answers_for_every_user(self, story: Story) -> None:
        assert story.settings is not None
        lists = list(recommend_to_users(story.settings, [], sample=5, top_k=10))
        assert len(lists) == 5 and all(len(one["items"]) == 10 for one in lists)

    def test_the_two_days_take_less_than_fifteen_minutes(self, story: Story) -> None:
        beside_others = "PYTEST_XDIST_WORKER" in os.environ  # they use half of the machine
        assert story.seconds < 15 * 60 * (2 if beside_others else 1)
