"""What services log is landed exactly once, wherever a run is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.ingest_world import LOG, Make, landed

from reclm.errors import WorkspaceError
from reclm.ingest import collected, ingest, landing
from reclm.ingest.collected import land_collected
from reclm.settings.tree import Settings
from reclm.storage.erasures import remember
from reclm.storage.files import read_json
from reclm.storage.segments import SegmentWriter


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def settings(tmp_path: Path, workspace_settings: Make) -> Settings:
    """A workspace with a small log."""
    (tmp_path / "log.csv").write_text(LOG)
    settings = workspace_settings()
    ingest(settings, tmp_path / "log.csv")
    return settings


def event(number: int, **more: Any) -> dict[str, Any]:
    about = {"event_id": f"e{number}", "event_type": "click", "user_id": "ann", "item_id": "tea", "weight": None}
    return about | {"event_ts": "2025-01-03T00:00:00+00:00", "request_id": "r1"} | more


def write(settings: Settings, table: str, *rows: dict[str, Any]) -> SegmentWriter:
    writer = SegmentWriter(settings.paths.events / table, durable=True)
    writer.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    return writer


def event_ids(settings: Settings) -> list[str]:
    return sorted(row[0] for row in landed(settings, "interactions", "event_id", "event_id is not null"))


def left(settings: Settings) -> list[Path]:
    return [path for path in settings.paths.events.rglob("*") if path.is_file()]


class TestLanding:
    def test_an_event_lands_as_an_interaction_with_its_type(self, settings: Settings) -> None:
        write(settings, "interactions", event(1, weight=1.5))
        land_collected(settings)
        columns = "user_id, item_id, event_ts, weight, event_type, event_id, request_id, source_row"
        assert landed(settings, "interactions", columns, "event_id is not null") == [
            ("ann", "tea", "2025-01-03T00:00:00+00:00", "1.5", "click", "e1", "r1", 1)
        ]

    def test_each_shown_item_lands_with_its_position(self, settings: Settings) -> None:
        answer = {"request_id": "r1", "user_id": None, "shown_at": "2025-01-03T00:00:00+00:00", "model_version": "m1"}
        shown = [{"position": 1, "item_id": "tea", "score": 0.5, "arm": "champion"}]
        shown += [{"position": 2, "item_id": "jam", "score": 0.25}]
        write(settings, "impressions", answer | {"items": shown}, answer | {"request_id": "r2", "items": []})
        land_collected(settings)
        assert landed(settings, "impressions", "request_id, item_id, position, score, arm, model_version") == [
            ("r1", "tea", "1", "0.5", "champion", "m1"),
            ("r1", "jam", "2", "0.25", None, "m1"),
        ]

    def test_the_data_set_keeps_its_name_and_what_it_was_made_of(self, settings: Settings) -> None:
        before = read_json(settings.paths.dataset)
        write(settings, "interactions", event(1))
        after = land_collected(settings)
        assert {**after, "batches": after["batches"][:1]} == before

    def test_the_same_log_can_be_ingested_again_and_the_events_stay(self, settings: Settings, tmp_path: Path) -> None:
        write(settings, "interactions", event(1))
        content = land_collected(settings)
        assert ingest(settings, tmp_path / "log.csv") == content
        assert event_ids(settings) == ["e1"]

    def test_events_join_a_log_without_times_and_are_split_as_it_is(
        self, tmp_path: Path, workspace_settings: Make
    ) -> None:
        (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"u{n % 9},i{n}\n" for n in range(50)))
        settings = workspace_settings()
        ingest(settings, tmp_path / "log.csv")
        write(settings, "interactions", *(event(n, user_id=f"u{n % 9}", item_id=f"i{n}") for n in range(50)))
        content = land_collected(settings)
        assert not content["has_event_ts"]
        drawn = landed(settings, "interactions", "user_id, item_id, split")
        assert len(drawn) == 100
        assert len(set(drawn)) == 50

    def test_a_line_that_is_no_json_lands_empty_for_the_quarantine(self, settings: Settings) -> None:
        write(settings, "interactions", event(1)).write(b"\x00\x00rubbish\n")
        land_collected(settings)
        assert landed(settings, "interactions", "event_id, source_row", "source_file like 'interactions-%'") == [
            ("e1", 1),
            (None, 2),
        ]

    def test_events_of_a_forgotten_user_do_not_land(self, settings: Settings, workspace_settings: Make) -> None:
        remember(settings.paths, ["bob"])
        write(settings, "interactions", event(1), event(2, user_id="bob"))
        land_collected(settings)
        assert event_ids(settings) == ["e1"]

    def test_a_workspace_without_data_is_named(self, workspace_settings: Make) -> None:
        with pytest.raises(WorkspaceError, match="holds no data yet"):
            land_collected(workspace_settings())


def before(where: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill the process when it is about to call a function."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def die(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(where, name, die)

    return patch


def after(where: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill the process when a function has just returned."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(where, name)

        def die(*arguments: Any, **named: Any) -> None:
            original(*arguments, **named)
            raise Killed

        monkeypatch.setattr(where, name, die)

    return patch


KILLS = {
    "before a segment is closed": before(Path, "rename"),
    "after a segment is closed": after(Path, "rename"),
    "before anything is landed": before(collected, "land"),
    "before a batch is moved into place": before(landing, "_publish"),
    "before the batches are listed": before(landing, "write_json"),
    "after the batches are listed": after(landing, "write_json"),
    "after everything is landed": after(collected, "land"),
    "before a landed segment is deleted": before(Path, "unlink"),
    "after a landed segment is deleted": after(Path, "unlink"),
}


class TestKills:
    @pytest.mark.parametrize("kill", KILLS)
    def test_a_killed_run_loses_and_doubles_nothing(
        self, settings: Settings, kill: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = write(settings, "interactions", event(1), event(2))
        write(settings, "interactions", event(3))
        with monkeypatch.context() as patched:
            KILLS[kill](patched)
            with pytest.raises(Killed):
                land_collected(settings)
        writer.write(json.dumps(event(4)).encode() + b"\n")  # the service has gone on
        land_collected(settings)
        assert event_ids(settings) == ["e1", "e2", "e3", "e4"]
        assert left(settings) == []
