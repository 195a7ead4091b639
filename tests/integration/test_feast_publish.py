"""Publishing and reading back, the same behaviour on every online store: SQLite always, Redis in the full suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration import feast_world as world
from integration import servers
from integration.feast_world import T1, T2, T3

from reclm.errors import PublishError, WorkspaceError
from reclm.features import fused, online, online_writer, publish, store
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
        _redis(port).flushall()
    return load(flags, workspace=tmp_path / "ws", environment={})


def _redis(port: int) -> Any:
    from redis import Redis

    return Redis(host="127.0.0.1", port=port, db=3)


def _publish(settings: Settings, rows: world.Marts, **options: Any) -> dict[str, Any]:
    world.write_marts(settings, rows)
    return publish.publish(settings, **options)


def _user(settings: Settings, user_id: str, model_version: str = "") -> online.UserFeatures | None:
    return online.read_user(store.open_store(settings), user_id, model_version)


def _profile(settings: Settings, user_id: str) -> online.Profile:
    features = _user(settings, user_id)
    assert features is not None
    assert features.profile is not None
    return features.profile


def _everything(settings: Settings) -> tuple[list[Any], list[Any]]:
    """All that readers see, online and offline, in a form that can be compared."""
    feast = store.open_store(settings)
    users = [repr(online.read_user(feast, user)) for user in world.USERS]
    items = [repr(item) for item in online.read_items(feast, world.ITEMS).values()]
    current = store.offline_path(settings.paths) / "current"
    tables = [pq.read_table(current / f"{view}.parquet").to_pylist() for view in world.VIEWS]
    return users + items, tables


class TestWhatIsPublishedReadsBack:
    def test_a_user_has_the_newest_profile_vector_and_activity(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        for user in world.USERS:
            features = _user(settings, user)
            assert features is not None
            assert features.profile is not None
            assert features.profile.text == f"User identity: {user}; User interests: 2000-01-03"
            assert features.profile.as_of == features.activity_as_of == T2
            assert features.profile.embedding is not None
            assert features.profile.embedding.dtype == np.float32
            assert np.array_equal(features.profile.embedding, world.vector("profile", user, T2))
            assert (features.n_interactions, features.activity) == (world.USERS.index(user), "1-3")
            assert features.vector is None

    def test_items_come_by_id_with_content_profile_and_popularity(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        items = online.read_items(store.open_store(settings), ["i2", "nobody", "i1"])
        assert list(items) == ["i2", "i1"]
        assert items["i2"].title == "Title of i2"
        assert items["i2"].content is not None
        assert np.array_equal(items["i2"].content, world.vector("content", "i2", T2))
        assert items["i2"].popularity_rank == 2

    def test_an_unknown_user_is_none(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        assert _user(settings, "nobody") is None

    def test_what_is_not_known_of_an_entity_comes_back_as_none(self, settings: Settings) -> None:
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2).update(embedding=None, quality=None, flag="no_text")
        world.row_of(rows, "user_activity", "u1", T2).update(days_since_last=None, n_categories=None)
        _publish(settings, rows)
        features = _user(settings, "u1")
        assert features is not None
        assert features.profile is not None
        assert features.profile.embedding is None
        assert features.profile.quality is None
        assert features.profile.flag == "no_text"
        assert features.days_since_last is None
        assert features.n_categories is None
        assert features.n_interactions == 0

    def test_rows_without_an_id_and_the_row_of_an_empty_model_are_left_out(self, settings: Settings) -> None:
        rows = world.marts()
        rows["item_profile"] = [dict.fromkeys(rows["item_profile"][0])]
        rows["user_profile"].append(dict.fromkeys(rows["user_profile"][0]))
        published = _publish(settings, rows)
        assert published["views"]["item_profile"]["rows"] == 0
        assert published["views"]["user_profile"]["rows"] == 2 * len(world.USERS)
        assert online.read_items(store.open_store(settings), ["i1"])["i1"].profile is None

    def test_all_history_stays_offline(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        file = store.offline_path(settings.paths) / "current" / "user_profile.parquet"
        assert sorted(pq.read_table(file)["as_of"].unique().to_pylist()) == [T1, T2]

    def test_reading_before_anything_is_published_names_the_command(self, settings: Settings) -> None:
        with pytest.raises(WorkspaceError, match="reclm publish"):
            store.open_store(settings)
        with pytest.raises(WorkspaceError, match="reclm build"):
            publish.publish(settings)


class TestPublishingAgain:
    def test_the_same_build_is_reused(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        first = _publish(settings, world.marts())
        before = world.snapshot_of_files(settings.paths.feast)
        monkeypatch.setattr(online_writer, "write_rows", lambda *_: pytest.fail("wrote online"))
        again = publish.publish(settings)
        assert (first["reused"], again["reused"]) == (False, True)
        assert again["version"] == first["version"]
        assert world.snapshot_of_files(settings.paths.feast) == before

    def test_the_same_rows_in_another_order_and_of_another_time_have_the_same_version(self, settings: Settings) -> None:
        first = _publish(settings, world.marts())
        rows = {view: [row | {"created_at": T3} for row in reversed(mart)] for view, mart in world.marts().items()}
        again = _publish(settings, rows)
        assert again["reused"]
        assert again["version"] == first["version"]

    def test_only_changed_rows_are_written_online(self, settings: Settings) -> None:
        first = _publish(settings, world.marts())
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: new; User interests: new"
        second = _publish(settings, rows)
        assert [view["written"] for view in first["views"].values()] == [4, 3, 3, 4, 3]
        assert [view["written"] for view in second["views"].values()] == [1, 0, 0, 0, 0]
        assert second["version"] != first["version"]

    def test_a_corrected_row_of_the_same_as_of_reaches_readers(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: new; User interests: new"
        _publish(settings, rows)
        assert _profile(settings, "u1").text == "User identity: new; User interests: new"

    def test_a_user_no_longer_in_the_build_is_no_longer_online(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        rows = world.marts()
        for view in ("user_profile", "user_activity"):
            rows[view] = [row for row in rows[view] if row["user_id"] != "u1"]
        published = _publish(settings, rows)
        assert published["views"]["user_profile"]["deleted"] == 1
        assert _user(settings, "u1") is None
        assert _user(settings, "u 2") is not None

    def test_an_online_store_that_lost_its_rows_is_filled_again(
        self, settings: Settings, request: pytest.FixtureRequest
    ) -> None:
        _publish(settings, world.marts())
        before = _everything(settings)
        if settings.feast.online_store == "redis":
            _redis(request.getfixturevalue("redis_port")).flushall()
        else:
            for file in settings.paths.feast.glob("online.db*"):
                file.unlink()
        assert not publish.publish(settings)["reused"]
        assert _everything(settings) == before


class TestNewerThan:
    def test_an_older_build_is_refused_and_changes_nothing(self, settings: Settings) -> None:
        _publish(settings, world.marts(T2, T3))
        before = _everything(settings)
        with pytest.raises(PublishError, match=r"view user_profile, column as_of, row \d .*2000-01-03.*2000-01-04"):
            _publish(settings, world.marts(T1, T2))
        assert _everything(settings) == before

    def test_going_back_on_purpose_is_possible(self, settings: Settings) -> None:
        _publish(settings, world.marts(T2, T3))
        _publish(settings, world.marts(T1, T2), rewind=True)
        assert _profile(settings, "u1").as_of == T2

    def test_an_empty_view_does_not_replace_one_with_rows(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        rows = world.marts()
        rows["item_content"] = []
        with pytest.raises(PublishError, match="view item_content: has no rows, but 6 are published"):
            _publish(settings, rows)

    def test_a_row_older_than_the_one_online_does_not_overwrite_it(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        rows = world.marts()
        rows["user_profile"].remove(world.row_of(rows, "user_profile", "u1", T2))
        published = _publish(settings, rows)
        assert published["views"]["user_profile"]["kept_newer"] == 1
        assert _profile(settings, "u1").as_of == T2


class TestNothingHalfWay:
    def test_an_unfit_row_in_the_last_view_keeps_the_first_from_being_written(self, settings: Settings) -> None:
        rows = world.marts()
        naive = world.SCHEMAS["item_activity"].set(1, pa.field("as_of", pa.timestamp("us")))
        for row in rows["item_activity"]:
            row["as_of"] = row["as_of"].replace(tzinfo=None)
        world.write_marts(settings, rows, {"item_activity": naive})
        with pytest.raises(PublishError, match=r"view item_activity, column as_of, row 1 .* has no time zone"):
            publish.publish(settings)
        assert not any(path.is_file() for path in settings.paths.feast.rglob("*"))

    def test_vectors_of_another_width_than_the_encoder_has_are_refused(self, settings: Settings) -> None:
        rows = world.marts()
        for row in rows["item_content"]:
            row["embedding"] = row["embedding"][:7]
        with pytest.raises(
            PublishError, match=r"view item_content, column embedding, row 1 .*has 7 numbers, declared are 384"
        ):
            _publish(settings, rows)

    @pytest.mark.parametrize(
        ("module", "name", "call"),
        [
            (online_writer, "write_rows", 1),
            (online_writer, "write_rows", 3),
            (online_writer, "delete_rows", 1),
            (publish, "_switch", 1),
        ],
    )
    def test_a_crash_leaves_the_old_files_in_force_and_a_rerun_completes(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int
    ) -> None:
        _publish(settings, world.marts(T1, T2))
        _, old_files = _everything(settings)
        world.write_marts(settings, world.marts(T2, T3))
        with monkeypatch.context() as crashing:
            crashing.setattr(module, name, _crash_at(call, getattr(module, name)))
            with pytest.raises(KeyboardInterrupt):
                publish.publish(settings)
        online_rows, files = _everything(settings)
        assert files == old_files
        assert all("profile=Profile(" in row for row in online_rows)
        assert not publish.publish(settings)["reused"]
        recovered = _everything(settings)
        assert _profile(settings, "u1").as_of == T3
        assert {path.name for path in store.offline_path(settings.paths).iterdir()} == {
            "current",
            publish.require_published(settings)["version"],
        }
        assert recovered == _undisturbed(settings)


def _crash_at(call: int, whole: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 100))

    def crashing(*given: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return whole(*given, **named)

    return crashing


def _undisturbed(settings: Settings) -> tuple[list[Any], list[Any]]:
    """What readers see after publishing T2 and T3 in a workspace where nothing went wrong."""
    fresh = settings.model_copy(update={"workspace": settings.workspace.with_name("fresh")})
    if settings.feast.online_store == "redis":
        url = settings.feast.redis_url.replace("db=3", "db=4")
        fresh = fresh.model_copy(update={"feast": settings.feast.model_copy(update={"redis_url": url})})
    _publish(fresh, world.marts(T2, T3))
    return _everything(fresh)


class TestForgettingAUser:
    def test_the_user_is_gone_everywhere_and_nobody_else_is(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        _publish_vectors(settings, "m1")
        _publish_vectors(settings, "m2")
        assert online_writer.forget_user(settings, "u1") == (2 + 2) + (2 + 2) + 2
        for version in ("", "m1", "m2"):
            assert _user(settings, "u1", version) is None
            assert _user(settings, "u 2", version) is not None
        for file in store.offline_path(settings.paths).rglob("user_*.parquet"):
            ids = pq.read_table(file)["user_id"].to_pylist()
            assert "u1" not in ids
            assert "u 2" in ids

    def test_no_byte_of_the_profile_stays_in_the_files(self, settings: Settings) -> None:
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: unmistakable; User interests: x"
        _publish(settings, rows)
        online_writer.forget_user(settings, "u1")
        for file in settings.paths.feast.rglob("*"):
            assert not file.is_file() or b"unmistakable" not in file.read_bytes()

    def test_the_user_stays_forgotten_when_the_same_build_is_published_again(self, settings: Settings) -> None:
        _publish(settings, world.marts())
        online_writer.forget_user(settings, "u1")
        assert publish.publish(settings)["reused"]
        assert _user(settings, "u1") is None

    def test_forgetting_where_nothing_was_published_removes_nothing(self, settings: Settings) -> None:
        assert online_writer.forget_user(settings, "u1") == 0


def _vectors(kind: str, version: str, ids: list[str], dim: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([world.vector(kind, version, one)[:dim] for one in ids])


def _publish_vectors(settings: Settings, version: str, as_of: datetime = T2, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "user_ids": np.array(world.USERS),
        "user_vectors": _vectors("user", version, world.USERS),
        "item_ids": np.array(world.ITEMS),
        "item_vectors": _vectors("item", version, world.ITEMS),
        "as_of": as_of,
    }
    return fused.publish_fused(settings, version, **(given | changes))


class TestFusedVectors:
    def test_are_written_again_where_the_online_store_has_lost_them(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        feast = store.open_store(settings)
        assert fused.restore(settings, "m1") == 0
        for side, ids in (("user", world.USERS), ("item", world.ITEMS)):
            online_writer.delete_rows(feast, f"{side}_fused", [(one, "m1") for one in ids])
        assert fused.restore(settings, "m1") == len(world.USERS) + len(world.ITEMS)
        found = online.read_fused(feast, "item", world.ITEMS, "m1")
        assert np.array_equal(found, _vectors("item", "m1", world.ITEMS))
        assert fused.restore(settings, "never published") == 0

    def test_of_new_items_join_a_published_version_and_change_nothing_else(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        new = _vectors("item", "later", ["new"])
        assert fused.publish_items(settings, "m1", ["new"], new, T3) == 1
        assert fused.publish_items(settings, "m1", ["new"], new, T3) == 0
        ids, vectors = fused.load_fused(settings, "item", "m1")
        assert ids.tolist() == [*world.ITEMS, "new"]
        assert np.array_equal(vectors, np.vstack([_vectors("item", "m1", world.ITEMS), new]))
        assert np.array_equal(online.read_fused(store.open_store(settings), "item", ["new"], "m1"), new)

    def test_each_version_is_read_by_its_own_name(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        _publish_vectors(settings, "m2")
        feast = store.open_store(settings)
        for version in ("m1", "m2"):
            user = online.read_user(feast, "ü'3", version)
            assert user is not None
            assert user.vector is not None
            assert np.array_equal(user.vector, _vectors("user", version, ["ü'3"])[0])
            assert user.vector_as_of == T2
            items = online.read_fused(feast, "item", ["i3", "nobody", "i1"], version)
            assert np.array_equal(items[[0, 2]], _vectors("item", version, ["i3", "i1"]))
            assert np.isnan(items[1]).all()
            ids, vectors = fused.load_fused(settings, "item", version)
            assert ids.tolist() == world.ITEMS
            assert np.array_equal(vectors, _vectors("item", version, world.ITEMS))

    def test_a_version_that_is_not_there_has_no_vectors(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        assert online.read_fused(store.open_store(settings), "user", world.USERS, "m9").shape == (4, 0)
        with pytest.raises(WorkspaceError, match=r"model version m9 .*there are: m1"):
            fused.load_fused(settings, "user", "m9")

    def test_publishing_a_version_again_writes_nothing(self, settings: Settings) -> None:
        assert _publish_vectors(settings, "m1")["written"] == 7
        assert _publish_vectors(settings, "m1")["written"] == 0

    def test_publishing_features_leaves_vectors_alone_and_a_read_gives_both(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        _publish(settings, world.marts())
        user = _user(settings, "u1", "m1")
        assert user is not None
        assert user.profile is not None
        assert user.vector is not None

    def test_a_dropped_version_is_gone_and_the_others_stay(self, settings: Settings) -> None:
        _publish_vectors(settings, "m1")
        _publish_vectors(settings, "m2")
        assert fused.drop_version(settings, "m1") == 7
        assert store.model_versions(settings.paths) == ["m2"]
        feast = store.open_store(settings)
        assert online.read_fused(feast, "user", world.USERS, "m1").shape == (4, 0)
        assert not np.isnan(online.read_fused(feast, "user", world.USERS, "m2")).any()
        assert fused.drop_version(settings, "m1") == 0

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"user_vectors": np.zeros((4, 8))}, "the array is float64"),
            ({"user_vectors": np.full((4, 8), np.nan, dtype=np.float32)}, "number 0 of the vector is nan"),
            ({"item_vectors": np.zeros((3, 7), dtype=np.float32)}, "7 numbers, but user vectors have 8"),
            ({"item_ids": np.array(["i1", "i2"])}, "2 ids but 3 vectors"),
            ({"item_ids": np.array(["i1", "i2", "i1"])}, "stands also in row 1"),
            ({"as_of": T2.replace(tzinfo=None)}, "has no time zone"),
        ],
    )
    def test_unfit_vectors_are_refused_before_anything_is_written(
        self, settings: Settings, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(PublishError, match=said):
            _publish_vectors(settings, "m1", **changes)
        assert store.model_versions(settings.paths) == []


@pytest.mark.full
class TestRedis:
    def flags(self, port: int, db: int) -> list[str]:
        return ["feast.online_store=redis", f"feast.redis_url=127.0.0.1:{port},db={db}"]

    def test_two_workspaces_cannot_share_one_database(self, redis_port: int, tmp_path: Path) -> None:
        _redis(redis_port).flushall()
        one, two = (
            load(self.flags(redis_port, 3), workspace=tmp_path / name, environment={}) for name in ("one", "two")
        )
        _publish(one, world.marts())
        with pytest.raises(PublishError, match="holds the features of another workspace"):
            _publish(two, world.marts())

    def test_a_server_that_does_not_answer_is_named_without_its_password(self, tmp_path: Path) -> None:
        flags = ["feast.online_store=redis", "feast.redis_url=127.0.0.1:1,password=hush"]
        with pytest.raises(WorkspaceError, match=r"redis 127\.0\.0\.1:1 db 0 does not answer") as error:
            _publish(load(flags, workspace=tmp_path / "ws", environment={}), world.marts())
        assert "hush" not in str(error.value)

    def test_going_over_to_redis_publishes_there_and_leaves_no_copy_in_a_file(
        self, redis_port: int, tmp_path: Path
    ) -> None:
        _redis(redis_port).flushall()
        embedded = load([], workspace=tmp_path / "ws", environment={})
        _publish(embedded, world.marts())
        grown = load(self.flags(redis_port, 3), workspace=tmp_path / "ws", environment={})
        assert not publish.publish(grown)["reused"]
        assert _profile(grown, "u1").as_of == T2
        assert not (grown.paths.feast / "online.db").exists()
