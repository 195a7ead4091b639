"""The challenger: published before it is pointed to, kept up with the days, and gone when its trial ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from unit import promotion_world
from unit.promotion_world import Shop, make_shop

from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.promotion import challenger, champion
from reclm.settings.tree import Settings
from reclm.storage import artifacts


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose champion is ncf."""
    shop = make_shop(workspace_settings(evaluation={"bootstrap": 200}), monkeypatch)
    monkeypatch.setattr(challenger, "refit_on_serve", promotion_world.refit)
    shop.decide(shop.model("ncf", value=0.5))
    return shop


class TestTheChallenger:
    def test_is_published_and_pointed_to_with_what_the_service_reads(self, shop: Shop) -> None:
        model = shop.model("als", value=0.4)
        pointer = challenger.challenge(shop.settings, model.version)
        assert shop.published[-1] == model.version
        assert challenger.find(shop.settings) == pointer
        assert (pointer["measured"], pointer["model"], pointer["variant"]) == (model.version, "als", "augment")
        assert artifacts.find(shop.settings.paths, "served", pointer["version"]) is not None
        in_use = [champion.current(shop.settings)["version"], pointer["version"]]
        assert challenger.versions_in_use(shop.settings) == in_use

    def test_is_published_before_the_pointer_moves(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(champion, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            challenger.challenge(shop.settings, shop.model("als").version)
        assert challenger.find(shop.settings) is None

    def test_named_again_stays_as_it_is(self, shop: Shop) -> None:
        model = shop.model("als")
        first = challenger.challenge(shop.settings, model.version)
        assert challenger.challenge(shop.settings, model.version) == first
        assert shop.published.count(model.version) == 1

    def test_is_neither_the_champions_kind_nor_the_control_nor_unknown(self, shop: Shop) -> None:
        with pytest.raises(ModelError, match="ncf/augment as the champion is"):
            challenger.challenge(shop.settings, shop.model("ncf", seed=2).version)
        with pytest.raises(ModelError, match="control"):
            challenger.challenge(shop.settings, shop.model("als", "shuffled").version)
        with pytest.raises(ArtifactError, match="no trained model has version nope"):
            challenger.challenge(shop.settings, "nope")
        assert challenger.find(shop.settings) is None

    def test_needs_a_champion(self, shop: Shop) -> None:
        shop.settings.paths.champion.unlink()
        with pytest.raises(WorkspaceError, match="no champion yet"):
            challenger.challenge(shop.settings, shop.model("als").version)


class TestAPromotion:
    def test_points_to_todays_model_of_the_challengers_kind_and_seed(self, shop: Shop) -> None:
        challenger.challenge(shop.settings, shop.model("als").version)
        shop.new_day("tuesday")
        trained = [shop.model("ncf"), shop.model("als", seed=2), today := shop.model("als")]
        pointer = challenger.refresh(shop.settings, trained)
        assert pointer is not None and pointer["measured"] == today.version

    def test_leaves_a_challenger_whose_kind_was_not_trained(self, shop: Shop) -> None:
        before = challenger.challenge(shop.settings, shop.model("als").version)
        shop.new_day("tuesday")
        assert challenger.refresh(shop.settings, [shop.model("ncf")]) == before

    def test_ends_the_trial_of_a_kind_that_became_champion(self, shop: Shop) -> None:
        challenger.challenge(shop.settings, shop.model("als", value=0.6).version)
        shop.new_day("tuesday")
        trained = [shop.model("ncf", value=0.4), shop.model("als", value=0.6)]
        shop.decide(*trained)
        assert champion.current(shop.settings)["model"] == "als"
        assert challenger.refresh(shop.settings, trained) is None
        assert challenger.find(shop.settings) is None

    def test_without_a_challenger_changes_nothing(self, shop: Shop) -> None:
        assert challenger.refresh(shop.settings, [shop.model("als")]) is None


class TestEndingATrial:
    def test_removes_the_pointer_and_says_whose_it_was(self, shop: Shop) -> None:
        pointer = challenger.challenge(shop.settings, shop.model("als").version)
        assert challenger.withdraw(shop.settings) == pointer
        assert challenger.find(shop.settings) is None
        assert challenger.withdraw(shop.settings) is None
