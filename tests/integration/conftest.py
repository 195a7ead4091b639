"""Fixtures that integration tests share: a Redis server, a workspace on each online store, a toy shop that serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from integration import feast_world, servers, serving_world

from reclm.settings.loading import load
from reclm.settings.tree import Settings


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Redis server on a free loopback port, gone when the tests are."""
    with servers.redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.full)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A workspace of its own, on each online store."""
    flags = [f"feast.online_store={request.param}"]
    if request.param == "redis":
        port = request.getfixturevalue("redis_port")
        flags.append(f"feast.redis_url=127.0.0.1:{port},db=3")
        feast_world.redis_client(port).flushall()
    return load(flags, workspace=tmp_path / "ws", environment={})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The toy shop of `serving_world`, ready to serve."""
    return serving_world.open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def client(shop: Settings) -> Iterator[TestClient]:
    """A client of the service over the toy shop, in this process."""
    with serving_world.opened_client(shop) as opened:
        yield opened
