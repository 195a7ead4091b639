"""The report in a real browser: it draws, and asks the network for nothing."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from reclm.storage.workspace import Workspace


@pytest.mark.full
class TestTheReportInABrowser:
    def test_it_draws_tables_and_plots_and_asks_for_nothing(self, shop: Path, browser: Browser) -> None:
        page, wanted = browser.new_page(), []
        page.on("request", lambda request: wanted.append(request.url))
        address = Workspace(shop).report.as_uri()
        page.goto(address)
        assert page.locator("table").count() >= 2
        assert page.locator("svg").count() >= 1
        assert "lightgcn" in page.inner_text("body")
        assert [url for url in wanted if url != address and not url.startswith("data:")] == []
        page.close()
