"""A small shop, made once for all that looks at it in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration import pipeline
from playwright.sync_api import Browser, sync_playwright

SHOP = (
    "demo.users=400",
    "demo.items=250",
    "demo.interactions=9000",
    "train.models=lightgcn",
    "train.variants=base,augment",
    "train.epochs=20",
)
"""Large enough for four kinds of goods."""
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("e2e") / "shop"
    pipeline.demo(workspace, *SHOP)
    return workspace


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module: while Playwright is open an event loop runs, and no other can be run beside it."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed; `apt-get install chromium`"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield opened
        opened.close()
