"""The build around dbt: what runs, what is reused, what is published and when. A stand-in replaces dbt itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from unit.staging_world import faulty, stage

from reclm.errors import BuildError, InputError, WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage import artifacts, locks
from reclm.storage.files import read_json, write_json
from reclm.storage.schemas import CURRENT_ARTIFACTS
from reclm.storage.workspace import REPOSITORY_VARIABLE, Workspace
from reclm.warehouse import dbt as dbt_process
from reclm.warehouse import sources
from reclm.warehouse.build import build, docs
from reclm.warehouse.reading import connect, snapshot_as_of
from reclm.warehouse.sources import dbt_project, set_current_artifact, set_current_artifacts


class StandIn:
    """Writes the database as dbt would, and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failure: Exception | None = None
        self.meanwhile: Callable[[], None] | None = None
        self.staged: list[dict[str, Any]] = [
            {"user_id": "u", "item_id": "i", "event_ts": f"2024-01-0{day}"} for day in (1, 2)
        ]

    def __call__(self, settings: Settings, external: Path, arguments: Sequence[str], *, delivery: bool = False) -> None:
        self.calls.append(list(arguments))
        if self.meanwhile:
            self.meanwhile()
        with duckdb.connect(str(settings.paths.build_database)) as connection:
            connection.execute(
                "create or replace table int_snapshots as select 'final' as snapshot, "
                "timestamptz '2024-05-01 12:00:00.25+00' as as_of"
            )
            stage(connection, interactions=self.staged)
            batches = [batch["batch"] for batch in read_json(settings.paths.dataset)["batches"]]
            connection.execute(
                "create or replace table stg_feedback as select batch as user_id, 'i' as item_id, null as event_ts, "
                "if(batch = 'return', -1, 0) as weight from (select unnest(?) as batch)",
                [[batch for batch in batches if batch in ("return", "impression")]],
            )
            batches = [batch for batch in batches if batch not in ("garbage", "return", "impression")]
            connection.execute(
                "create or replace table stg_interactions as select unnest(?) as user_id, 'i' as item_id, "
                "null as event_ts, 1 as weight, null as split, false as in_sparse_train",
                [batches],
            )
            connection.execute("create or replace table stg_items as select 'i' as item_id")
            connection.execute("create or replace table int_items as select 'i' as item_id, null as first_seen_at")
            connection.execute("create or replace table stg_users as select 'u' as user_id, '' as text limit 0")
            connection.execute("create table if not exists calls (n integer)")
            connection.execute("insert into calls values (1)")
        (external / "feast_user_activity.parquet").write_bytes(b"")
        if self.failure:
            raise self.failure

    @property
    def selected(self) -> list[list[str]]:
        return [[word for word in call if word.startswith("tag:")] for call in self.calls]


@pytest.fixture
def dbt(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr("reclm.warehouse.build.run_dbt", stand_in)
    return stand_in


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings]) -> Settings:
    settings = workspace_settings()
    land(settings.paths, "a")
    return settings


def land(workspace: Workspace, *batches: str) -> None:
    listed = [{"table": "interactions", "batch": batch, "rows": 1} for batch in batches]
    write_json(workspace.dataset, {"name": "d", "split_mode": "temporal", "has_event_ts": True, "batches": listed})


def make(settings: Settings, kind: str, **parameters: Any) -> str:
    with artifacts.writing(settings.paths, kind, parameters, {}):
        pass
    return artifacts.version_of(kind, parameters, {})


def n_calls(settings: Settings) -> int:
    with connect(settings) as connection:
        return len(connection.execute("select * from calls").fetchall())


class TestABuildWithoutAUsableRow:
    def test_says_why_in_one_sentence_in_place_of_what_dbt_says(self, shop: Settings, dbt: StandIn) -> None:
        dbt.failure, dbt.staged = BuildError("a contract failed"), [faulty("bad_timestamp", "soon")]
        with pytest.raises(InputError, match=r"^0 of 1 interactions can be used: 1 bad_timestamp"):
            build(shop)
        assert not shop.paths.current_build.exists()

    def test_a_failure_of_another_kind_stays_what_it_is(self, shop: Settings, dbt: StandIn) -> None:
        dbt.failure = BuildError("a contract failed")
        with pytest.raises(BuildError, match="a contract failed"):
            build(shop)


class TestWhatIsBuilt:
    def test_the_first_build_runs_everything_whatever_phase_is_requested(self, shop: Settings, dbt: StandIn) -> None:
        result = build(shop, "features")
        assert dbt.selected == [[]]
        assert not result["reused"]
        assert build(shop)["reused"]

    def test_nothing_changed_means_nothing_runs_and_it_says_so(
        self, shop: Settings, dbt: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RECLM_VERBOSE", "1")
        first = build(shop)
        second = build(shop)
        assert len(dbt.calls) == 1
        assert second == {**first, "reused": True}
        assert "reusing" in capsys.readouterr().err

    def test_force_builds_again_from_an_empty_file(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        build(shop, force=True)
        assert n_calls(shop) == 1 and len(dbt.calls) == 2

    def test_new_data_rebuilds_everything(self, shop: Settings, dbt: StandIn) -> None:
        before = build(shop)
        land(shop.paths, "a", "b")
        after = build(shop, "features")
        assert dbt.selected == [[], []]
        assert after["features_fingerprint"] != before["features_fingerprint"]

    def test_rows_that_are_not_known_rebuild_the_tables_but_keep_their_fingerprint(
        self, shop: Settings, dbt: StandIn
    ) -> None:
        before = build(shop)
        land(shop.paths, "a", "garbage")
        day = shop.model_copy(update={"data": shop.data.model_copy(update={"as_of": "2024-05-02T00:00:00+00:00"})})
        for settings in (shop, day):
            after = build(settings, "features")
            assert not after["reused"]
            assert after["features_fingerprint"] == before["features_fingerprint"]

    def test_a_dislike_changes_the_fingerprint_and_an_impression_does_not(self, shop: Settings, dbt: StandIn) -> None:
        found = []
        for batches in (("a",), ("a", "impression"), ("a", "impression", "return")):
            land(shop.paths, *batches)
            found.append(build(shop, "features")["features_fingerprint"])
        assert found[0] == found[1] != found[2]

    def test_only_a_build_of_features_changes_the_as_of(self, shop: Settings, dbt: StandIn) -> None:
        moment = "2024-05-02T00:00:00+00:00"
        build(shop.model_copy(update={"data": shop.data.model_copy(update={"as_of": moment})}))
        for phase in ("profiles", "evaluation"):
            current = build(shop, phase)
            assert current["reused"] and current["as_of"] == moment
        assert build(shop, "features")["as_of"] == ""

    def test_a_setting_that_no_table_depends_on_changes_nothing(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        assert build(shop.model_copy(update={"train": shop.train.model_copy(update={"dim": 8})}))["reused"]

    def test_a_setting_that_tables_depend_on_rebuilds(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        fewer = shop.model_copy(update={"features": shop.features.model_copy(update={"neighbours": 3})})
        assert not build(fewer)["reused"]

    def test_new_profiles_run_their_phase_alone_on_the_existing_tables(self, shop: Settings, dbt: StandIn) -> None:
        before = build(shop)
        set_current_artifact(shop.paths, "profiles", make(shop, "profiles"))
        after = build(shop, "profiles")
        assert dbt.selected[1:] == [["tag:profiles"]]
        assert n_calls(shop) == 2
        assert after["features_fingerprint"] == before["features_fingerprint"]

    def test_a_later_phase_takes_along_an_earlier_one_that_is_stale(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        set_current_artifact(shop.paths, "profiles", make(shop, "profiles"))
        set_current_artifact(shop.paths, "evaluation", make(shop, "evaluation"))
        assert build(shop, "features")["reused"]
        build(shop, "evaluation")
        assert dbt.selected[1:] == [["tag:profiles", "tag:evaluation"]]

    def test_an_unknown_phase_is_named(self, shop: Settings, dbt: StandIn) -> None:
        with pytest.raises(BuildError, match="'marts'"):
            build(shop, "marts")

    def test_a_workspace_without_data_gets_a_message_that_says_what_to_do(
        self, workspace_settings: Callable[..., Settings]
    ) -> None:
        with pytest.raises(WorkspaceError, match="reclm ingest"):
            build(workspace_settings())


class TestAfterAFailure:
    def test_the_published_copy_is_untouched_and_the_next_build_begins_from_nothing(
        self, shop: Settings, dbt: StandIn
    ) -> None:
        before = build(shop)
        published = shop.paths.warehouse.read_bytes()
        set_current_artifact(shop.paths, "evaluation", make(shop, "evaluation"))
        dbt.failure = BuildError("a test failed")
        with pytest.raises(BuildError, match="a test failed"):
            build(shop)
        assert shop.paths.warehouse.read_bytes() == published
        assert read_json(shop.paths.current_build)["build_id"] == before["build_id"]
        dbt.failure = None
        build(shop, "evaluation")
        assert dbt.selected == [[], ["tag:evaluation"], []]
        assert n_calls(shop) == 1

    def test_an_interrupted_build_is_known_by_its_marker(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        write_json(shop.paths.build_database.with_name("building.json"), {})
        assert not build(shop)["reused"]

    @pytest.mark.parametrize("ruin", ["missing", "garbage", "unpublished", "external"])
    def test_whatever_part_of_a_build_is_ruined_it_is_made_again(self, ruin: str, shop: Settings, dbt: StandIn) -> None:
        before = build(shop)
        if ruin == "missing":
            shop.paths.build_database.unlink()
        elif ruin == "garbage":
            shop.paths.build_database.write_bytes(b"not a database" * 1000)
        elif ruin == "unpublished":
            shop.paths.warehouse.unlink()
        else:
            (shop.paths.root / before["marts"]["feast_user_activity"]).unlink()
        assert not build(shop)["reused"]
        assert n_calls(shop) == 1


class TestPublishing:
    def test_readers_keep_the_copy_they_opened(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        with connect(shop) as reader:
            set_current_artifact(shop.paths, "profiles", make(shop, "profiles"))
            build(shop, "profiles")
            assert len(reader.execute("select * from calls").fetchall()) == 1

    def test_external_folders_of_this_build_and_the_one_before_are_kept(self, shop: Settings, dbt: StandIn) -> None:
        ids = [build(shop, force=True)["build_id"] for _ in range(3)]
        assert {path.name for path in shop.paths.external.iterdir()} == {"manual", *ids[1:]}

    def test_the_cut_off_is_read_in_utc(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        assert snapshot_as_of(shop, "final").isoformat() == "2024-05-01T12:00:00.250000+00:00"
        with pytest.raises(WorkspaceError, match="'next'"):
            snapshot_as_of(shop, "next")

    def test_a_copy_cannot_be_written(self, shop: Settings, dbt: StandIn) -> None:
        build(shop)
        with connect(shop) as connection, pytest.raises(duckdb.Error, match="read-only"):
            connection.execute("create table mine (n integer)")

    def test_reading_before_any_build_says_what_to_run(self, shop: Settings) -> None:
        with pytest.raises(WorkspaceError, match="reclm build"):
            connect(shop)
        with pytest.raises(WorkspaceError, match="reclm build"):
            docs(shop)


class TestOneBuildAtATime:
    def test_a_second_build_waits_and_says_so(
        self, shop: Settings, dbt: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        waiting = threading.Event()

        def say(message: str) -> None:
            said.append(message)
            if "waiting" in message:
                waiting.set()

        monkeypatch.setattr(locks, "say", say)
        shop.paths.locks.mkdir(parents=True)
        with FileLock(shop.paths.locks / "warehouse.lock"):
            second = threading.Thread(target=build, args=(shop,))
            second.start()
            assert waiting.wait(timeout=30)
            assert dbt.calls == []
        second.join(timeout=30)
        assert len(dbt.calls) == 1


class TestABatchThatLandsWhileABuildRuns:
    def test_it_is_for_the_next_build(self, shop: Settings, dbt: StandIn) -> None:
        dbt.meanwhile = lambda: land(shop.paths, "a", "b")
        build(shop)
        assert [row["batch"] for row in pq.read_table(shop.paths.root / "batches.parquet").to_pylist()] == ["a"]
        dbt.meanwhile = None
        assert not build(shop)["reused"]
        assert pq.read_table(shop.paths.root / "batches.parquet").to_pylist() == [
            {"table_name": "interactions", "batch": "a", "batch_number": 1, "before_items": False},
            {"table_name": "interactions", "batch": "b", "batch_number": 2, "before_items": False},
        ]


class TestCurrentArtifacts:
    def test_a_list_of_an_older_release_gets_the_columns_of_this_one(self, shop: Settings, dbt: StandIn) -> None:
        path = shop.paths.root / "current_artifacts.parquet"
        pq.write_table(pa.table({"kind": ["profiles"], "version": ["v"]}), path)
        build(shop)
        assert pq.read_schema(path).equals(CURRENT_ARTIFACTS)
        assert sources.current_versions(shop.paths, "profiles") == {"v"}

    def test_do_not_change_under_a_build_that_runs(self, shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        waiting = threading.Event()
        monkeypatch.setattr(locks, "say", lambda message: waiting.set())
        shop.paths.locks.mkdir(parents=True)
        with FileLock(shop.paths.locks / "warehouse.lock"):
            setting = threading.Thread(target=set_current_artifact, args=(shop.paths, "profiles", "new"))
            setting.start()
            assert waiting.wait(timeout=30)
            assert sources.current_versions(shop.paths, "profiles") == set()
        setting.join(timeout=30)
        assert sources.current_versions(shop.paths, "profiles") == {"new"}

    def test_one_kind_is_replaced_and_the_others_stay(self, shop: Settings) -> None:
        first, second = make(shop, "embeddings", model="m"), make(shop, "profiles")
        set_current_artifact(shop.paths, "profiles", "older")
        set_current_artifact(shop.paths, "embeddings", first)
        set_current_artifact(shop.paths, "profiles", second)
        set_current_artifacts(shop.paths, "backbone", ["y", "x"])
        rows = pq.read_table(shop.paths.root / "current_artifacts.parquet").to_pylist()
        assert [tuple(row.values()) for row in rows] == [
            ("backbone", "x", None, 1),
            ("backbone", "y", None, 0),
            ("embeddings", first, "m", 0),
            ("profiles", second, None, 0),
        ]


class TestTheProject:
    def test_a_wheel_without_the_repository_says_where_dbt_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(REPOSITORY_VARIABLE, str(tmp_path))
        with pytest.raises(WorkspaceError, match="clone"):
            dbt_project()

    def test_editing_a_model_makes_features_new_and_editing_a_description_or_a_comment_does_not(
        self, shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import shutil

        shutil.copytree(dbt_project(), tmp_path / "dbt")
        monkeypatch.setenv(REPOSITORY_VARIABLE, str(tmp_path))
        dataset = shop.paths.require_dataset()
        before = sources.content_fingerprint(shop, dataset, []), sources.inputs_of_build(shop, dataset)["base"]
        model = "models/marts/core/dim_users.sql"
        for name, added, same_data in (
            ("models/columns.md", "\n", True),
            (model, "\n{# why\n it is so #}\n  -- and how\n", True),
            (model, "limit 1", False),
        ):
            with (tmp_path / "dbt" / name).open("a") as file:
                file.write(added)
            after = sources.content_fingerprint(shop, dataset, []), sources.inputs_of_build(shop, dataset)["base"]
            assert (after[0] == before[0]) is same_data
            assert after[1] != before[1]
            before = after


class TestWhatFailed:
    def test_every_failed_node_is_named_with_its_message(self, tmp_path: Path) -> None:
        write_json(
            tmp_path / "run_results.json",
            {
                "results": [
                    {"unique_id": "model.reclm.dim_users", "status": "error", "message": "no\nsuch table"},
                    {"unique_id": "test.reclm.unique_x", "status": "fail", "message": "Got 2 results"},
                    {"unique_id": "model.reclm.dim_items", "status": "skipped", "message": None},
                ]
            },
        )
        failures = dbt_process._failures(tmp_path / "run_results.json", ["noise"])
        assert failures.splitlines() == ["  dim_users: no such table", "  unique_x: Got 2 results"]

    def test_before_any_node_ran_dbt_s_own_words_are_given(self, tmp_path: Path) -> None:
        assert dbt_process._failures(tmp_path / "run_results.json", ["cannot parse"]) == "cannot parse"
