"""The report in a real browser: it draws, and asks the network for nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from integration import pipeline

from reclm.workspace import Workspace

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.mark.full
class TestTheReportInABrowser:
    def test_it_draws_tables_and_plots_and_asks_for_nothing(self, tmp_path: Path) -> None:
        browser = shutil.which("chromium")
        assert browser, "chromium is not installed; `apt-get install chromium`"
        workspace = tmp_path / "shop"
        pipeline.demo(workspace, "train.variants=base,augment")
        done = subprocess.run(
            [
                browser,
                *QUIET,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                Workspace(workspace).report.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.count("<table") >= 2
        assert "<svg" in done.stdout
        assert "ncf" in done.stdout
        outside = [address for address in re.findall(r'(?:src|href)="([^"]*)"', done.stdout) if address[:1] != "#"]
        assert [address for address in outside if not address.startswith("data:")] == []
