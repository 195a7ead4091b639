"""Which models are trained on a day's features, and which baselines are measured beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from unit import backbones_world as bw

from reclm.errors import WorkspaceError
from reclm.features import frame
from reclm.settings.recommenders import BACKBONES
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import write_json
from reclm.training import baselines, model, stage, tasks
from reclm.training.baselines import find_baselines, measure_baselines
from reclm.training.stage import trained_variants
from reclm.training.validation import mean_metric, metric_per_user

PARENTS = {"features": "of monday", "warehouse": "monday"}


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings]) -> Settings:
    return workspace_settings()


class TestTheVariants:
    @pytest.mark.parametrize(
        ("users", "items", "trained"),
        [(5, 5, ("base", "augment", "shuffled")), (0, 5, ("base", "augment", "shuffled")), (0, 0, ("base",))],
    )
    def test_use_profiles_where_there_are_any(
        self, settings: Settings, users: int, items: int, trained: tuple[str, ...]
    ) -> None:
        views = {"user_profile": {"rows": users}, "item_profile": {"rows": items}}
        write_json(settings.paths.feast / "published.json", {"version": "x", "views": views})
        assert trained_variants(settings) == trained


class TestTheBaselines:
    @pytest.fixture(autouse=True)
    def measured(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        data = bw.toy_data()
        monkeypatch.setattr(baselines, "parents_of", lambda settings: PARENTS)
        monkeypatch.setattr(frame, "load_known", lambda settings, snapshot: data)
        monkeypatch.setattr(tasks, "load_tasks", lambda settings, snapshot: bw.toy_tasks(data))
        measure_baselines(settings)

    def test_are_measured_on_every_user_that_models_are_measured_on(self, settings: Settings) -> None:
        found = find_baselines(settings, PARENTS)
        assert found is not None
        for name in ("popularity", "ease"):
            for setting in ("full_shot", "mixed"):
                assert set(metric_per_user(found.path / name, setting, "ndcg")) == set(bw.toy_data().user_ids.tolist())
            assert metric_per_user(found.path / name, "zero_shot", "ndcg") == {}
        ease, popularity = (mean_metric(found.path / name, "full_shot", "ndcg") for name in ("ease", "popularity"))
        assert ease is not None and popularity is not None and ease > popularity

    def test_are_measured_once_for_a_day(self, settings: Settings) -> None:
        first = find_baselines(settings, PARENTS | {"backbone": "x"})
        assert measure_baselines(settings) == first
        assert find_baselines(settings, PARENTS | {"warehouse": "tuesday"}) is None


class TestAModelThatTheDataDoNotAllow:
    @pytest.mark.parametrize(
        ("counted", "left_out"),
        [((30, 12), set()), ((30, 0), {"kernel"}), ((20_001, 12), {"itemknn", "ease", "kernel"})],
    )
    def test_is_left_out(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, counted: tuple[int, int], left_out: set[str]
    ) -> None:
        monkeypatch.setattr(tasks, "count_items", lambda settings: counted)
        monkeypatch.setattr(stage, "identity_of", lambda settings, *names: ({"names": names}, {}))
        monkeypatch.setattr(stage, "trained_variants", lambda settings: ("base",))
        wanted = {parameters["names"][0] for parameters, _ in stage._identities(settings).values()}
        assert wanted == set(BACKBONES) - left_out
        assert stage.left_out_models(settings).keys() == left_out


class TestModelsOfOtherSettings:
    @pytest.fixture(autouse=True)
    def of_monday(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model, "parents_of", lambda settings: PARENTS)
        monkeypatch.setattr(tasks, "count_items", lambda settings: (30, 12))
        monkeypatch.setattr(stage, "trained_variants", lambda settings: settings.train.variants)

    def trained(self, settings: Settings, name: str) -> str:
        with artifacts.writing(settings.paths, "backbone", *model.identity_of(settings, name, "base", 42)):
            pass
        return stage.finished_backbones(settings)[0].version

    def test_are_not_found_and_the_settings_that_differ_are_named(
        self, settings: Settings, workspace_settings: Callable[..., Settings]
    ) -> None:
        self.trained(workspace_settings(train={"epochs": 3, "models": ("als",)}), "als")
        with pytest.raises(WorkspaceError) as refused:
            stage.finished_backbones(settings)
        assert "(there are 1 of other settings: train.epochs=3 there, 40 here)" in str(refused.value)

    def test_are_told_apart_by_their_names_too(self, workspace_settings: Callable[..., Settings]) -> None:
        self.trained(workspace_settings(train={"models": ("als",)}), "als")
        with pytest.raises(WorkspaceError, match=r"train\.models=als there, ease,ncf here\)"):
            stage.finished_backbones(workspace_settings(train={"models": ("ncf", "ease")}))

    def test_of_other_features_are_not_mentioned(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained(settings, "als")
        monkeypatch.setattr(model, "parents_of", lambda settings: PARENTS | {"features": "of tuesday"})
        with pytest.raises(WorkspaceError, match=r"current features; `reclm train`"):
            stage.finished_backbones(settings)
