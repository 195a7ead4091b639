"""The report in a real browser: it shows answers, tables and plots, and makes no request."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from reclm.storage.workspace import Workspace


@pytest.mark.full
class TestTheReportInABrowser:
    def test_it_shows_answers_tables_and_plots_without_any_request(self, shop: Path, browser: Browser) -> None:
        page, requested = browser.new_page(), []
        page.on("request", lambda request: requested.append(request.url))
        address = Workspace(shop).report.as_uri()
        page.goto(address)
        assert page.locator("table").count() >= 2
        assert page.locator("svg").count() >= 1
        assert "Which model serves, and why?" in page.inner_text("#answers")
        assert "What to do next" in page.inner_text("body")
        assert "lightgcn" in page.content()
        assert [url for url in requested if url != address and not url.startswith("data:")] == []
        page.close()
