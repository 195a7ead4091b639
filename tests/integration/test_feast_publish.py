"""Publishing and reading back, the same behaviour on every online store: SQLite always, Redis in the full suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration import feast_world as world
from integration.feast_world import T1, T2, T3

from reclm.errors import PublishError, WorkspaceError
from reclm.features import online, online_writer, publish, store
from reclm.settings.loading import load
from reclm.settings.tree import Settings


class TestPublishedFeatures:
    def test_a_user_has_the_newest_profile_vector_and_activity(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        for user in world.USERS:
            features = world.read_user(settings, user)
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
        world.publish_marts(settings, world.marts())
        items = online.read_items(store.open_store(settings), ["i2", "nobody", "i1"])
        assert list(items) == ["i2", "i1"]
        assert items["i2"].title == "Title of i2"
        assert items["i2"].content is not None
        assert np.array_equal(items["i2"].content, world.vector("content", "i2", T2))
        assert items["i2"].popularity_rank == 2

    def test_an_unknown_user_is_none(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        assert world.read_user(settings, "nobody") is None

    def test_unknown_values_come_back_as_none(self, settings: Settings) -> None:
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2).update(embedding=None, quality=None, flag="no_text")
        world.row_of(rows, "user_activity", "u1", T2).update(last_interaction_us=None, n_categories=None)
        world.publish_marts(settings, rows)
        features = world.read_user(settings, "u1")
        assert features is not None
        assert features.profile is not None
        assert features.profile.embedding is None
        assert features.profile.quality is None
        assert features.profile.flag == "no_text"
        assert features.last_interaction is None
        assert features.n_categories is None
        assert features.n_interactions == 0

    def test_rows_without_an_id_and_the_row_of_an_empty_model_are_left_out(self, settings: Settings) -> None:
        rows = world.marts()
        rows["item_profile"] = [dict.fromkeys(rows["item_profile"][0])]
        rows["user_profile"].append(dict.fromkeys(rows["user_profile"][0]))
        published = world.publish_marts(settings, rows)
        assert published["views"]["item_profile"]["rows"] == 0
        assert published["views"]["user_profile"]["rows"] == 2 * len(world.USERS)
        assert online.read_items(store.open_store(settings), ["i1"])["i1"].profile is None

    def test_all_history_stays_offline(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        file = store.offline_path(settings.paths) / "current" / "user_profile.parquet"
        assert sorted(pq.read_table(file)["as_of"].unique().to_pylist()) == [T1, T2]

    def test_reading_before_anything_is_published_names_the_command(self, settings: Settings) -> None:
        with pytest.raises(WorkspaceError, match="reclm publish"):
            store.open_store(settings)
        with pytest.raises(WorkspaceError, match="reclm build"):
            publish.publish(settings)


class TestPublishingAgain:
    def test_the_same_build_is_reused(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        first = world.publish_marts(settings, world.marts())
        before = world.snapshot_of_files(settings.paths.feast)
        monkeypatch.setattr(online_writer, "write_rows", lambda *_: pytest.fail("wrote online"))
        again = publish.publish(settings)
        assert (first["reused"], again["reused"]) == (False, True)
        assert again["version"] == first["version"]
        assert world.snapshot_of_files(settings.paths.feast) == before

    def test_the_same_rows_in_another_order_and_of_another_time_have_the_same_version(self, settings: Settings) -> None:
        first = world.publish_marts(settings, world.marts())
        rows = {view: [row | {"created_at": T3} for row in reversed(mart)] for view, mart in world.marts().items()}
        again = world.publish_marts(settings, rows)
        assert again["reused"]
        assert again["version"] == first["version"]

    def test_only_changed_rows_are_written_online(self, settings: Settings) -> None:
        first = world.publish_marts(settings, world.marts())
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: new; User interests: new"
        second = world.publish_marts(settings, rows)
        assert [view["written"] for view in first["views"].values()] == [4, 3, 3, 4, 3]
        assert [view["written"] for view in second["views"].values()] == [1, 0, 0, 0, 0]
        assert second["version"] != first["version"]

    def test_rows_whose_features_have_not_changed_are_not_written_by_a_later_build(self, settings: Settings) -> None:
        rows = world.marts(T1)
        first = world.publish_marts(settings, rows)
        later = world.at(rows, T3)
        world.row_of(later, "user_profile", "u1", T3)["profile"] = "User identity: new; User interests: new"
        second = world.publish_marts(settings, later)
        assert [view["written"] for view in second["views"].values()] == [1, 0, 0, 0, 0]
        assert second["version"] != first["version"]
        assert {view["as_of"] for view in second["views"].values()} == {T3.isoformat()}

    def test_the_as_of_of_an_online_row_is_the_build_since_which_its_features_have_not_changed(
        self, settings: Settings
    ) -> None:
        rows = world.marts(T1)
        world.publish_marts(settings, rows)
        later = world.at(rows, T3)
        world.row_of(later, "user_profile", "u1", T3)["profile"] = "User identity: new; User interests: new"
        world.publish_marts(settings, later)
        assert (world.read_profile(settings, "u1").as_of, world.read_profile(settings, "4").as_of) == (T3, T1)

    def test_offline_every_row_has_the_as_of_of_its_build(self, settings: Settings) -> None:
        rows = world.marts(T1)
        for build in (rows, world.at(rows, T3)):
            world.publish_marts(settings, build)
        file = store.offline_path(settings.paths) / "current" / "user_profile.parquet"
        assert pq.read_table(file)["as_of"].unique().to_pylist() == [T3]

    def test_a_view_may_not_have_a_time_to_live(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        views = store.open_store(settings).views
        assert {name for name, view in views.items() if view.ttl} == set()

    def test_a_corrected_row_of_the_same_as_of_reaches_readers(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        rows = world.marts()
        world.row_of(rows, "user_profile", "u1", T2)["profile"] = "User identity: new; User interests: new"
        world.publish_marts(settings, rows)
        assert world.read_profile(settings, "u1").text == "User identity: new; User interests: new"

    def test_a_user_no_longer_in_the_build_is_no_longer_online(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        rows = world.marts()
        for view in ("user_profile", "user_activity"):
            rows[view] = [row for row in rows[view] if row["user_id"] != "u1"]
        published = world.publish_marts(settings, rows)
        assert published["views"]["user_profile"]["deleted"] == 1
        assert world.read_user(settings, "u1") is None
        assert world.read_user(settings, "u 2") is not None

    def test_an_online_store_that_lost_its_rows_is_filled_again(
        self, settings: Settings, request: pytest.FixtureRequest
    ) -> None:
        world.publish_marts(settings, world.marts())
        before = world.read_everything(settings)
        if settings.feast.online_store == "redis":
            world.redis_client(request.getfixturevalue("redis_port")).flushall()
        else:
            for file in settings.paths.feast.glob("online.db*"):
                file.unlink()
        assert not publish.publish(settings)["reused"]
        assert world.read_everything(settings) == before


class TestOlderData:
    def test_an_older_build_is_refused_and_changes_nothing(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts(T2, T3))
        before = world.read_everything(settings)
        with pytest.raises(PublishError, match=r"view user_profile, column as_of, row \d .*2000-01-03.*2000-01-04"):
            world.publish_marts(settings, world.marts(T1, T2))
        assert world.read_everything(settings) == before

    def test_going_back_on_purpose_is_possible(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts(T2, T3))
        world.publish_marts(settings, world.marts(T1, T2), rewind=True)
        assert world.read_profile(settings, "u1").as_of == T2

    def test_an_unchanged_row_gets_back_its_earlier_as_of(self, settings: Settings) -> None:
        rows = world.marts(T2)
        world.publish_marts(settings, world.at(rows, T3))
        world.publish_marts(settings, rows, rewind=True)
        assert world.read_profile(settings, "u1").as_of == T2

    def test_an_empty_view_does_not_replace_one_with_rows(self, settings: Settings) -> None:
        world.publish_marts(settings, world.marts())
        rows = world.marts()
        rows["item_content"] = []
        with pytest.raises(PublishError, match="view item_content has no rows, but 6 are published"):
            world.publish_marts(settings, rows)

    def test_the_newest_row_that_a_build_has_is_online_where_an_earlier_build_had_a_later_one(
        self, settings: Settings
    ) -> None:
        world.publish_marts(settings, world.marts())
        rows = world.marts()
        rows["user_profile"].remove(world.row_of(rows, "user_profile", "u1", T2))
        published = world.publish_marts(settings, rows)
        assert published["views"]["user_profile"]["kept_newer"] == 0
        assert world.read_profile(settings, "u1").as_of == T1

    def test_a_row_that_a_killed_publish_of_newer_data_left_online_is_not_overwritten(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.publish_marts(settings, world.marts(T1))

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(publish, "_switch", killed)
            world.publish_marts(settings, world.marts(T2, T3))
        published = world.publish_marts(settings, world.marts(T1, T2))
        assert published["views"]["user_profile"]["kept_newer"] == len(world.USERS)
        assert world.read_profile(settings, "u1").as_of == T3


class TestFailures:
    def test_an_invalid_row_in_the_last_view_stops_the_first_from_being_written(self, settings: Settings) -> None:
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
            PublishError, match=r"view item_content, column embedding, row 1 .*has 7 numbers, expected are 384"
        ):
            world.publish_marts(settings, rows)

    def test_vectors_of_item_texts_are_wider_where_a_language_model_reads_them(self, settings: Settings) -> None:
        read = settings.embedding.model_copy(update={"reader": "some-model"})
        reading = settings.model_copy(update={"embedding": read})
        rows = world.marts()
        for row in rows["item_content"]:
            row["embedding"] = np.concatenate([row["embedding"], row["embedding"][:7]])
        published = world.publish_marts(reading, rows)
        assert {view: about.get("width") for view, about in published["views"].items()} == {
            "user_profile": 384, "item_profile": 384, "item_content": 391, "user_activity": None, "item_activity": None,
        }  # fmt: skip
        rows["item_content"][0]["embedding"] = rows["item_content"][0]["embedding"][:-1]
        with pytest.raises(PublishError, match=r"view item_content, .*has 391 numbers, expected are 390"):
            world.publish_marts(reading, rows)
        rows["item_profile"][0]["embedding"] = rows["item_content"][1]["embedding"]
        rows["item_content"][0]["embedding"] = rows["item_content"][1]["embedding"]
        with pytest.raises(PublishError, match=r"view item_profile, .*has 391 numbers, expected are 384"):
            world.publish_marts(reading, rows)

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
        world.publish_marts(settings, world.marts(T1, T2))
        _, old_files = world.read_everything(settings)
        world.write_marts(settings, world.marts(T2, T3))
        with monkeypatch.context() as crashing:
            crashing.setattr(module, name, _crash_at(call, getattr(module, name)))
            with pytest.raises(KeyboardInterrupt):
                publish.publish(settings)
        online_rows, files = world.read_everything(settings)
        assert files == old_files
        assert all("profile=Profile(" in row for row in online_rows)
        assert not publish.publish(settings)["reused"]
        recovered = world.read_everything(settings)
        assert world.read_profile(settings, "u1").as_of == T3
        assert {path.name for path in store.offline_path(settings.paths).iterdir()} == {
            "current",
            publish.require_published(settings)["version"],
        }
        assert recovered == _undisturbed(settings)


def _crash_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 100))

    def crashing(*positional: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*positional, **named)

    return crashing


def _undisturbed(settings: Settings) -> tuple[list[Any], list[Any]]:
    """What readers see when nothing interrupts the second publish."""
    fresh = settings.model_copy(update={"workspace": settings.workspace.with_name("fresh")})
    if settings.feast.online_store == "redis":
        url = settings.feast.redis_url.replace("db=3", "db=4")
        fresh = fresh.model_copy(update={"feast": settings.feast.model_copy(update={"redis_url": url})})
    for moments in ((T1, T2), (T2, T3)):
        world.publish_marts(fresh, world.marts(*moments))
    return world.read_everything(fresh)


@pytest.mark.full
class TestRedis:
    def flags(self, port: int, db: int) -> list[str]:
        return ["feast.online_store=redis", f"feast.redis_url=127.0.0.1:{port},db={db}"]

    def test_two_workspaces_cannot_share_one_database(self, redis_port: int, tmp_path: Path) -> None:
        world.redis_client(redis_port).flushall()
        one, two = (
            load(self.flags(redis_port, 3), workspace=tmp_path / name, environment={}) for name in ("one", "two")
        )
        world.publish_marts(one, world.marts())
        with pytest.raises(PublishError, match="holds the features of another workspace"):
            world.publish_marts(two, world.marts())

    def test_a_rotated_password_changes_nothing(self, redis_port: int, tmp_path: Path) -> None:
        client = world.redis_client(redis_port)
        client.flushall()
        before, after = (
            load([*self.flags(redis_port, 3)[:1], f"feast.redis_url=127.0.0.1:{redis_port},db=3,username=u,{password}"],
                 workspace=tmp_path / "ws", environment={})
            for password in ("password=old", "password=new")
        )  # fmt: skip
        client.execute_command("acl", "setuser", "u", "on", ">old", "~*", "+@all")
        try:
            world.publish_marts(before, world.marts())
            client.execute_command("acl", "setuser", "u", "resetpass", ">new")
            assert world.read_profile(after, "u1").as_of == T2
            assert publish.publish(after)["reused"]
        finally:
            client.execute_command("acl", "deluser", "u")

    def test_a_server_that_does_not_answer_is_named_without_its_password(self, tmp_path: Path) -> None:
        flags = ["feast.online_store=redis", "feast.redis_url=127.0.0.1:1,password=hush"]
        with pytest.raises(WorkspaceError, match=r"redis 127\.0\.0\.1:1 db 0 does not answer") as error:
            world.publish_marts(load(flags, workspace=tmp_path / "ws", environment={}), world.marts())
        assert "hush" not in str(error.value)

    def test_switching_to_redis_publishes_there_and_removes_the_sqlite_file(
        self, redis_port: int, tmp_path: Path
    ) -> None:
        world.redis_client(redis_port).flushall()
        embedded = load([], workspace=tmp_path / "ws", environment={})
        world.publish_marts(embedded, world.marts())
        grown = load(self.flags(redis_port, 3), workspace=tmp_path / "ws", environment={})
        assert not publish.publish(grown)["reused"]
        assert world.read_profile(grown, "u1").as_of == T2
        assert not (grown.paths.feast / "online.db").exists()
