"""The online recommender in this process, over a toy shop whose right answers are known."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from integration import serving_world as world
from integration.serving_world import opened_client, recommend
from scipy import sparse
from unit import backbones_world as bw

from reclm.backbones.ranking import BackboneScorer, rank
from reclm.dataset import SERVED, EvaluationTask
from reclm.features.fused import load_fused
from reclm.serving.candidate_index import load_index
from reclm.serving.filters import RankingRequest
from reclm.serving.recommender import INLINE_SECONDS, rank_and_explain, seconds_of
from reclm.settings.recommenders import BACKBONES
from reclm.settings.tree import Settings
from reclm.storage import artifacts

USER = "user 3"


class TestRecommendations:
    def test_a_known_user_gets_the_withheld_item_and_the_cold_items_of_their_circle(self, client: TestClient) -> None:
        found = recommend(client, user_id=USER, k=2)
        assert found["source"] == "trained"
        assert found["degraded"] is None
        assert set(world.circles(found)) == {0}
        assert f"item '{bw.WITHHELD[3]}'" in [one["item_id"] for one in found["items"]]

    def test_a_new_user_with_a_history_of_two_items_gets_similar_items(self, client: TestClient) -> None:
        found = recommend(client, history=["item '10'", "item '12'"], k=5)
        assert found["source"] == "folded_in"
        assert set(world.circles(found)) == {1}
        assert {"item '10'", "item '12'"}.isdisjoint(one["item_id"] for one in found["items"])

    def test_a_user_with_only_a_profile_gets_items_that_match_it(self, client: TestClient) -> None:
        found = recommend(client, user_id=world.NEWCOMER, k=5)
        assert found["source"] == "profile"
        assert set(world.circles(found)) == {1}

    def test_a_history_in_the_request_moves_a_known_user(self, client: TestClient) -> None:
        brought = [f"item '{row}'" for row in np.flatnonzero((bw.ITEM_CIRCLE == 2) & ~bw.COLD)]
        found = recommend(client, user_id=USER, history=brought, k=3)
        assert found["source"] == "folded_in"
        assert 2 in world.circles(found)

    def test_a_history_that_is_known_already_changes_nothing(self, client: TestClient) -> None:
        known = [f"item '{row}'" for row in range(bw.WARM_EACH) if row != bw.WITHHELD[3]]
        assert recommend(client, user_id=USER, history=known)["items"] == recommend(client, user_id=USER)["items"]

    def test_an_unknown_user_gets_popular_items_and_the_response_says_so(self, client: TestClient) -> None:
        for body in ({}, {"user_id": "nobody"}, {"history": ["no such item"]}):
            found = recommend(client, **body)
            assert found["source"] == "popularity"
            assert found["why_empty"] is None
            scores = [one["score"] for one in found["items"]]
            assert scores == sorted(scores, reverse=True)
        assert found["unknown_items"] == ["no such item"]

    def test_reasons_name_the_matching_phrases_and_the_most_similar_known_item(self, client: TestClient) -> None:
        best = recommend(client, user_id=USER, k=1)["items"][0]
        assert best["reasons"]["phrases"] == ["dragon", "wizard", "sword"]
        assert world.circle_of(best["reasons"]["like"]["item_id"]) == 0

    def test_an_answer_says_which_model_and_how_old_its_features_are(self, client: TestClient, shop: Settings) -> None:
        found = recommend(client, user_id=USER)
        assert found["model"]["version"] in {one.version for one in artifacts.all_of(shop.paths, "served")}
        assert datetime.fromisoformat(found["features"]["profile_as_of"]) == world.AS_OF
        assert found["features"]["age_seconds"] > 0


class TestFilters:
    def test_only_some_categories(self, client: TestClient) -> None:
        found = recommend(client, user_id=USER, k=30, categories=["KITCHEN"])
        assert set(world.circles(found)) == {1}
        assert len(found["items"]) == bw.ITEMS_EACH

    def test_only_items_created_after_a_moment(self, client: TestClient) -> None:
        found = recommend(client, k=30, created_after="2000-01-02T00:00:00Z")
        assert {int(one["item_id"].strip("item '")) % 3 for one in found["items"]} == {2}

    def test_only_these_items_ranked(self, client: TestClient) -> None:
        found = recommend(client, user_id=USER, items=["item '20'", "item '8'", "nothing"])
        assert [one["item_id"] for one in found["items"]] == ["item '8'", "item '20'"]

    def test_an_empty_filter_matches_nothing_and_says_why(self, client: TestClient) -> None:
        filters: tuple[dict[str, Any], ...] = (
            {"items": []},
            {"categories": []},
            {"items": ["x"]},
            {"categories": ["x"]},
        )
        for one in filters:
            found = recommend(client, user_id=USER, **one)
            assert found["items"] == []
            assert found["why_empty"].startswith("no item passes the filters")
        assert len(recommend(client, user_id=USER, items=None, categories=None)["items"]) == 10

    def test_when_everything_is_excluded_the_answer_says_why(self, client: TestClient, shop: Settings) -> None:
        found = recommend(client, user_id=USER, exclude=load_index(shop).item_ids.tolist())
        assert (found["items"], found["why_empty"][:10]) == ([], "every item")

    def test_what_a_filter_names_in_vain_is_said(self, client: TestClient) -> None:
        found = recommend(client, items=["item '8'", "nothing"], categories=["Dragon", "Nothing"])
        assert (found["unknown_items"], found["unknown_categories"]) == (["nothing"], ["Nothing"])
        assert [one["item_id"] for one in found["items"]] == ["item '8'"]

    def test_excluded_items_are_left_out(self, client: TestClient) -> None:
        best = recommend(client, user_id=USER, k=1)["items"][0]["item_id"]
        assert best not in [one["item_id"] for one in recommend(client, user_id=USER, k=30, exclude=[best])["items"]]

    def test_known_items_on_request(self, client: TestClient) -> None:
        assert len(recommend(client, user_id=USER, k=100, exclude_seen=False)["items"]) == bw.N_ITEMS
        assert len(recommend(client, user_id=USER, k=100)["items"]) == bw.N_ITEMS - (bw.WARM_EACH - 1)

    def test_a_number_is_an_id_too(self, client: TestClient) -> None:
        assert recommend(client, user_id=17)["user_id"] == "17"


class TestInvalidRequests:
    @pytest.mark.parametrize(
        "body",
        [
            {"k": 0},
            {"k": -1},
            {"k": 10**9},
            {"k": 1.5},
            {"k": "10"},
            {"k": True},
            {"user_id": ""},
            {"user_id": "\x00"},
            {"user_id": "x" * 513},
            {"user_id": {"a": 1}},
            {"user_id": True},
            {"history": "item"},
            {"history": [None]},
            {"history": [str(n) for n in range(501)]},
            {"created_after": "2000-01-01T00:00:00"},
            {"created_after": "yesterday"},
            {"created_after": "0001-01-01T00:00:00+14:00"},
            {"created_after": "9999-12-31T23:59:59-14:00"},
            {"no_such_field": 1},
            [],
        ],
    )
    def test_are_refused_with_the_place_but_without_the_text_that_was_sent(self, client: TestClient, body: Any) -> None:
        response = client.post("/v1/recommendations", json=body)
        assert response.status_code == 422
        assert set(response.json()) == {"error", "remedy", "where"}
        assert "no_such_field" not in response.text

    @pytest.mark.parametrize(
        "text",
        ["\U0001f600 ü", "' or 1=1 --", world.EVIL, "../../etc/passwd", "%00", "{{7*7}}", "a\u2028b", "user/3"],
    )
    def test_strange_ids_are_not_found(self, client: TestClient, text: str) -> None:
        assert recommend(client, user_id=text)["source"] == "popularity"
        assert client.get("/v1/users/" + text.replace("/", "%2F").replace("%00", "%2500")).status_code in (404, 422)

    @pytest.mark.parametrize(
        "sent", [b"{", b"\xff\xfe", b"[" * 30_000, b'{"user_id": "\\ud800"}', b"{" + b'"a":{' * 9000]
    )
    def test_a_body_that_is_not_json_is_refused(self, client: TestClient, sent: bytes) -> None:
        response = client.post("/v1/recommendations", content=sent, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)
        assert "error" in response.json()

    def test_a_compressed_body_is_told_to_be_text(self, client: TestClient) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        response = client.post("/v1/recommendations", content=gzip.compress(b'{"user_id": "u"}'), headers=headers)
        assert (response.status_code, response.json()["error"]) == (400, "the body is not text")
        assert "not compressed" in response.json()["remedy"]

    @pytest.mark.parametrize("sent_as", ["", "application/x-www-form-urlencoded", "text/plain"])
    def test_a_body_that_is_not_sent_as_json_is_told_how_to(self, client: TestClient, sent_as: str) -> None:
        headers = {"content-type": sent_as} if sent_as else {}
        for body in (b'{"user_id": "u"}', b""):
            response = client.post("/v1/recommendations", content=body, headers=headers)
            assert response.status_code == 415
            assert "content-type: application/json" in response.json()["remedy"]

    def test_a_misspelt_field_is_told_which_one_was_meant(self, client: TestClient) -> None:
        response = client.post("/v1/recommendations", json={"userId": "u"})
        assert response.json()["where"] == ["body: a field does not exist; did you mean user_id?"]

    def test_a_body_above_the_limit_is_refused(self, client: TestClient) -> None:
        for sent in (b"x" * 70_000, iter([b"x" * 40_000, b"x" * 40_000])):
            assert client.post("/v1/recommendations", content=sent).status_code == 413

    def test_unknown_users_and_items_are_not_found(self, client: TestClient) -> None:
        for path in ("/v1/users/nobody", "/v1/items/nothing", "/v1/items/nothing/similar", "/nowhere"):
            assert client.get(path).status_code == 404

    def test_an_open_service_refuses_requests_for_another_host_name(self, client: TestClient) -> None:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        for name in ("127.0.0.1:8000", "localhost", "[::1]", "[::1]:8000"):
            assert client.get("/", headers={"host": name}).status_code == 200


class TestLookups:
    def test_a_user(self, client: TestClient) -> None:
        found = client.get("/v1/users/user%203").json()
        assert found["profile"]["interests"] == ["dragon", "wizard", "sword"]
        assert (found["trained"], found["known_items"], found["activity"]) == (True, 7, "4-10")

    def test_an_item_and_its_similar_items(self, client: TestClient) -> None:
        assert client.get("/v1/items/item%20'8'").json()["cold"] is True
        found = client.get("/v1/items/item%20'10'/similar?k=4").json()
        assert set(world.circles(found)) == {1}

    def test_an_item_whose_id_ends_like_the_path_of_similar_items(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index = client.app.state.service.reloader.index  # type: ignore[attr-defined]
        monkeypatch.setitem(index.backbone.fitted.item_position, "a/similar", 10)
        assert client.get("/v1/items/a%2Fsimilar").json()["item_id"] == "item '10'"
        assert set(world.circles(client.get("/v1/items/a%2Fsimilar/similar?k=4").json())) == {1}
        assert client.get("/v1/items/a/similar").status_code == 404

    def test_search_says_that_it_is_switched_off(self, client: TestClient) -> None:
        response = client.post("/v1/search", json={"query": "dragons"})
        assert response.status_code == 503
        assert "switched off" in response.json()["error"]

    def test_health_and_metrics(self, client: TestClient) -> None:
        assert client.get("/health/live").json() == {"status": "alive"}
        assert client.get("/health/ready").json()["status"] == "ready"
        shown = client.get("/metrics").text
        assert 'reclm_requests_total{route="/v1/recommendations",status="200"}' in shown
        assert USER not in shown

    def test_every_answer_carries_its_security_headers(self, client: TestClient) -> None:
        for path in ("/", "/v1/items/nothing", "/health/live", "/nowhere"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "access-control-allow-origin" not in headers


class TestPages:
    @pytest.mark.parametrize("path", ["/", "/?q=title", "/user?id=user 0", "/item?id=item '0'", "/try?item=item '0'"])
    def test_escape_texts_written_by_others(self, client: TestClient, path: str) -> None:
        response = client.get(path)
        assert response.status_code == 200
        assert "<script" not in response.text.lower()

    def test_a_title_with_a_script_is_escaped(self, client: TestClient) -> None:
        assert "&lt;script&gt;" in client.get("/item?id=item '0'").text
        assert "&lt;script&gt;" in client.get("/user?id=<script>").text

    def test_a_user_is_shown_beside_the_model_without_profiles(self, client: TestClient) -> None:
        shown = client.get(f"/user?id={USER}").text
        assert "Without profiles (base)" in shown
        assert "user 1" in client.get("/user?id=user 0").text

    def test_an_unknown_user_gets_a_page_with_status_404(self, client: TestClient) -> None:
        assert client.get("/user?id=nobody").status_code == 404
        assert client.get("/item?id=nothing").status_code == 404


@pytest.fixture(scope="module", params=BACKBONES)
def of_every_backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A shop whose champion is each backbone in turn."""
    return world.open_shop(tmp_path_factory.mktemp(request.param), model=request.param)


class TestTheServiceRanksAsEvaluationDoes:
    """Every backbone ranks in the service exactly as it was evaluated."""

    def test_for_known_users_over_warm_and_cold_items(self, of_every_backbone: Settings) -> None:
        settings = of_every_backbone
        index = load_index(settings)
        data = world.shop_data()
        everybody = EvaluationTask(
            "final", "full_shot", data.interactions, data.interactions, np.ones(bw.N_ITEMS, dtype=bool)
        )
        expected = rank(BackboneScorer(index.backbone, SERVED), everybody, 20, batch_size=1)
        with opened_client(settings) as client:
            for row, user in enumerate(data.user_ids.tolist()):
                found = recommend(client, user_id=user, k=20)
                assert (found["source"], found["degraded"]) == ("trained", None)
                ids = data.item_ids[expected[row][expected[row] >= 0]].tolist()
                assert [one["item_id"] for one in found["items"]] == ids
            cold = data.item_ids[bw.COLD].tolist()
            found = recommend(client, user_id=USER, items=cold)
            task = EvaluationTask("final", "full_shot", data.interactions, data.interactions, bw.COLD)
            expected = rank(BackboneScorer(index.backbone, SERVED), task, len(cold), batch_size=1)
            assert [one["item_id"] for one in found["items"]] == data.item_ids[expected[3]].tolist()

    def test_for_new_users_folded_in(self, of_every_backbone: Settings) -> None:
        settings = of_every_backbone
        index = load_index(settings)
        history = sparse.csr_matrix(([1.0, 1.0], ([0, 0], [10, 12])), shape=(1, bw.N_ITEMS))
        scores = index.backbone.score_vectors(index.backbone.fold_in(history))
        scores[0, [10, 12]] = -np.inf
        expected = index.item_ids[np.argsort(-scores[0], kind="stable")[:10]].tolist()
        with opened_client(settings) as client:
            found = recommend(client, history=["item '10'", "item '12'"], k=10)
        assert [one["item_id"] for one in found["items"]] == expected

    def test_as_in_a_batch_up_to_rounding(self, of_every_backbone: Settings) -> None:
        settings = of_every_backbone
        index = load_index(settings)
        scores = index.backbone.score(np.arange(bw.N_USERS))
        published = dict(zip(*load_fused(settings, "user", index.version), strict=True))
        assert bool(published) == index.backbone.publishes_vectors
        for row, user in enumerate(index.backbone.fitted.user_ids):
            best, _ = index.best(published.get(user, index.vector(row)), 10, index.known(row))
            order = scores[row][best]
            assert (np.diff(order) <= 1e-5 * np.abs(scores[row]).max()).all()


class TestAUserWithoutKnownInteractions:
    def test_is_not_called_trained(self, shop: Settings) -> None:
        index = load_index(shop)
        known = index.backbone.fitted.known
        index.backbone.fitted.known = sparse.csr_matrix(known.shape, dtype=known.dtype)
        assert rank_and_explain(index, RankingRequest(user_id=USER), None, "")["source"] == "popularity"
        found = rank_and_explain(index, RankingRequest(user_id=USER, history=["item '10'"]), None, "")
        assert found["source"] == "folded_in"


class TestALargeRequest:
    def test_is_not_answered_in_the_event_loop(self, shop: Settings) -> None:
        index = load_index(shop)
        assert seconds_of(index, RankingRequest(user_id=USER)) < INLINE_SECONDS
        long = RankingRequest(history=[f"item '{row}'" for row in range(bw.N_ITEMS)] * 100, k=200)
        assert seconds_of(index, long) > INLINE_SECONDS
        assert seconds_of(replace(index, ann=object()), RankingRequest(items=[])) > INLINE_SECONDS


class TestAChampionWithoutProfiles:
    def test_does_not_use_the_profile_as_source(self, tmp_path: Path) -> None:
        settings = world.open_shop(tmp_path)
        base = next(
            one
            for one in artifacts.all_of(settings.paths, "backbone")
            if one.manifest["parameters"]["variant"] == "base"
        )
        world.promote(settings, base)
        with opened_client(settings) as client:
            assert recommend(client, user_id=world.NEWCOMER)["source"] == "popularity"
            assert recommend(client, user_id=world.NEWCOMER, history=["item '10'"])["source"] == "folded_in"


class TestTheApproximateIndex:
    def test_reports_its_recall_and_leaves_out_excluded_items(self, shop: Settings) -> None:
        exact = load_index(shop)
        near = load_index(shop.model_copy(update={"serve": shop.serve.model_copy(update={"ann_above": 5})}))
        assert exact.ann is None
        assert near.ann_recall is not None and near.ann_recall > 0.95
        wanted = RankingRequest(user_id=USER, k=5)
        first, second = (rank_and_explain(index, wanted, None, "") for index in (exact, near))
        assert [one["item_id"] for one in first["items"]] == [one["item_id"] for one in second["items"]]
        without = replace(wanted, exclude=[first["items"][0]["item_id"]], categories=["rocket"])
        assert rank_and_explain(near, without, None, "")["items"] == rank_and_explain(exact, without, None, "")["items"]
