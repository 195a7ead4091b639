"""Vectors of models in the feature store, and forgetting a user: the same behaviour on every online store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from integration import feast_world as world
from integration import servers
from integration.feast_world import T2, T3

from reclm.errors import PublishError, WorkspaceError
from reclm.features import fused, online, online_writer, publish, store
from reclm.settings.loading import load
from reclm.settings.tree import Settings


class TestFusedVectors:
    def test_are_written_again_where_the_online_store_has_lost_them(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        feast = store.open_store(settings)
        assert fused.restore_online(settings, "m1") == 0
        for kind, ids in (("user", world.USERS), ("item", world.ITEMS)):
            online_writer.delete_rows(feast, f"{kind}_fused", [(one, "m1") for one in ids])
        assert fused.restore_online(settings, "m1") == len(world.USERS) + len(world.ITEMS)
        found = online.read_fused(feast, "item", world.ITEMS, "m1")
        assert np.array_equal(found, world.vectors("item", "m1", world.ITEMS))
        assert fused.restore_online(settings, "never published") == 0

    def test_of_new_items_join_a_published_version_and_change_nothing_else(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        new = world.vectors("item", "later", ["new"])
        assert fused.publish_items(settings, "m1", ["new"], new, T3) == 1
        assert fused.publish_items(settings, "m1", ["new"], new, T3) == 0
        ids, vectors = fused.load_fused(settings, "item", "m1")
        assert ids.tolist() == [*world.ITEMS, "new"]
        assert np.array_equal(vectors, np.vstack([world.vectors("item", "m1", world.ITEMS), new]))
        assert np.array_equal(online.read_fused(store.open_store(settings), "item", ["new"], "m1"), new)

    def test_of_new_items_may_be_all_that_a_model_publishes(self, settings: Settings) -> None:
        nothing, new = np.zeros((0, 2), dtype=np.float32), world.vectors("item", "later", ["new"])
        alone = {"user_ids": [], "user_vectors": nothing, "item_ids": [], "item_vectors": nothing}
        assert world.publish_vectors(settings, "m1", **alone)["written"] == 0
        assert fused.load_fused(settings, "item", "m1")[0].tolist() == []
        assert fused.publish_items(settings, "m1", ["new"], new, T3) == 1
        assert np.array_equal(fused.load_fused(settings, "item", "m1")[1], new)
        assert fused.restore_online(settings, "m1") == 0

    def test_each_version_is_read_by_its_own_name(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        world.publish_vectors(settings, "m2")
        feast = store.open_store(settings)
        for version in ("m1", "m2"):
            user = online.read_user(feast, "ü'3", version)
            assert user is not None
            assert user.vector is not None
            assert np.array_equal(user.vector, world.vectors("user", version, ["ü'3"])[0])
            assert user.vector_as_of == T2
            items = online.read_fused(feast, "item", ["i3", "nobody", "i1"], version)
            assert np.array_equal(items[[0, 2]], world.vectors("item", version, ["i3", "i1"]))
            assert np.isnan(items[1]).all()
            ids, vectors = fused.load_fused(settings, "item", version)
            assert ids.tolist() == world.ITEMS
            assert np.array_equal(vectors, world.vectors("item", version, world.ITEMS))

    def test_an_unknown_version_has_no_vectors(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        assert online.read_fused(store.open_store(settings), "user", world.USERS, "m9").shape == (4, 0)
        with pytest.raises(WorkspaceError, match=r"model version m9 .*there are: m1"):
            fused.load_fused(settings, "user", "m9")

    def test_publishing_a_version_again_writes_nothing(self, settings: Settings) -> None:
        assert world.publish_vectors(settings, "m1")["written"] == 7
        assert world.publish_vectors(settings, "m1")["written"] == 0

    def test_publishing_features_leaves_vectors_alone_and_a_read_gives_both(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        world.publish_marts(settings, world.marts())
        user = world.read_user(settings, "u1", "m1")
        assert user is not None
        assert user.profile is not None
        assert user.vector is not None

    def test_a_dropped_version_is_gone_and_the_others_stay(self, settings: Settings) -> None:
        world.publish_vectors(settings, "m1")
        world.publish_vectors(settings, "m2")
        assert fused.drop_version(settings, "m1") == 7
        assert store.model_versions(settings.paths) == ["m2"]
        feast = store.open_store(settings)
        assert online.read_fused(feast, "user", world.USERS, "m1").shape == (4, 0)
        assert not np.isnan(online.read_fused(feast, "user", world.USERS, "m2")).any()
        assert fused.drop_version(settings, "m1") == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"user_vectors": np.zeros((4, 8))}, "the array is float64"),
            ({"user_vectors": np.full((4, 8), np.nan, dtype=np.float32)}, "number 0 of the vector is nan"),
            ({"item_vectors": np.zeros((3, 7), dtype=np.float32)}, "7 numbers, but user vectors have 8"),
            ({"item_ids": np.array(["i1", "i2"])}, "2 ids but 3 vectors"),
            ({"item_ids": np.array(["i1", "i2", "i1"])}, "occurs also in row 1"),
            ({"as_of": T2.replace(tzinfo=None)}, "has no time zone"),
        ],
    )
    def test_invalid_vectors_are_refused_before_anything_is_written(
        self, settings: Settings, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(PublishError, match=message):
            world.publish_vectors(settings, "m1", **changes)
        assert store.model_versions(settings.paths) == []


class TestForgettingAUser:
    def test_only_this_user_is_deleted_everywhere(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        world.publish_vectors(settings, "m1")
        world.publish_vectors(settings, "m2")
        assert online_writer.forget_users(settings, {"u1"}) == (2 + 2) + (2 + 2) + 2
        for version in ("", "m1", "m2"):
            assert world.read_user(settings, "u1", version) is None
            assert world.read_user(settings, "u 2", version) is not None
        for file in store.offline_path(settings.paths).rglob("user_*.parquet"):
            ids = pq.read_table(file)["user_id"].to_pylist()
            assert "u1" not in ids
            assert "u 2" in ids

    def test_several_users_are_deleted_together(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        online_writer.forget_users(settings, {"u1", "u 2"})
        assert [world.read_user(settings, user) is None for user in ("u1", "u 2", "4")] == [True, True, False]
        offline = pq.read_table(store.offline_path(settings.paths) / "current" / "user_profile.parquet")
        assert {"u1", "u 2", "4"} & {*offline["user_id"].to_pylist()} == {"4"}

    def test_no_byte_of_the_profile_stays_in_the_files(self, settings: Settings) -> None:
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: unmistakable; User interests: x"
        world.publish_marts(settings, rows)
        online_writer.forget_users(settings, {"u1"})
        for file in settings.paths.feast.rglob("*"):
            assert not file.is_file() or b"unmistakable" not in file.read_bytes()

    def test_the_user_stays_forgotten_when_the_same_build_is_published_again(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        online_writer.forget_users(settings, {"u1"})
        assert publish.publish(settings)["reused"]
        assert world.read_user(settings, "u1") is None

    @pytest.mark.full
    def test_no_byte_of_the_user_stays_in_the_files_of_a_redis_server(self, tmp_path: Path) -> None:
        (tmp_path / "redis").mkdir()
        with servers.redis(tmp_path / "redis", durable=True) as port:
            flags = ["feast.online_store=redis", f"feast.redis_url=127.0.0.1:{port}"]
            settings = load(flags, workspace=tmp_path / "ws", environment={})
            world.publish_marts(settings, world.marts())
            world.redis_client(port).save()
            files = [file for file in (tmp_path / "redis").rglob("*") if file.is_file()]
            assert any("ü'3".encode() in file.read_bytes() for file in files)
            online_writer.forget_users(settings, {"ü'3"})
            online_writer.rewrite_server_files(settings)
            files = [file for file in (tmp_path / "redis").rglob("*") if file.is_file()]
            assert len(files) >= 3
            assert not any("ü'3".encode() in file.read_bytes() for file in files)
            assert world.read_user(settings, "u1") is not None

    def test_forgetting_in_an_empty_workspace_deletes_nothing(self, settings: Settings) -> None:
        assert online_writer.forget_users(settings, {"u1"}) == 0
