"""The first log of a stranger, users and items without texts, ends with a champion that recommends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from integration import pipeline, plain_logs

from reclm import stages
from reclm.serving.offline import recommend_to_users
from reclm.settings.loading import load
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
OTHERS = [shape for shape in plain_logs.SHAPES if shape is not plain_logs.two_columns]
NO_PROFILES = "there are no profiles: models are trained without them"


class TestALogOfTwoColumns:
    def test_ends_with_a_champion_that_recommends(self, tmp_path: Path) -> None:
        workspace = tmp_path / "shop"
        data = plain_logs.two_columns(tmp_path / "data")
        done = pipeline.reclm("run", "--data", str(data), "-w", str(workspace), *FLAGS, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        assert NO_PROFILES in done.stderr
        champion = read_json(Workspace(workspace).champion)
        assert (champion["model"], champion["variant"]) == ("als", "base")
        asked = ("recommend", "--sample", "3", "-k", "5", "--format", "json", "-w", str(workspace))
        answers = pipeline.reclm(*asked, folder=tmp_path)
        assert answers.returncode == 0, answers.stderr[-4000:]
        assert [bool(json.loads(line)["items"]) for line in answers.stdout.splitlines()] == [True, True, True]


@pytest.mark.full
@pytest.mark.parametrize("shape", OTHERS, ids=lambda shape: shape.__name__)
class TestAPlainLog:
    def test_ends_with_a_champion_that_recommends(
        self, shape: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Only the stages that a champion needs: `reclm run` also evaluates and reports."""
        settings = load(list(SMALL), workspace=tmp_path / "shop", environment={})
        stages.ingest(settings, shape(tmp_path / "data"))
        stages.build(settings, "features")
        stages.profile(settings)
        stages.embed(settings)
        stages.build(settings, "profiles")
        stages.publish(settings)
        decision = stages.promote(settings, stages.train(settings)).metrics
        assert NO_PROFILES in capsys.readouterr().err
        assert (decision["decision"], decision["candidate_model"], decision["candidate_variant"]) == (
            "promoted",
            "als",
            "base",
        )
        answers = list(recommend_to_users(settings, [], sample=3, top_k=5))
        assert sum(bool(one["items"]) for one in answers) >= 2  # somebody may have taken everything there is
