"""Replaying a log with a model that it never showed: three circles of users, each fond of its own items.

The service showed random lists, users click an item of their circle in one of two looks and another one in one of ten;
the model that is replayed knows the circles.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from unit.backbones_world import ITEM_CIRCLE, N_USERS, USER_CIRCLE, toy_data, toy_fitted

from reclm.errors import ArtifactError, WorkspaceError
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.trials.replay import replay

FITTED_AT = datetime(2025, 6, 1, tzinfo=UTC)
PLACES, LISTS = 3, 3000
FOND, OTHER = 0.5, 0.1


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    settings = load([], workspace=tmp_path_factory.mktemp("shop"), environment={})
    parameters = {"model": "als", "variant": "base", "seed": 1}
    with artifacts.writing(settings.paths, "backbone", parameters, {}) as draft:
        toy_fitted("als", "base").save(draft.path)
        draft.metrics = {"as_of": FITTED_AT.isoformat()}
    write_log(settings, FITTED_AT + timedelta(days=1))
    return settings, artifacts.version_of("backbone", parameters, {})


def write_log(settings: Settings, shown_at: datetime) -> None:
    """Half of the lists are drawn from all items that are new to the user, and clicks fall with the place."""
    random, known = np.random.default_rng(4), toy_data().interactions.toarray() > 0
    rows = []
    for request in range(LISTS):
        user = int(random.integers(N_USERS))
        new = np.flatnonzero(~known[user])
        explored = request % 2 == 0
        shown = random.permutation(new)[:PLACES] if explored else new[:PLACES]
        for place, item in enumerate(shown.tolist()):
            likes = FOND if ITEM_CIRCLE[item] == USER_CIRCLE[user] else OTHER
            propensity = 0.5 * (item in new[:PLACES]) + 0.5 * PLACES / len(new)
            clicked = random.random() < likes / (1 + place)
            rows.append((f"r{request}", place + 1, f"user {user}", f"item '{item}'", propensity, shown_at, clicked))
    settings.paths.warehouse.parent.mkdir(parents=True, exist_ok=True)
    settings.paths.warehouse.unlink(missing_ok=True)
    names = ("request_id", "position", "user_id", "item_id", "propensity", "shown_at", "was_clicked")
    impressions = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    user, item = np.nonzero(known)
    pairs = pa.table({"user_id": [f"user {u}" for u in user], "item_id": [f"item '{i}'" for i in item]})
    with duckdb.connect(str(settings.paths.warehouse)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("impressions", impressions)
        connection.register("pairs", pairs)
        connection.execute("create table fct_impressions as from impressions")
        connection.execute(
            "create table fct_known_interactions as "
            "select *, 'serve' as snapshot, ?::timestamptz as event_ts from pairs",
            [FITTED_AT],
        )


class TestReplay:
    def test_foretells_what_the_models_own_lists_would_earn(self, shop: tuple[Settings, str]) -> None:
        settings, version = shop
        found = replay(settings, version)
        lists, _ = toy_fitted("als", "base").recommend([f"user {u}" for u in range(N_USERS)], k=PLACES)
        circle = np.vectorize(lambda item: ITEM_CIRCLE[int(item.split("'")[1])])(lists)
        likes = np.where(circle == USER_CIRCLE[:, None], FOND, OTHER)
        truth = (likes / (1 + np.arange(PLACES))).mean()
        assert found.estimate.lo < truth < found.estimate.hi
        assert found.estimate.lo > found.shown.hi
        assert found.estimate.support == pytest.approx(1, abs=0.1)
        assert (found.model, found.n_lists, found.places, found.n_users) == ("als/base", LISTS, PLACES, N_USERS)

    def test_lists_shown_before_the_model_was_fitted_do_not_count(self, shop: tuple[Settings, str]) -> None:
        settings, _ = shop
        parameters = {"model": "als", "variant": "base", "seed": 2}
        with artifacts.writing(settings.paths, "backbone", parameters, {}) as draft:
            toy_fitted("als", "base").save(draft.path)
            draft.metrics = {"as_of": (FITTED_AT + timedelta(days=2)).isoformat()}
        with pytest.raises(WorkspaceError, match=r"after 2025-06-03 00:00 UTC.*serve\.exploration above 0"):
            replay(settings, artifacts.version_of("backbone", parameters, {}))

    def test_an_unknown_version_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="no trained model has version nope"):
            replay(load([], workspace=tmp_path, environment={}), "nope")
