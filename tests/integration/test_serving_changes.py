"""The online recommender while its workspace changes or its store fails; keys and limits."""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend, wait_until
from unit import backbones_world as bw

from reclm.errors import InputError
from reclm.features import online, online_writer
from reclm.promotion.new_items import place_new_items
from reclm.serving import api_keys
from reclm.serving.api import create_app
from reclm.serving.offline import recommend_to_users
from reclm.storage import artifacts
from reclm.storage.files import read_json, write_json, write_table

USER = "user 3"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with opened_client(world.open_shop(tmp_path_factory.mktemp("shop"))) as opened:
        yield opened


class TestANewItem:
    @pytest.mark.parametrize("model", ["biasmf", "ease"])  # ease publishes no vectors but those of new items
    def test_is_recommended_to_users_of_its_kind_without_a_restart(self, tmp_path: Path, model: str) -> None:
        settings = world.settings_of(tmp_path, "serve.reload_seconds=0.1")
        data = world.shop_data()
        world.write_tables(settings, data)
        world.fw.write_marts(settings, world.marts(data))
        world.publish(settings)
        chosen = world.fit(settings, world.without_cold(data), model, "augment")
        world.promote(settings, chosen)
        new = "item '8'"
        with opened_client(settings) as client:
            assert client.get(f"/v1/items/{new}").status_code == 404
            before = client.app.state.service.reloader.index  # type: ignore[attr-defined]
            recommend(client, user_id=USER)
            place_new_items(settings)
            wait_until(lambda: client.get(f"/v1/items/{new}").status_code == 200)
            assert client.get(f"/v1/items/{new}").json()["added_since_training"] is True
            after = client.app.state.service.reloader.index  # type: ignore[attr-defined]
            assert after.trained is before.trained, "the model was not read again"
            assert after.catalogue._words.keys() >= before.catalogue._words.keys() != set()
            assert (
                recommend(client, user_id=USER, k=1, exclude=[f"item '{bw.WITHHELD[3]}'"])["items"][0]["item_id"] == new
            )


class TestAnotherChampion:
    def test_takes_over_and_a_broken_one_does_not(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.1")
        first = json.loads(settings.paths.champion.read_text())
        second = world.fit(settings, world.shop_data(), "biasmf", "augment", seed=2)
        with opened_client(settings) as client:
            assert recommend(client)["model"]["version"] == first["version"]
            served = world.promote(settings, second)
            wait_until(lambda: recommend(client)["model"]["version"] == served)
            write_json(settings.paths.champion, {**first, "version": "0123456789abcdef"})
            wait_until(lambda: client.get("/health/ready").json()["status"] == "degraded")
            assert "0123456789abcdef" in client.get("/health/ready").json()["problems"][0]
            assert recommend(client, user_id=USER)["model"]["version"] == served
            (artifacts.load(settings.paths, "served", first["version"]).path / "users.parquet").write_bytes(b"PAR1")
            write_json(settings.paths.champion, first)
            wait_until(lambda: "0123456789abcdef" not in str(client.get("/health/ready").json()["problems"]))
            assert client.get("/health/ready").json()["status"] == "degraded"
            assert recommend(client, user_id=USER)["model"]["version"] == served
            world.promote(settings, second)
            wait_until(lambda: client.get("/health/ready").json()["status"] == "ready")


@pytest.mark.parametrize("model", ["biasmf", "ease"])
class TestANewerBuild:
    def test_is_known_though_the_champion_stays(self, tmp_path: Path, model: str) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.1", model=model)
        with opened_client(settings) as client:
            first = recommend(client, user_id=USER, k=1)
            bought = first["items"][0]["item_id"]
            assert recommend(client, user_id="walk-in")["source"] == "popularity"
            with duckdb.connect(str(settings.paths.warehouse)) as connection:
                for user in (USER, "walk-in"):
                    row = ["serve", user, bought, world.fw.T2, 1]
                    connection.execute("insert into fct_known_interactions values (?, ?, ?, ?, ?)", row)
            build = read_json(settings.paths.current_build)
            write_json(settings.paths.current_build, build | {"fingerprint": "of the next day"})
            wait_until(lambda: recommend(client, user_id=USER)["source"] == "folded_in")
            assert bought not in [one["item_id"] for one in recommend(client, user_id=USER, k=bw.N_ITEMS)["items"]]
            assert recommend(client, user_id="walk-in")["source"] == "folded_in"
            assert recommend(client, user_id="user 4")["source"] == "trained"
            assert recommend(client, user_id=USER)["model"]["version"] == first["model"]["version"]
        (found,) = recommend_to_users(settings, [USER], top_k=bw.N_ITEMS)
        assert bought not in [one["item_id"] for one in found["items"]]


@pytest.mark.parametrize(
    "file", ["users.parquet", "items.parquet", "fold_in.safetensors", "parameters.safetensors", "config.json"]
)
class TestAChampionThatCannotBeRead:
    def test_is_refused_and_reported_then_loaded_once_it_is_complete(self, tmp_path: Path, file: str) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.05")
        first = json.loads(settings.paths.champion.read_text())["version"]
        trained = world.fit(settings, world.shop_data(), "biasmf", "augment", seed=2)
        second = world.served_of(settings, trained)
        broken = second.path / file
        whole = broken.read_bytes()
        with opened_client(settings) as client:
            world.promote(settings, trained)
            broken.write_bytes(whole[:7])
            (second.path / "users.parquet").touch()
            wait_until(lambda: client.get("/health/ready").json()["status"] == "degraded")
            broken.write_bytes(whole)
            assert recommend(client, user_id=USER)["model"]["version"] in (first, second.version)
            wait_until(lambda: client.get("/health/ready").json()["status"] == "ready")
            assert recommend(client, user_id=USER)["model"]["version"] == second.version


class TestAnIndexThatWasReplaced:
    def test_leaves_the_memory(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path)
        with opened_client(settings) as client:
            reloader = client.app.state.service.reloader  # type: ignore[attr-defined]
            assert recommend(client, user_id=USER)["items"]
            before = weakref.ref(reloader.index)
            assert client.portal is not None
            assert client.portal.call(reloader.refresh, True)
            assert reloader.index is not before()
            assert before() is None


class TestAChampionPointerThatIsMissingForAMoment:
    def test_leaves_nothing_degraded(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.05")
        with opened_client(settings) as client:
            aside = settings.paths.champion.rename(tmp_path / "aside.json")
            wait_until(lambda: client.get("/health/ready").json()["status"] == "degraded")
            aside.rename(settings.paths.champion)
            wait_until(lambda: client.get("/health/ready").json()["status"] == "ready")


class TestAWorkspaceWithoutAChampion:
    def test_is_waited_for_with_503(self, tmp_path: Path) -> None:
        settings = world.settings_of(tmp_path, "serve.reload_seconds=0.05", "serve.wait=true")
        with opened_client(settings) as client:
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 503
            assert client.get("/health/ready").json()["status"] == "waiting"
            for asked in (client.post("/v1/recommendations", json={}), client.get("/"), client.get("/v1/users/u")):
                assert (asked.status_code, asked.headers["retry-after"]) == (503, "5")
            world.open_shop(tmp_path)
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            found = recommend(client, user_id=USER)
            assert (found["source"], found["degraded"]) == ("trained", None)


class TestAForgottenUser:
    def test_is_no_longer_known_to_a_running_service(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.1")
        with opened_client(settings) as client:
            assert recommend(client, user_id=USER)["source"] == "trained"
            online_writer.forget_users(settings, {USER})
            version = json.loads(settings.paths.champion.read_text())["version"]
            users = artifacts.load(settings.paths, "served", version).path / "users.parquet"
            table = pq.read_table(users)
            write_table(users, table.filter(pc.not_equal(table["user_id"], USER)))
            wait_until(lambda: recommend(client, user_id=USER)["source"] == "popularity")
            assert client.get("/v1/users/user%203").status_code == 404


class TestAFeatureStoreThatIsDown:
    def test_is_not_read_after_failures_until_it_answers_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = world.open_shop(tmp_path, "serve.breaker_failures=3", "serve.breaker_seconds=0.2")
        real, calls = online.read_users, []

        def broken(*arguments: Any) -> Any:
            calls.append(1)
            raise ConnectionError("no route to the store")

        with opened_client(settings) as client:
            right = recommend(client, user_id=USER)
            monkeypatch.setattr(online, "read_users", broken)
            for _ in range(10):
                found = recommend(client, user_id=USER)
                assert found["degraded"].startswith("feature store")
                assert [one["item_id"] for one in found["items"]] == [one["item_id"] for one in right["items"]]
                assert "no route" not in str(found)
            assert len(calls) <= 5
            assert client.get("/health/ready").json()["status"] == "degraded"
            assert recommend(client, user_id=world.NEWCOMER)["source"] == "popularity"
            assert client.get(f"/user?id={USER}").status_code == 200
            monkeypatch.setattr(online, "read_users", real)
            wait_until(lambda: recommend(client, user_id=USER)["degraded"] is None, 5)
            assert client.get("/health/ready").json()["status"] == "ready"

    def test_does_not_delay_responses_beyond_the_time_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = world.open_shop(tmp_path, "serve.store_timeout_ms=50", "serve.breaker_failures=1")
        real = online.read_users

        def slow(*arguments: Any) -> Any:
            time.sleep(0.5)
            return real(*arguments)

        with opened_client(settings) as client:
            monkeypatch.setattr(online, "read_users", slow)
            started = time.monotonic()
            assert recommend(client, user_id=USER)["degraded"] == "feature store: no answer within 50 ms"
            assert time.monotonic() - started < 0.4


class TestApiKeys:
    def test_every_route_needs_a_key_of_its_scope(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path)
        shop = api_keys.add(settings.paths, "shop", ["recommend"])
        reader = api_keys.add(settings.paths, "read", ["explore"])
        admin = api_keys.add(settings.paths, "admin", ["admin"])
        expired = api_keys.add(settings.paths, "old", ["admin"], days=1e-9)
        with opened_client(settings) as client:
            for token in ("", "wrong", reader[:-1], expired):
                headers = {"authorization": f"Bearer {token}"} if token else {}
                for path in ("/", "/v1/users/u", "/metrics", "/openapi.json"):
                    assert client.get(path, headers=headers).status_code == 401
            assert client.get("/health/live").status_code == 200
            assert client.get("/", headers={"accept": "text/html"}).headers["www-authenticate"].startswith("Basic")
            bearer = {"authorization": f"Bearer {reader}"}
            assert client.get("/", headers={**bearer, "host": "shop.example"}).status_code == 200
            assert client.get("/", auth=("anybody", reader)).status_code == 200
            assert client.get("/", headers={"x-api-key": reader}).status_code == 200
            assert client.get("/", headers={"authorization": "Basic !!"}).status_code == 401
            assert client.post("/admin/reload", headers=bearer).status_code == 403
            assert client.post("/v1/recommendations", json={}, headers=bearer).status_code == 403
            bearer_of_shop = {"authorization": f"Bearer {shop}"}
            assert client.post("/v1/recommendations", json={}, headers=bearer_of_shop).status_code == 200
            for path in ("/", "/user?id=u", "/v1/users/u"):
                assert client.get(path, headers=bearer_of_shop).status_code == 403
            done = client.post("/admin/reload", headers={"authorization": f"Bearer {admin}"})
            assert done.json()["reloaded"] is True
            api_keys.remove(settings.paths, "read")
            assert client.get("/", headers=bearer).status_code == 401

    def test_a_service_on_the_network_refuses_everybody_after_its_last_key_is_removed(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.host=0.0.0.0")
        token = api_keys.add(settings.paths, "shop", ["admin"])
        with opened_client(settings) as client:
            headers = {"authorization": f"Bearer {token}"}
            assert client.post("/admin/reload", headers=headers).status_code == 200
            api_keys.remove(settings.paths, "shop")
            assert client.post("/admin/reload", headers=headers).status_code == 401
            assert client.get("/").status_code == 401

    def test_health_shows_no_text_of_an_exception_to_strangers(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.reload_seconds=0.05")
        token = api_keys.add(settings.paths, "shop", ["recommend"])
        with opened_client(settings) as client:
            write_json(settings.paths.champion, {"version": "0123456789abcdef"})
            wait_until(lambda: client.get("/health/ready").json()["status"] == "degraded")
            expected = ["the newest state of the workspace could not be loaded"]
            assert client.get("/health/ready").json()["problems"] == expected
            assert client.get("/health/ready", headers={"host": "shop.example"}).json()["problems"] == expected
            known = client.get("/health/ready", headers={"authorization": f"Bearer {token}"}).json()
            assert "champion.json" in known["problems"][0]

    @pytest.mark.parametrize("days", [0, -1, float("nan"), 1e12])
    def test_an_invalid_number_of_days_is_refused(self, tmp_path: Path, days: float) -> None:
        with pytest.raises(InputError, match="days"):
            api_keys.add(world.settings_of(tmp_path).paths, "shop", ["recommend"], days=days)

    def test_a_page_of_another_site_changes_nothing(self, client: TestClient) -> None:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert client.post("/admin/reload", headers=headers).status_code == 403
        own = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}
        assert client.post("/v1/recommendations", json={}, headers=own).status_code == 200

    def test_metrics_can_be_open_without_a_key(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.open_metrics=true")
        api_keys.add(settings.paths, "shop", ["recommend"])
        with opened_client(settings) as client:
            assert client.get("/metrics").status_code == 200
            assert client.get("/openapi.json").status_code == 401

    def test_the_explorer_can_be_left_out(self, tmp_path: Path) -> None:
        with opened_client(world.open_shop(tmp_path, "serve.explorer=false")) as client:
            for path in ("/", "/user?id=user 0", "/item?id=item '0'", "/try", "/style.css"):
                assert client.get(path).status_code == 404
            assert recommend(client, user_id=USER)["items"]

    def test_every_route_declares_its_scope(self, client: TestClient) -> None:
        routes = [route for route in client.app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
        assert [route.path for route in routes if "x-scope" not in (route.openapi_extra or {})] == []

    def test_the_file_has_no_token_and_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        settings = world.settings_of(tmp_path)
        token = api_keys.add(settings.paths, "shop", ["recommend"])
        path = api_keys.path_of(settings.paths)
        assert token not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0


class TestLimits:
    def test_a_client_above_its_rate_gets_429_with_retry_after(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path, "serve.rate=1", "serve.burst=3")
        with opened_client(settings) as client:
            statuses = [client.post("/v1/recommendations", json={}).status_code for _ in range(5)]
            assert statuses == [200, 200, 200, 429, 429]
            refused = client.post("/v1/recommendations", json={})
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/health/live").status_code == 200

    def test_requests_above_the_limit_in_progress_get_503(self, tmp_path: Path) -> None:
        import httpx

        settings = world.open_shop(tmp_path, "serve.max_in_flight=2")
        app = create_app(settings)

        async def crowd() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return list(
                    await asyncio.gather(
                        *(client.post("/v1/recommendations", json={"user_id": USER}) for _ in range(20))
                    )
                )

        answers = asyncio.run(crowd())
        statuses = [one.status_code for one in answers]
        assert set(statuses) == {200, 503}
        assert all(one.headers["retry-after"] == "1" for one in answers if one.status_code == 503)
