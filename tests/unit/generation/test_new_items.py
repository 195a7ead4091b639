"""Profiles that are added to the current ones, and profiles that are kept although their prompts have changed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from stub_engine import Stub
from unit.generation_world import rows_of, with_model
from unit.profiles_world import workspace

from reclm.errors import WorkspaceError
from reclm.generation import stage
from reclm.settings.tree import Settings
from reclm.storage.files import write_json
from reclm.warehouse.sources import current_profiles


def deliver(settings: Settings, item: str = "lute", text: str = "Old music.") -> None:
    """Add an item without interactions to the warehouse, or give an item another text."""
    with duckdb.connect(str(settings.paths.warehouse)) as connection:
        known = connection.execute("select * from dim_items where item_id = $1", [item]).fetchall()
        if known:
            for table in ("dim_items", "fct_item_prompts"):
                connection.execute(f"update {table} set text = $2 where item_id = $1", [item, text])
            return
        connection.execute(
            "insert into dim_items select $1, count(*), 'Lute', $2, ['Music'], 'Lute' from dim_items", [item, text]
        )
        connection.execute("insert into fct_item_status select snapshot, $1, '0' from int_snapshots", [item])
        connection.execute(
            "insert into fct_item_prompts select snapshot, $1, 0, '[]', 'Music: Lute', $2, '[]' from int_snapshots",
            [item, text],
        )


class TestNewItems:
    def test_only_they_are_described_and_nothing_else_is_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        deliver(settings)
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("update fct_user_prompts set history = '[{\"line\": \"Piano\"}]' where user_id = 'f'")
        stub = Stub()
        settings, current = with_model(tmp_path, monkeypatch, stub, fingerprint="f2")
        added = stage.write_profiles(settings, items="new")
        assert [prompt.splitlines()[0] for prompt in stub.requested] == ["Item: Music: Lute | Old music."]
        assert current["profiles"] == added.version != first.version
        assert current_profiles(settings.paths) == [first, added]
        assert added.manifest["parents"]["profiles"] == first.version
        assert set(rows_of(added, "item", "serve")) == {"lute"}
        assert not rows_of(added, "item") and not rows_of(added, "user", "serve")
        measured = pq.read_table(added.path / "quality.parquet").to_pylist()
        assert {(row["kind"], row["snapshot"], row["n"]) for row in measured} == {("item", "serve", 1)}

    def test_an_item_with_another_text_is_described_again_until_somebody_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        deliver(settings)
        added = stage.write_profiles(settings, items="new")
        for item in ("lute", "c0"):  # somebody has c0: its new text is in the next profiles of everybody
            deliver(settings, item, "Baroque.")
        again = stage.write_profiles(settings, items="new")
        assert current_profiles(settings.paths) == [first, added, again]
        assert set(rows_of(again, "item", "serve")) == {"lute"}
        assert "Baroque" in rows_of(again, "item", "serve")["lute"]["profile"]

    def test_the_keyword_engine_describes_them_as_it_does_beside_everybody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        first = stage.write_profiles(settings)
        deliver(settings)
        with duckdb.connect(str(settings.paths.warehouse)) as connection:  # it borrows from the audience of c0
            connection.execute("insert into fct_item_neighbours values ('serve', 'lute', 'c0', 0.5, 1, 'text')")
        added = stage.write_profiles(settings, items="new")
        assert current_profiles(settings.paths) == [first, added]
        settings, _ = workspace(tmp_path, monkeypatch, fingerprint="f2")
        everybody = stage.write_profiles(settings)
        assert current_profiles(settings.paths) == [everybody]
        expected = rows_of(everybody, "item", "serve")["lute"]
        assert rows_of(added, "item", "serve") == {"lute": {**expected, "version": added.version}}

    def test_without_new_items_the_current_profiles_are_reused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        assert stage.write_profiles(settings, items="new").version == first.version
        deliver(settings)
        added = stage.write_profiles(settings, items="new")
        assert stage.write_profiles(settings, items="new").version == added.version
        assert stage.write_profiles(settings).version == added.version  # nobody else's profile has changed

    def test_are_not_looked_for_beside_profiles_of_the_same_build(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        monkeypatch.setattr(stage, "write_new_profiles", lambda *_: pytest.fail("all items have just been described"))
        stage.write_profiles(settings)

    def test_are_added_where_profiles_of_the_last_whole_build_are_reused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        deliver(settings)
        write_json(settings.paths.current_build, {"features_fingerprint": "f2", "whole_fingerprint": "f1"})
        added = stage.write_profiles(settings)
        assert current_profiles(settings.paths) == [first, added]
        assert set(rows_of(added, "item", "serve")) == {"lute"}

    def test_there_must_be_profiles_of_the_same_engine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        with pytest.raises(WorkspaceError, match="run `reclm profile` first"):
            stage.write_profiles(settings, items="new")
        stage.write_profiles(workspace(tmp_path, monkeypatch)[0])
        with pytest.raises(WorkspaceError, match="run `reclm profile` for all"):
            stage.write_profiles(settings, items="new")


class TestProfilesThatAreKept:
    def neighbours_change(self, settings: Settings, days: int = 0) -> None:
        """Give every user other neighbours, and move all snapshots by some days."""
        near = '[{"user_id": "z", "items": [{"line": "Zither"}]}]'
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("update fct_user_prompts set neighbours = $1", [near])
            connection.execute(f"update int_snapshots set as_of = as_of + to_days({days})")

    @pytest.mark.parametrize(("days", "asked"), [(0, False), (29, False), (30, True), (-1, True)])
    def test_other_neighbours_alone_change_a_profile_after_some_days(
        self, days: int, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        self.neighbours_change(settings, days)
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub, fingerprint="f2")
        second = stage.write_profiles(settings)
        assert any("Zither" in prompt for prompt in stub.requested) is asked
        if not asked:
            before, after = rows_of(first, "user"), rows_of(second, "user")
            assert {user: row["profile"] for user, row in before.items()} == {
                user: row["profile"] for user, row in after.items()
            }
            assert {row["written_as_of"] for row in after.values()} == {row["as_of"] for row in before.values()}
        assert (first.version in second.metrics["kept_from"]) is not asked

    def test_profiles_that_are_compared_with_others_keep_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        stage.write_profiles(settings)
        self.neighbours_change(settings)
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub, fingerprint="f2")
        arm = stage.write_profiles(settings, current=False)
        assert any("Zither" in prompt for prompt in stub.requested)
        assert (arm.metrics["kept"], arm.metrics["kept_from"]) == (0, [])

    def test_a_new_history_is_described_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        stage.write_profiles(settings)
        self.neighbours_change(settings)
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("update fct_user_prompts set history = '[{\"line\": \"Piano\"}]' where user_id = 'f'")
        stub = Stub()
        stage.write_profiles(with_model(tmp_path, monkeypatch, stub, fingerprint="f2")[0])
        assert [prompt.splitlines()[0] for prompt in stub.requested] == ["Picked: Piano"]

    def test_with_no_days_every_new_prompt_is_answered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        stage.write_profiles(settings)
        self.neighbours_change(settings)
        stub = Stub()
        days = {"profiles": {"keep_days": 0}}
        stage.write_profiles(with_model(tmp_path, monkeypatch, stub, fingerprint="f2", **days)[0])
        assert any("Zither" in prompt for prompt in stub.requested)
