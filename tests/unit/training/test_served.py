"""The model that is served: fitted with the measured model's choices on everything that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from unit import backbones_world as bw

from reclm.backbones.loading import load_backbone
from reclm.dataset import Snapshot, TrainingData
from reclm.features import frame, history
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.training import model as training
from reclm.warehouse import reading

PARENTS = {"features": "of monday", "warehouse": "monday"}
MOMENTS = {"final": datetime(2024, 5, 1, tzinfo=UTC), "serve": datetime(2024, 5, 9, tzinfo=UTC)}


def data_of(snapshot: Snapshot) -> TrainingData:
    """The toy data; at `serve` every user of the first circle has taken one more item."""
    data = bw.toy_data()
    known = data.interactions.tolil()
    if snapshot == "serve":
        known[: bw.USERS_EACH, bw.N_ITEMS - 1] = 1
    return replace(data, snapshot=snapshot, interactions=known.tocsr())


class Snapshots:
    """Both snapshots of training, in memory."""

    def __init__(self) -> None:
        data = data_of("select")
        self.select, self.final = (data, bw.toy_tasks(data)), data_of("final")


@pytest.fixture(params=["biasmf", "als", "ease"])
def measured(
    request: pytest.FixtureRequest, workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> tuple[Settings, Artifact]:
    settings = workspace_settings(train={"dim": 8, "epochs": 2, "factors": 8, "patience": 1}, runtime={"threads": 1})
    monkeypatch.setattr(training, "parents_of", lambda settings: PARENTS)
    monkeypatch.setattr(frame, "load_training_data", lambda settings, snapshot: data_of(snapshot))
    monkeypatch.setattr(history, "keep", lambda settings, parents, data: None)
    monkeypatch.setattr(reading, "snapshot_as_of", lambda settings, snapshot: MOMENTS[snapshot])
    identity = training.identity_of(settings, request.param, "base", 1)
    version = training.train_one(settings, Snapshots(), *identity)  # type: ignore[arg-type]
    return settings, artifacts.load(settings.paths, "backbone", version)


class TestTheServedModel:
    def test_knows_everything_and_keeps_every_choice(self, measured: tuple[Settings, Artifact]) -> None:
        settings, model = measured
        served = training.refit_on_serve(settings, model)
        fitted, before = load_backbone(served.path).fitted, load_backbone(model.path).fitted
        assert (fitted.known != data_of("serve").interactions).nnz == 0
        assert fitted.description["snapshot"] == "serve"
        for choice in ("variant", "seed", "epochs", "cold_start", "options"):
            assert fitted.description.get(choice) == before.description.get(choice)
        assert served.metrics["as_of"] == MOMENTS["serve"].isoformat() != model.metrics["as_of"]
        assert served.manifest["parents"] == {**PARENTS, "backbone": model.version}

    def test_is_made_once(self, measured: tuple[Settings, Artifact]) -> None:
        settings, model = measured
        first = training.refit_on_serve(settings, model)
        assert training.refit_on_serve(settings, model) == first
        assert len(artifacts.all_of(settings.paths, "served")) == 1

    def test_is_fitted_with_the_settings_that_the_model_was_trained_with(
        self, measured: tuple[Settings, Artifact]
    ) -> None:
        settings, model = measured
        other = settings.model_copy(update={"train": settings.train.model_copy(update={"dim": 16, "factors": 16})})
        one, two = (load_backbone(training.refit_on_serve(each, model).path).fitted for each in (settings, other))
        assert np.array_equal(one.vectors["full_shot"].items, two.vectors["full_shot"].items)
