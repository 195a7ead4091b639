"""Loading training data: a snapshot's features are aligned, and no later feature is in them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from integration import feast_world as world
from integration.feast_world import T1, T2, T3, vector
from scipy import sparse

from reclm.dataset import TrainingData
from reclm.errors import WorkspaceError
from reclm.features import history, online_writer, publish, store
from reclm.features.frame import load_training_data
from reclm.features.publish import features_version
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.storage import erasures
from reclm.training.snapshots import parents_of

DAY = timedelta(days=1)
KNOWN = [("select", "u1", "i1"), ("final", "u1", "i1"), ("final", "u1", "i3"), ("final", "ü'3", "i2")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A workspace whose warehouse knows four users and three items, their order in the tables reversed."""
    made = load([], workspace=tmp_path / "ws", environment={})
    world.write_warehouse(made, world.USERS[::-1], world.ITEMS, KNOWN)
    return made


def _publish(settings: Settings, rows: world.Marts) -> None:
    world.write_marts(settings, rows)
    publish.publish(settings)


class TestAlignment:
    def test_rows_follow_text_order_of_users_and_position_of_items(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        data = load_training_data(settings, "final")
        assert data.user_ids.tolist() == sorted(world.USERS)
        assert data.item_ids.tolist() == world.ITEMS
        assert data.texts == ["", "Text of i2", "Text of i3"]
        assert data.interactions.toarray().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]]
        assert data.user_profile is not None
        assert data.user_profile.dtype == np.float32
        assert np.array_equal(data.user_profile, np.stack([vector("profile", u, T2) for u in sorted(world.USERS)]))
        assert np.array_equal(data.item_profile, np.stack([vector("profile", i, T2) for i in world.ITEMS]))
        assert np.array_equal(data.item_content, np.stack([vector("content", i, T2) for i in world.ITEMS]))

    def test_each_snapshot_has_its_own_interactions_and_features(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        data = load_training_data(settings, "select")
        assert data.interactions.nnz == 1
        assert np.array_equal(data.user_profile, np.stack([vector("profile", u, T1) for u in sorted(world.USERS)]))

    def test_more_items_than_users_are_all_there(self, settings: Settings) -> None:
        world.write_warehouse(settings, ["u1"], [*world.ITEMS, "unseen"], [("final", "u1", "i1")])
        _publish(settings, world.marts())
        data = load_training_data(settings, "final")
        assert data.user_profile is not None
        assert data.user_profile.shape == (1, world.DIMENSION)
        assert data.item_profile is not None
        assert np.isnan(data.item_profile).all(axis=1).tolist() == [False, False, False, True]


class TestWeights:
    def test_a_log_without_types_of_events_has_none(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        assert load_training_data(settings, "final").weights is None

    def test_the_strongest_event_that_is_known_gives_the_weight(self, settings: Settings) -> None:
        feedback = [("u1", "i1", T1 - DAY, 1.0), ("u1", "i1", T1, 3.0), ("u1", "i1", T2, 5.0), ("u1", "i3", T1, -1.0)]
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.executemany("insert into fct_feedback values (?, ?, ?, ?)", feedback)
        _publish(settings, world.marts())
        select, final = (load_training_data(settings, snapshot) for snapshot in ("select", "final"))
        assert select.weights is None
        assert final.weights is not None
        assert final.weights.toarray().tolist() == [[0, 0, 0], [0, 0, 0], [3, 0, 1], [0, 1, 0]]
        assert final.interactions.toarray().max() == 1


class TestPointInTime:
    def test_a_planted_future_row_is_never_picked(self, settings: Settings) -> None:
        rows = world.marts()
        poison = np.full(world.DIMENSION, 1e6, dtype=np.float32)
        for view, key in (("user_profile", "user_id"), ("item_profile", "item_id"), ("item_content", "item_id")):
            latest = [row for row in rows[view] if row["as_of"] == T2]
            rows[view] += [row | {"as_of": T3, "created_at": T1, "embedding": poison} for row in latest]
            rows[view] += [
                row | {"as_of": T2.replace(microsecond=1), "created_at": T1, "embedding": poison, key: row[key]}
                for row in latest
            ]
        _publish(settings, rows)
        for snapshot, moment in (("select", T1), ("final", T2)):
            data = load_training_data(settings, snapshot)
            assert data.item_profile is not None
            assert np.array_equal(data.item_profile[0], vector("profile", "i1", moment))
            for matrix in (data.user_profile, data.item_profile, data.item_content):
                assert matrix is not None
                assert not (matrix == 1e6).any()

    def test_a_future_row_alone_is_no_feature(self, settings: Settings) -> None:
        rows = world.marts()
        rows["user_profile"].remove(world.row_of(rows, "user_profile", "u1", T1))
        _publish(settings, rows)
        data = load_training_data(settings, "select")
        assert data.user_profile is not None
        assert np.isnan(data.user_profile).all(axis=1).tolist() == [False, False, True, False]

    def test_the_older_row_is_picked_where_there_is_no_newer_one(self, settings: Settings) -> None:
        rows = world.marts()
        rows["user_profile"].remove(world.row_of(rows, "user_profile", "u1", T2))
        _publish(settings, rows)
        data = load_training_data(settings, "final")
        assert data.user_profile is not None
        assert np.array_equal(data.user_profile[2], vector("profile", "u1", T1))
        assert np.array_equal(data.user_profile[3], vector("profile", "ü'3", T2))

    def test_a_newer_row_without_a_vector_means_that_there_is_none(self, settings: Settings) -> None:
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["embedding"] = None
        _publish(settings, rows)
        data = load_training_data(settings, "final")
        assert data.user_profile is not None
        assert np.isnan(data.user_profile[2]).all()


class TestNothingToJoin:
    def test_a_data_set_without_texts_has_no_matrix(self, settings: Settings) -> None:
        rows = world.marts()
        rows["item_content"] = []
        for row in rows["item_profile"]:
            row["embedding"] = None
        _publish(settings, rows)
        data = load_training_data(settings, "final")
        assert data.item_content is None
        assert data.item_profile is None
        assert data.user_profile is not None

    def test_features_that_are_all_later_than_the_snapshot_are_an_error(self, settings: Settings) -> None:
        _publish(settings, world.marts(T2, T3))
        with pytest.raises(WorkspaceError, match=r"view item_content has no rows as of 2000-01-02.*reclm profile"):
            load_training_data(settings, "select")

    def test_unpublished_features_are_an_error(self, settings: Settings) -> None:
        world.write_marts(settings, world.marts())
        with pytest.raises(WorkspaceError, match="reclm publish"):
            load_training_data(settings, "final")

    def test_features_of_another_build_are_an_error_but_the_same_rows_built_again_are_not(
        self, settings: Settings
    ) -> None:
        _publish(settings, world.marts())
        world.write_marts(settings, {view: rows[::-1] for view, rows in world.marts().items()})
        load_training_data(settings, "final")
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "another"
        world.write_marts(settings, rows)
        with pytest.raises(WorkspaceError, match="not those of the current build"):
            load_training_data(settings, "final")


class TestHistory:
    """Training data of an earlier publish, made again when other features and tables are in force."""

    def train_on(self, settings: Settings, *moments: datetime, users: list[str] = world.USERS) -> TrainingData:
        """Publish another build, read its training data as training does, and keep them."""
        known = [("final", user, item) for user in users for item in world.ITEMS[: moments[1].day - 1]]
        world.write_warehouse(settings, users, world.ITEMS, known, moments=(moments[0], moments[1]))
        world.publish_marts(settings, world.marts(*moments))
        data = load_training_data(settings, "final")
        history.keep(settings, parents_of(settings), data)
        return data

    def test_is_equal_to_what_it_was(self, settings: Settings) -> None:
        before, version = self.train_on(settings, T1, T2), features_version(settings)
        after = self.train_on(settings, T2, T3, users=world.USERS[:2])
        assert not same(before, after)
        assert same(load_training_data(settings, "final", version), before)
        assert same(load_training_data(settings, "final"), after)

    def test_stays_when_its_version_is_published_again(self, settings: Settings) -> None:
        before, version = self.train_on(settings, T1, T2), features_version(settings)
        rows = world.marts(T1, T2)
        rows["item_content"][-1]["title"] = "another"
        for marts in (rows, world.marts(T1, T2)):
            world.publish_marts(settings, marts)
        assert features_version(settings) == version
        assert same(load_training_data(settings, "final", version), before)

    def test_has_its_weights(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("insert into fct_feedback values ('u1', 'i1', ?, 3.0)", [T1])
        data, version = load_training_data(settings, "final"), features_version(settings)
        history.keep(settings, parents_of(settings), data)
        assert data.weights is not None
        assert same(load_training_data(settings, "final", version), data)

    def test_is_kept_of_the_latest_versions_that_models_were_trained_on(self, settings: Settings) -> None:
        chosen = settings.model_copy(update={"feast": settings.feast.model_copy(update={"keep_versions": 1})})
        trained = []
        for day in range(3):
            self.train_on(chosen, T1 + day * DAY, T2 + day * DAY)
            trained.append(features_version(chosen))
            rows = world.marts(T1 + day * DAY, T2 + day * DAY)
            rows["item_content"][-1]["title"] = "of a delivery, without training"
            world.publish_marts(chosen, rows)
        assert history.versions(chosen.paths) == [trained[-1]]
        folders = {path.name for path in store.offline_path(chosen.paths).iterdir()}
        assert folders == {"current", trained[-1], features_version(chosen)}
        with pytest.raises(WorkspaceError, match=rf"version {trained[0]} were kept \(kept are: {trained[-1]}\)"):
            load_training_data(chosen, "final", trained[0])

    def test_does_not_hold_a_user_who_was_erased_while_a_model_was_trained(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        data, version = load_training_data(settings, "final"), features_version(settings)
        erasures.remember(settings.paths, ["u1"])
        history.keep(settings, parents_of(settings), data)
        assert "u1" not in load_training_data(settings, "final", version).user_ids

    def test_does_not_hold_a_user_who_was_forgotten(self, settings: Settings) -> None:
        before, version = self.train_on(settings, T1, T2), features_version(settings)
        self.train_on(settings, T2, T3)
        online_writer.forget_users(settings, {"u1"})
        left = load_training_data(settings, "final", version)
        rows = before.user_ids != "u1"
        assert left.user_ids.tolist() == before.user_ids[rows].tolist()
        assert (left.interactions != before.interactions[rows]).nnz == 0
        for file in store.offline_path(settings.paths).rglob("*.parquet"):
            table = pq.read_table(file)
            assert "user_id" not in table.column_names or "u1" not in table["user_id"].to_pylist()


def same(one: TrainingData, other: TrainingData) -> bool:
    """Whether two training data hold the same."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(TrainingData)]
    return all(_plain(left) == _plain(right) for left, right in pairs)


def _plain(value: Any) -> Any:
    """Arrays and matrices as lists, NaN as None."""
    if sparse.issparse(value):
        value = value.toarray()
    if not isinstance(value, np.ndarray):
        return value
    return np.where(value != value, None, value).tolist()


class TestBareFeast:
    def test_feast_apply_from_the_repository_sets_up_the_workspace_of_the_environment(self, tmp_path: Path) -> None:
        program = Path(sys.executable).with_name("feast")
        command = [program, "-c", store.repository(), "apply"]
        environment = os.environ | {"RECLM_WORKSPACE": str(tmp_path / "ws")}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "training_v1" in done.stdout
        assert {path.name for path in (tmp_path / "ws" / "feast").iterdir()} == {"offline", "online.db", "registry.db"}
