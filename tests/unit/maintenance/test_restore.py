"""Whose Redis database a restored workspace may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from reclm.errors import PublishError
from reclm.features import online_writer
from reclm.features.store import applied_path
from reclm.maintenance.backup import back_up
from reclm.maintenance.restore import restore
from reclm.settings.tree import Settings
from reclm.storage.files import read_json, write_json

ORIGINAL = b"the original"


class Redis(dict[str, bytes]):
    """As much of a Redis database as a claim needs."""

    def set(self, key: str, value: str, *, nx: bool) -> None:
        assert nx
        self.setdefault(key, value.encode())


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Redis:
    database = Redis()

    @contextmanager
    def client(settings: Settings) -> Iterator[Redis]:
        yield database

    monkeypatch.setattr(online_writer, "redis_client", client)
    return database


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings]) -> Settings:
    """A workspace whose features are in a Redis database."""
    settings = workspace_settings(feast={"online_store": "redis", "redis_url": "cache:6379,db=2"})
    write_json(settings.paths.dataset, {"name": "shop", "batches": []})
    write_json(applied_path(settings.paths), {"definitions": "", "owner": ORIGINAL.decode()})
    return settings


def at(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"workspace": folder})


def build(*_: object, **__: object) -> None:
    pytest.fail("nobody was removed")


class TestTheDatabaseOfTheOriginal:
    def test_is_refused_with_what_to_do_also_when_its_workspace_is_lost(
        self, settings: Settings, redis: Redis, tmp_path: Path
    ) -> None:
        back_up(settings, tmp_path / "b.tar.zst")
        redis[online_writer.OWNER_KEY] = ORIGINAL
        settings.paths.root.rename(tmp_path / "lost")
        with pytest.raises(PublishError, match=r"before it was restored.*redis-cli -h cache -p 6379 -n 2 flushdb"):
            restore(settings, tmp_path / "b.tar.zst", build)
        assert redis == {online_writer.OWNER_KEY: ORIGINAL}
        assert not settings.paths.root.exists()


class TestAnEmptyDatabase:
    def test_becomes_that_of_the_restored_workspace_and_not_of_a_second_one(
        self, settings: Settings, redis: Redis, tmp_path: Path
    ) -> None:
        back_up(settings, tmp_path / "b.tar.zst")
        restore(restored := at(settings, tmp_path / "restored"), tmp_path / "b.tar.zst", build)
        owner = read_json(applied_path(restored.paths))["owner"]
        assert redis == {online_writer.OWNER_KEY: owner.encode()}
        assert owner.encode() != ORIGINAL
        with pytest.raises(PublishError):
            restore(at(settings, tmp_path / "again"), tmp_path / "b.tar.zst", build)

    @pytest.mark.parametrize(("then", "refused"), [("one", False), ("other", True)])
    def test_is_filled_on_after_a_kill_by_a_restore_of_the_same_back_up_alone(
        self,
        settings: Settings,
        redis: Redis,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        then: str,
        refused: bool,
    ) -> None:
        for name in ("one", "other"):
            back_up(settings, tmp_path / name)
        restored = at(settings, tmp_path / "restored")

        def kill(_: Settings) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("reclm.maintenance.restore.remove_again", kill)
            restore(restored, tmp_path / "one", build)
        outcome: AbstractContextManager[object] = pytest.raises(PublishError) if refused else nullcontext()
        with outcome:
            restore(restored, tmp_path / then, build)
