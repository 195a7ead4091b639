"""The commands `reclm promote`, `rollback` and `champion`: what they print, do and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from typer.testing import CliRunner, Result
from unit.promotion_world import Shop, make_shop

from reclm import stages
from reclm.cli.app import app
from reclm.settings.tree import Settings
from reclm.storage.artifacts import Artifact
from reclm.training import stage


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phases that dbt was asked to build."""
    phases: list[str] = []
    monkeypatch.setattr(stages, "build", lambda settings, phase: phases.append(phase))
    return phases


@pytest.fixture
def shop(workspace_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, built: list[str]) -> Shop:
    return make_shop(workspace_settings(), monkeypatch)


def trained_models_are(monkeypatch: pytest.MonkeyPatch, models: Sequence[Artifact]) -> None:
    """These are the trained models of the current features."""
    monkeypatch.setattr(stage, "finished_backbones", lambda settings: list(models))


def reclm(shop: Shop, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "-w", str(shop.settings.paths.root)])


class TestPromote:
    def test_without_a_version_the_policy_decides_on_the_trained_models(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, built: list[str]
    ) -> None:
        trained_models_are(monkeypatch, [best := shop.model(value=0.5), shop.model("als", value=0.4)])
        done = reclm(shop, "promote")
        assert done.exit_code == 0, done.output
        assert f"promoted    ncf/augment {best.version}, by policy" in done.stdout
        assert shop.champion == best.version
        assert built == ["evaluation"]

    def test_with_a_version_a_person_does_and_may_say_why(self, shop: Shop, built: list[str]) -> None:
        model = shop.model()
        done = reclm(shop, "promote", model.version, "--reason", "a test")
        assert done.stdout.splitlines() == [
            f"promoted    ncf/augment {model.version}, by hand",
            "because     a test",
        ]
        assert built == ["evaluation"]

    def test_an_unknown_version_is_one_line_and_an_exit_code(self, shop: Shop) -> None:
        done = reclm(shop, "promote", "nonsense")
        assert done.exit_code == 7
        assert done.stderr.splitlines()[-1].startswith(
            "error: no trained model has version nonsense; no model has been trained yet"
        )

    def test_a_reason_for_the_policy_is_refused(self, shop: Shop) -> None:
        assert reclm(shop, "promote", "--reason", "why not").exit_code == 2


class TestRollback:
    def test_says_which_model_is_champion_again(self, shop: Shop, built: list[str]) -> None:
        shop.decide(first := shop.model(value=0.4))
        shop.decide(first, shop.model("als", value=0.5))
        done = reclm(shop, "rollback")
        assert f"rolled_back ncf/augment {first.version}, by hand" in done.stdout
        assert (shop.champion, built) == (first.version, ["evaluation"])

    def test_with_none_before_is_an_error(self, shop: Shop) -> None:
        shop.decide(shop.model())
        done = reclm(shop, "rollback")
        assert done.exit_code == 4
        assert "no champion before" in done.stderr


class TestChampion:
    def test_shows_the_model_since_when_why_and_every_decision(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        shop.decide(first, shop.model("als", value=0.3))
        lines = reclm(shop, "champion").stdout.splitlines()
        assert lines[0] == f"champion  ncf/augment {first.version}"
        assert lines[1].endswith("fitted on everything before 2024-05-01 00:00:00 UTC")
        assert lines[2].endswith("UTC, by policy")
        assert "there is no champion yet" in lines[3]
        assert [line.split()[2] for line in lines[-2:]] == ["promoted", "kept"]

    def test_as_json_is_one_object(self, shop: Shop) -> None:
        shop.decide(first := shop.model(value=0.4))
        (line,) = reclm(shop, "champion", "--format", "json").stdout.splitlines()
        about = json.loads(line)
        assert about["measured"] == first.version
        assert about["reason"] == about["decisions"][0]["reason"]
        assert [row["candidate_version"] for row in about["decisions"]] == [first.version]

    def test_before_there_is_one_says_why(self, shop: Shop) -> None:
        shop.decide(shop.model(coverage=0.0))
        shown = reclm(shop, "champion").stdout
        assert "none yet" in shown and "promotion.min_coverage" in shown
        assert json.loads(reclm(shop, "champion", "-f", "json").stdout)["version"] is None

    def test_before_anything_was_decided_is_an_error_that_names_the_commands(self, shop: Shop) -> None:
        done = reclm(shop, "champion")
        assert done.exit_code == 4
        assert "reclm promote" in done.stderr
