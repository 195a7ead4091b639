"""What training lays beside the published features that it read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scipy import sparse
from unit import backbones_world as bw

from reclm.errors import WorkspaceError
from reclm.features import history, store
from reclm.settings.tree import Settings
from reclm.storage.files import read_json, write_json

PARENTS = {"features": "of monday", "warehouse": "monday"}


def put_in_force(settings: Settings, parents: dict[str, str]) -> None:
    """Leave what a build and a publish say of themselves."""
    write_json(settings.paths.current_build, {"fingerprint": parents["warehouse"]})
    write_json(settings.paths.feast / "published.json", {"version": parents["features"]})


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = workspace_settings()
    monkeypatch.setattr(history, "snapshot_as_of", lambda *_: datetime(2024, 5, 1, tzinfo=UTC))
    put_in_force(made, PARENTS)
    return made


def kept_files(settings: Settings) -> dict[str, Path]:
    return {file.name: file for file in store.offline_path(settings.paths).rglob("training/final/*")}


class TestTrainingData:
    def test_are_written_once_for_all_processes_that_train_on_them(self, settings: Settings) -> None:
        data = replace(bw.toy_data(), snapshot="final")
        history.keep(settings, PARENTS, data)
        files = kept_files(settings)
        before, kept_at = files["users.parquet"].stat().st_ino, read_json(files["snapshot.json"])["kept_at"]
        history.keep(settings, PARENTS, data)
        assert files["users.parquet"].stat().st_ino == before
        assert read_json(files["snapshot.json"])["kept_at"] > kept_at, "the version was trained on just now"

    def test_of_other_tables_with_the_same_features_take_their_place(self, settings: Settings) -> None:
        data = replace(bw.toy_data(), snapshot="final")
        history.keep(settings, PARENTS, data)
        tuesday = PARENTS | {"warehouse": "tuesday"}
        put_in_force(settings, tuesday)
        history.keep(settings, tuesday, replace(data, interactions=sparse.csr_matrix(data.interactions.shape)))
        assert history.load(settings.paths, PARENTS["features"], "final")[0].interactions.nnz == 0

    @pytest.mark.parametrize("newer", [{"features": "of tuesday"}, {"warehouse": "tuesday"}])
    def test_that_may_be_newer_than_their_version_are_refused(self, newer: dict[str, str], settings: Settings) -> None:
        put_in_force(settings, PARENTS | newer)
        with pytest.raises(WorkspaceError, match=r"tuesday.*run the command again"):
            history.keep(settings, PARENTS, bw.toy_data())
        assert not store.offline_path(settings.paths).exists()
