"""What a person sees who is asked to approve a candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from unit.promotion_world import Shop, make_shop

from reclm.promotion.proposal import proposal
from reclm.settings.tree import Settings

REPORT = Path("/shop/report/index.html")


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    return make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)


class TestTheProposal:
    def test_names_candidate_champion_figures_guards_and_report_and_switches_nothing(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4, zero_shot=0.2))
        newcomer = shop.model("als", value=0.5, zero_shot=0.3)
        text = proposal(shop.settings, [first, newcomer], REPORT)
        assert f"**Candidate**: als/augment, version {newcomer.version}" in text
        assert f"ncf/augment, version {first.version}, ndcg@20 0.4000 when promoted" in text
        assert "als/augment beats ncf/augment" in text
        assert "| ndcg@20, mixed, validation slice | 0.5000 [0." in text
        assert "| difference to the champion's kind on the same data | 0.1000 [0.1000, 0.1000] |" in text
        assert "| ndcg@20 over cold items | 0.3 | at least 0.16 | kept |" in text
        assert str(REPORT) in text
        assert shop.champion == first.version

    def test_says_what_could_not_be_measured(self, shop: Shop) -> None:
        text = proposal(shop.settings, [shop.model(users=0)], REPORT)
        assert "**Champion now**: none" in text
        assert "validation slice | not measured |" in text
        assert "| users with validation truth | 0 | at least 20 | broken, not binding |" in text

    def test_is_empty_where_the_champion_stays(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.5))
        assert proposal(shop.settings, [first, shop.model("als", value=0.4)], REPORT) == ""
