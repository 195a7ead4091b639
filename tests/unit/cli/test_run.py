"""A whole run looks for what it will need before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from reclm.cli.app import app
from reclm.errors import ModelError


@pytest.mark.parametrize("setting", ["llm.base_model", "embedding.reader"])
def test_a_pretrained_model_that_is_missing_is_said_before_anything_is_made(setting: str, tmp_path: Path) -> None:
    workspace, missing = tmp_path / "workspace", tmp_path / "none.gguf"
    done = CliRunner().invoke(app, ["demo", "-w", str(workspace), "--set", f"{setting}={missing}"])
    assert done.exit_code == ModelError.exit_code
    assert f"there is no GGUF file {missing}" in done.output
    assert not list(workspace.glob("*/*"))
