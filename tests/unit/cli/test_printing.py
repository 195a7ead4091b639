"""What a run prints: one line per stage, details only when they are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reclm import progress
from reclm.cli.app import app
from reclm.storage import runs
from reclm.storage.workspace import Workspace

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


class TestAStage:
    def test_prints_what_it_made_and_the_seconds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with runs.recorded(Workspace(tmp_path), "profile") as about:
            about["made"] = "profiles of 2 users"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.split() == ["profile", "profiles", "of", "2", "users", "0.0", "s"]

    def test_prints_that_it_was_reused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with runs.recorded(Workspace(tmp_path), "train") as about:
            about["reused"] = True
        assert capsys.readouterr().err.split() == ["train", "reused"]


class TestDetails:
    def test_appear_only_when_they_are_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv(progress.VERBOSE, "0")
        progress.detail("step 1")
        with progress.step("training"):
            progress.say("a warning")
        assert capsys.readouterr().err == "a warning\n"
        monkeypatch.setenv(progress.VERBOSE, "1")
        progress.detail("step 1")
        assert capsys.readouterr().err == "  step 1\n"

    def test_are_printed_by_detail_and_not_by_an_indented_line(self) -> None:
        package = Path(progress.__file__).parent
        indented = [
            str(path)
            for path in package.rglob("*.py")
            if path.name != "progress.py" and re.search(r'\bsay\(\s*f?"  ', path.read_text())
        ]
        assert indented == []


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_has_an_example(self, command: str) -> None:
        shown = CliRunner().invoke(app, [command.replace("_", "-"), "--help"])
        assert "Example" in shown.stdout, shown.output
