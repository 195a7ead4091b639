"""Commands remember the settings they were given, and later commands of the workspace use them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reclm import stages
from reclm.cli.app import app
from reclm.errors import WorkspaceError
from reclm.schedule import tasks
from reclm.settings.tree import Settings


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the stage `train` was given, without its work."""
    given: list[Settings] = []

    def train(settings: Settings) -> list[Any]:
        given.append(settings)
        return [SimpleNamespace(manifest={"parameters": {"model": "als", "variant": "base", "seed": 1}}, path="x")]

    monkeypatch.setattr(stages, "train", train)
    return given


def reclm(workspace: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "-w", str(workspace)])


class TestACommand:
    def test_uses_what_an_earlier_one_was_given_and_says_so(self, tmp_path: Path, seen: list[Settings]) -> None:
        reclm(tmp_path, "train", "-s", "train.models=als", "-s", "train.epochs=3")
        done = reclm(tmp_path, "train")
        assert (seen[-1].train.models, seen[-1].train.epochs) == (("als",), 3)
        assert "settings remembered from earlier commands: train.epochs=3, train.models=als" in done.stderr

    def test_says_what_differs_from_before(self, tmp_path: Path, seen: list[Settings]) -> None:
        reclm(tmp_path, "train", "-s", "train.epochs=3")
        assert "train.epochs=4, until now 3" in reclm(tmp_path, "train", "-s", "train.epochs=4").stderr
        assert "train.epochs=4, until now 3" not in reclm(tmp_path, "train", "-s", "train.epochs=4").stderr

    def test_that_fails_changes_nothing(
        self, tmp_path: Path, seen: list[Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_such_column(*_: Any, **__: Any) -> None:
            raise WorkspaceError("no column is called customer")

        monkeypatch.setattr(stages, "build", no_such_column)
        assert reclm(tmp_path, "build", "-s", "data.user_column=customer").exit_code == WorkspaceError.exit_code
        reclm(tmp_path, "train")
        assert seen[-1].data.user_column == ""

    def test_that_only_looks_changes_nothing(self, tmp_path: Path, seen: list[Settings]) -> None:
        reclm(tmp_path, "settings", "-s", "train.epochs=3")
        reclm(tmp_path, "tune", "--dry-run", "-s", "train.epochs=3")
        reclm(tmp_path, "train")
        assert seen[-1].train.epochs == 40


class TestARun:
    def test_that_is_killed_after_landing_is_remembered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def killed_later(settings: Settings, source: Path, *, on_ingested: Any) -> None:
            on_ingested(settings)
            raise SystemExit(137)

        monkeypatch.setattr(stages, "run", killed_later)
        monkeypatch.setattr("reclm.cli.estimate.announce", lambda settings: None)
        reclm(tmp_path, "run", "-d", str(tmp_path), "-s", "train.models=als")
        assert json.loads((tmp_path / "settings.json").read_text())["train.models"]["value"] == ["als"]


class TestTheSettingsCommand:
    def test_shows_where_each_value_comes_from(
        self, tmp_path: Path, seen: list[Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reclm(tmp_path, "train", "-s", "train.models=als")
        monkeypatch.setenv("RECLM_TRAIN__DIM", "8")
        (file := tmp_path / "mine.toml").write_text("seed = 7\n")
        done = reclm(tmp_path, "settings", "-f", "json", "--settings", str(file), "-s", "train.epochs=3")
        rows = {row["key"]: (row["value"], row["from"]) for row in map(json.loads, done.stdout.splitlines())}
        assert rows["train.models"] == (["als"], "remembered")
        assert rows["seed"] == (7, "file")
        assert rows["train.dim"] == (8, "environment")
        assert rows["train.epochs"] == (3, "flag")
        assert rows["train.layers"] == (2, "default")
        assert "train.models = als   (remembered)\n" in reclm(tmp_path, "settings").stdout


class TestTheSchedule:
    def test_uses_what_people_set_and_remembers_nothing_itself(
        self, tmp_path: Path, seen: list[Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reclm(tmp_path, "train", "-s", "train.models=als", "-s", "train.epochs=3")
        before = (tmp_path / "settings.json").read_text()
        monkeypatch.setenv("RECLM_WORKSPACE", str(tmp_path))
        once = tasks.load({"settings": {"train.epochs": 5}})
        assert (once.train.models, once.train.epochs) == (("als",), 5)
        assert (tmp_path / "settings.json").read_text() == before
        assert tasks.load({}).train.epochs == 3
