"""Fixtures that the integration tests share: a Redis server, and a workspace on each online store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration import feast_world, servers

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
