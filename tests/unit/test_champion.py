"""Which model becomes champion, and when it gives way."""

from collections.abc import Callable
from typing import Any

import pytest

from reclm import artifacts, champion
from reclm.artifacts import Artifact
from reclm.settings import Settings
from reclm.workspace import write_json


def trained(settings: Settings, variant: str, value: float | None, features: str = "f1") -> Artifact:
    parameters, parents = {"model": "ncf", "variant": variant, "seed": 1, "value": value}, {"features": features}
    with artifacts.writing(settings.paths, "backbone", parameters, parents) as draft:
        draft.metrics = {"validation": {"full_shot": value}}
    return artifacts.load(settings.paths, "backbone", artifacts.version_of("backbone", parameters, parents))


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    def promote(settings: Settings, chosen: Artifact) -> dict[str, Any]:
        about = {"version": chosen.version, "parents": chosen.manifest["parents"], **chosen.manifest["parameters"]}
        write_json(settings.paths.champion, about)
        return about

    monkeypatch.setattr(champion, "promote", promote)
    return workspace_settings()


class TestTheCandidate:
    def test_validation_decides_among_models_with_profiles_and_the_control_never_wins(self, settings: Settings) -> None:
        base, low, high = (trained(settings, v, x) for v, x in (("base", 0.9), ("augment", 0.4), ("augment", 0.5)))
        assert champion.candidate([base, low, high, trained(settings, "shuffled", 0.99)]) == high
        assert champion.candidate([base]) == base

    def test_a_model_that_could_not_be_measured_is_none(self, settings: Settings) -> None:
        assert champion.candidate([trained(settings, "augment", None)]) is None


class TestTheChampion:
    def test_the_first_stays_while_the_data_stay(self, settings: Settings) -> None:
        first = trained(settings, "augment", 0.4)
        champion.crown(settings, [first])
        champion.crown(settings, [first, trained(settings, "augment", 0.9)])
        assert champion.current(settings)["version"] == first.version

    def test_it_gives_way_to_models_of_newer_data(self, settings: Settings) -> None:
        champion.crown(settings, [trained(settings, "augment", 0.9)])
        newer = trained(settings, "augment", 0.4, features="f2")
        champion.crown(settings, [newer])
        assert champion.current(settings)["version"] == newer.version
