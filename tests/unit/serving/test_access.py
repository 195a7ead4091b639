"""Keys, their scopes, and what a route may ask of its caller, on an application of four routes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from reclm.errors import InputError
from reclm.serving import api_keys
from reclm.serving.access_control import AccessControl
from reclm.serving.api_keys import ApiKeys, KeyScope
from reclm.serving.route_access import needs
from reclm.settings.loading import load
from reclm.storage.workspace import Workspace

LARGE = 5000


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return load([], workspace=tmp_path, environment={}).paths


def client_of(workspace: Workspace) -> TestClient:
    settings = load(["serve.max_body=1024"], workspace=workspace.root, environment={})
    app = FastAPI()

    @app.get("/list", openapi_extra=needs("recommend"))
    async def read() -> str:
        return "read"

    @app.put("/list", openapi_extra=needs("admin", max_body=LARGE))
    async def write(request: Request) -> int:
        return len(await request.body())

    @app.post("/events", openapi_extra=needs("events"))
    async def events(request: Request) -> int:
        return len(await request.body())

    @app.get("/forgotten")
    async def forgotten() -> str:
        return "nothing was declared"

    app.add_middleware(AccessControl, settings=settings.serve, keys=ApiKeys(workspace))
    return TestClient(app, base_url="http://localhost")


def key(workspace: Workspace, *scopes: KeyScope) -> dict[str, str]:
    return {"authorization": f"Bearer {api_keys.add(workspace, '-'.join(scopes), scopes)}"}


class TestAKey:
    def test_opens_the_routes_of_its_scopes_and_no_others(self, workspace: Workspace) -> None:
        shop, admin = key(workspace, "recommend", "events"), key(workspace, "admin")
        client = client_of(workspace)
        for headers, statuses in ((shop, (200, 403, 200, 403)), (admin, (200, 200, 200, 200))):
            asked = (
                client.get("/list", headers=headers),
                client.put("/list", headers=headers),
                client.post("/events", headers=headers),
                client.get("/forgotten", headers=headers),
            )
            assert tuple(one.status_code for one in asked) == statuses

    def test_is_told_which_scope_was_missing(self, workspace: Workspace) -> None:
        refused = client_of(workspace).put("/list", headers=key(workspace, "explore")).json()
        assert refused["error"] == "this key has scope explore; this needs scope admin"
        assert "--scope admin" in refused["remedy"]

    def test_of_any_scope_sees_what_does_not_exist_and_what_every_key_may_see(self, workspace: Workspace) -> None:
        headers = key(workspace, "events")
        client = client_of(workspace)
        assert client.get("/nowhere", headers=headers).status_code == 404
        assert client.get("/openapi.json", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("old", "opens", "refuses"), [("read", "recommend explore", "events admin"), ("admin", "events admin", "")]
    )
    def test_of_an_earlier_version_opens_what_it_opened(
        self, workspace: Workspace, old: str, opens: str, refuses: str
    ) -> None:
        row = {"name": "old", "scope": old, "sha256": api_keys._digest("token"), "created_at": "2026-01-01T00:00:00Z"}
        path = api_keys.path_of(workspace)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([row]))
        found = ApiKeys(workspace).find("token")
        assert found is not None
        assert all(found.allows(scope) for scope in opens.split())  # type: ignore[arg-type]
        assert not any(found.allows(scope) for scope in refuses.split())  # type: ignore[arg-type]
        api_keys.add(workspace, "new", ["events"])
        assert [one.name for one in ApiKeys(workspace).all()] == ["old", "new"]

    def test_of_an_unknown_scope_is_not_made(self, workspace: Workspace) -> None:
        with pytest.raises(InputError, match="--scope read: use one or more of recommend, events, explore, admin"):
            api_keys.add(workspace, "shop", ["read"])


class TestABody:
    def test_may_be_as_large_as_its_route_declares(self, workspace: Workspace) -> None:
        client = client_of(workspace)
        assert client.put("/list", content=b"x" * LARGE).json() == LARGE
        assert client.put("/list", content=b"x" * (LARGE + 1)).status_code == 413
        assert client.post("/events", content=b"x" * LARGE).status_code == 413
