"""Reading features for many requests at once: what one slow read, or one broken row, does to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reclm.features import online, store
from reclm.serving.feature_client import CircuitBreaker, FeatureClient, StoreUnavailableError
from reclm.settings.loading import load

Reader = Callable[[Sequence[str]], list[Any]]


class Reads:
    """Stands for the online store: answers each user with their id, unless a test says otherwise."""

    def __init__(self) -> None:
        self.answer: Reader = list
        self.sizes: list[int] = []

    def __call__(self, _: Any, user_ids: Sequence[str], version: str) -> list[Any]:
        self.sizes.append(len(user_ids))
        return self.answer(user_ids)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    stand_in = Reads()
    monkeypatch.setattr(online, "read_users", stand_in)
    monkeypatch.setattr(store, "open_for_requests", lambda *_: object())
    return stand_in


@pytest.fixture
def client(reads: Reads, tmp_path: Path) -> Iterator[FeatureClient]:
    flags = ["serve.store_timeout_ms=200", "serve.breaker_failures=3"]
    opened = FeatureClient(load(flags, workspace=tmp_path, environment={}))
    opened.start()
    yield opened
    opened.stop()


async def ask(client: FeatureClient, *user_ids: str) -> list[Any]:
    return await asyncio.gather(*(client.user(user, "v1") for user in user_ids), return_exceptions=True)


class TestOneSlowRead:
    def test_counts_once_however_many_wait_for_it(self, client: FeatureClient, reads: Reads) -> None:
        may_answer = threading.Event()

        def slow(user_ids: Sequence[str]) -> list[Any]:
            may_answer.wait(10)
            return list(user_ids)

        reads.answer = slow
        answers = asyncio.run(ask(client, *(f"user {n}" for n in range(20))))
        may_answer.set()
        assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
        assert client.breaker.failures_in_a_row == 1
        assert not client.breaker.is_open
        assert asyncio.run(ask(client, "user 1")) == ["user 1"]

    def test_that_never_ends_opens_the_breaker_all_the_same(self) -> None:
        breaker = CircuitBreaker(failures=2, seconds=1, timeout=0)
        for _ in range(2):
            breaker.record_failure("no answer", read=1)
        assert breaker.is_open

    def test_that_fails_counts_once(self) -> None:
        breaker = CircuitBreaker(failures=2, seconds=1, timeout=60)
        for _ in range(64):
            breaker.record_failure("ConnectionError", read=1)
        assert not breaker.is_open
        breaker.record_failure("ConnectionError", read=2)
        assert breaker.is_open


class TestARowThatCannotBeDecoded:
    def test_degrades_its_own_user_alone(self, client: FeatureClient, reads: Reads) -> None:
        def decode(user_ids: Sequence[str]) -> list[Any]:
            if "broken" in user_ids:
                raise ValueError("not a vector")
            return list(user_ids)

        reads.answer = decode
        users = [f"user {n}" for n in range(63)]
        *found, broken = asyncio.run(ask(client, *users, "broken"))
        assert found == users
        assert "reclm publish" in str(broken)
        assert len(reads.sizes) < 20

    def test_says_nothing_of_the_store(self, client: FeatureClient, reads: Reads) -> None:
        def decode(user_ids: Sequence[str]) -> list[Any]:
            raise ValueError("not a vector")

        reads.answer = decode
        for _ in range(5):
            asyncio.run(ask(client, "broken"))
        assert client.breaker.failures_in_a_row == 0
