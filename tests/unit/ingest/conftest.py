"""Fixtures of the tests of ingestion: an empty folder to fill, settings with an empty workspace."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.ingest_world import Make

from reclm.settings.tree import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my shop"
    path.mkdir()
    return path


@pytest.fixture
def settings(workspace_settings: Make) -> Settings:
    return workspace_settings()
