"""The first log of a stranger, users and items without texts, ends with a champion that recommends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from integration import pipeline, plain_logs

from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace

SMALL = (
    "train.models=als",
    "train.factors=8",
    "features.neighbours=5",
    "profiles.engine=extractive",
    "evaluation.bootstrap=50",
    "evaluation.baselines=popularity",
    "runtime.threads=1",
)
FLAGS = [word for setting in SMALL for word in ("--set", setting)]
SHAPES = [
    pytest.param(shape, id=shape.__name__, marks=() if shape is plain_logs.two_columns else pytest.mark.full)
    for shape in plain_logs.SHAPES
]


class TestAPlainLog:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_ends_with_a_champion_that_recommends(self, shape: Callable[[Path], Path], tmp_path: Path) -> None:
        workspace = tmp_path / "shop"
        data = shape(tmp_path / "data")
        done = pipeline.reclm("run", "--data", str(data), "-w", str(workspace), *FLAGS, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "there are no profiles: models are trained without them" in done.stderr
        champion = read_json(Workspace(workspace).champion)
        assert (champion["model"], champion["variant"]) == ("als", "base")
        asked = ("recommend", "--sample", "3", "-k", "5", "--format", "json", "-w", str(workspace))
        answers = pipeline.reclm(*asked, folder=tmp_path)
        assert answers.returncode == 0, answers.stderr[-4000:]
        assert [bool(json.loads(line)["items"]) for line in answers.stdout.splitlines()] == [True, True, True]
