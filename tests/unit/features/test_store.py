"""What makes two configurations the same online store."""

from __future__ import annotations

from pathlib import Path

import pytest

from reclm.features import store
from reclm.settings.loading import load
from reclm.settings.tree import Settings


def with_redis(folder: Path, url: str) -> Settings:
    return load(["feast.online_store=redis", f"feast.redis_url={url}"], workspace=folder, environment={})


class TestTheIdentityOfARedisServer:
    @pytest.mark.parametrize("url", ["cache:6379,password=new", "cache,username=u,password=old", "cache:6379,ssl=true"])
    def test_does_not_depend_on_how_one_signs_in(self, tmp_path: Path, url: str) -> None:
        one, other = (with_redis(tmp_path, address) for address in ("cache:6379,password=old", url))
        assert store.online_name(one) == store.online_name(other)
        assert store._fingerprint(one) == store._fingerprint(other)

    @pytest.mark.parametrize("url", ["cache:6380", "other:6379", "cache:6379,db=1"])
    def test_is_its_host_port_and_database(self, tmp_path: Path, url: str) -> None:
        one, other = (with_redis(tmp_path, address) for address in ("cache:6379", url))
        assert store._fingerprint(one) != store._fingerprint(other)

    def test_shows_no_password(self, tmp_path: Path) -> None:
        assert "hush" not in store.online_name(with_redis(tmp_path, "cache:6379,password=hush"))
