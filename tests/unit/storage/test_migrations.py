"""A workspace of an earlier release is brought up to date step by step, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reclm.cli.app import app
from reclm.errors import WorkspaceError
from reclm.storage import migrations
from reclm.storage.files import read_json, write_json
from reclm.storage.migrations import MIGRATIONS, Migration, migrate, pending
from reclm.storage.version import LAYOUT, OLDEST_LAYOUT
from reclm.storage.workspace import Workspace


@pytest.fixture
def older(tmp_path: Path) -> Workspace:
    """A workspace of the oldest layout, with one manifest of each form that layout had."""
    workspace = Workspace(tmp_path)
    content = {"name": "d", "importer": "demo", "source": "demo", "batches": [], "split_mode": "temporal"}
    write_json(workspace.dataset, content | {"layout": OLDEST_LAYOUT})
    for kind, parameters in (("backbone", {"layout": 13}), ("profiles", {"file_format": 2}), ("teacher", {})):
        write_json(workspace.artifacts / kind / "v" / "manifest.json", {"kind": kind, "parameters": parameters})
    return workspace


def layouts(workspace: Workspace) -> dict[str, Any]:
    return {
        path.parents[1].name: read_json(path).get("layout") for path in workspace.artifacts.glob("*/*/manifest.json")
    }


class Killed(BaseException):
    """The process ends here."""


class TestTheList:
    def test_one_step_leads_to_each_layout_after_the_oldest(self) -> None:
        assert [step.to for step in MIGRATIONS] == list(range(OLDEST_LAYOUT + 1, LAYOUT + 1))


class TestMigrating:
    def test_it_brings_an_older_workspace_to_the_current_layout(self, older: Workspace) -> None:
        assert migrate(older) == list(MIGRATIONS)
        older.require_current_layout()
        assert layouts(older) == {"backbone": 13, "profiles": 2, "teacher": 1}

    def test_a_workspace_that_is_up_to_date_or_empty_stays_as_it_is(self, older: Workspace, tmp_path: Path) -> None:
        migrate(older)
        content = older.dataset.read_bytes()
        assert migrate(older) == [] and older.dataset.read_bytes() == content
        assert migrate(Workspace(tmp_path / "empty")) == []

    @pytest.mark.parametrize("calls", range(8))
    def test_one_that_is_killed_at_any_write_is_completed_by_the_next(
        self, calls: int, older: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, written = migrations.write_json, []

        def dying(path: Path, content: Any) -> None:
            if len(written) == calls // 2 and not calls % 2:
                raise Killed
            write(path, content)
            written.append(path)
            if len(written) == calls // 2 + 1:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(migrations, "write_json", dying)
            with pytest.raises(Killed):
                migrate(older)
        migrate(older)
        older.require_current_layout()
        assert layouts(older) == {"backbone": 13, "profiles": 2, "teacher": 1}

    def test_steps_run_in_order_and_each_is_recorded_when_it_is_done(
        self, older: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int | None] = []

        def look(workspace: Workspace) -> None:
            seen.append(workspace.layout)

        def fail(_: Workspace) -> None:
            raise Killed

        def steps(second: Callable[[Workspace], None]) -> tuple[Migration, ...]:
            return Migration(OLDEST_LAYOUT + 1, "first", look), Migration(OLDEST_LAYOUT + 2, "second", second)

        monkeypatch.setattr(migrations, "MIGRATIONS", steps(fail))
        with pytest.raises(Killed):
            migrate(older)
        assert older.layout == OLDEST_LAYOUT + 1
        monkeypatch.setattr(migrations, "MIGRATIONS", steps(look))
        migrate(older)
        assert seen == [OLDEST_LAYOUT, OLDEST_LAYOUT + 1]

    def test_a_running_stage_is_named_and_nothing_is_changed(self, older: Workspace) -> None:
        record = {"stage": "train", "started": datetime.now(UTC).isoformat(), "pid": os.getppid(), "status": "running"}
        write_json(older.runs / "20260101T000000-train.json", record)
        with pytest.raises(WorkspaceError, match=r"stage train.*reclm migrate"):
            migrate(older)
        assert older.layout == OLDEST_LAYOUT

    def test_a_layout_from_which_no_step_leads_is_refused(self, older: Workspace) -> None:
        for layout in (OLDEST_LAYOUT - 1, LAYOUT + 1):
            write_json(older.dataset, read_json(older.dataset) | {"layout": layout})
            with pytest.raises(WorkspaceError, match=f"layout {layout}"):
                pending(older)


class TestTheCommand:
    def test_a_dry_run_lists_the_steps_and_changes_nothing(self, older: Workspace) -> None:
        before = {path: path.read_bytes() for path in older.root.rglob("*.json")}
        shown = CliRunner().invoke(app, ["migrate", "--dry-run", "--workspace", str(older.root)])
        assert shown.stdout.splitlines() == [f"layout {step.to}: {step.what}" for step in MIGRATIONS]
        assert {path: path.read_bytes() for path in older.root.rglob("*.json")} == before

    def test_it_says_what_it_did_and_then_that_nothing_is_left(self, older: Workspace) -> None:
        first, second = (CliRunner().invoke(app, ["migrate", "--workspace", str(older.root)]).stdout for _ in range(2))
        assert first.startswith(f"layout {OLDEST_LAYOUT + 1}: ")
        assert second == f"{older.root} is up to date\n"
