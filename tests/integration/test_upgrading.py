"""A workspace that the release before made is brought up to date and goes on: built, published, served from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from integration.pipeline import reclm

from reclm.storage.files import read_json
from reclm.storage.version import LAYOUT, OLDEST_LAYOUT
from reclm.storage.workspace import Workspace

STORED = Path(__file__).parents[1] / "workspaces"

pytestmark = pytest.mark.full


@pytest.mark.parametrize("layout", range(OLDEST_LAYOUT, LAYOUT))
def test_a_workspace_of_an_earlier_layout_serves_its_champion_after_migrate_build_and_publish(
    layout: int, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(STORED / f"layout-{layout}", workspace.root)
    champion = read_json(workspace.champion)
    for words in (["migrate"], ["build"], ["publish"], ["recommend", "u1", "--format", "json"]):
        done = reclm(*words, "--workspace", str(workspace.root), folder=tmp_path)
        assert done.returncode == 0, (words, done.stderr[-3000:])
    assert champion["version"] in done.stdout and "User identity" in done.stdout
    assert read_json(workspace.champion) == champion
