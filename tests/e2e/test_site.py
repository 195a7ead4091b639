"""The site of documentation: it builds without a dead link and loads nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(
    r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"((?:https?:)?//[^\"]+)\"|url\((https?:[^)]+)\)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.full
class TestTheSite:
    def test_the_python_door_is_documented(self, site: Path) -> None:
        page = (site / "api" / "index.html").read_text()
        assert "load_champion" in page
        assert "Load the champion of a workspace, ready to recommend." in page

    def test_every_room_has_a_page_with_its_docstrings(self, site: Path) -> None:
        for package in (ROOT / "reclm").glob("*/__init__.py"):
            room = package.parent.name
            assert f"reclm.{room}" in (site / "api" / f"{room}.html").read_text(), room

    def test_no_page_loads_anything_from_another_host(self, site: Path) -> None:
        loaded = [
            (path.name, match.group(0))
            for path in (*site.rglob("*.html"), *site.rglob("*.css"))
            for match in LOADED.finditer(path.read_text())
        ]
        assert loaded == []
