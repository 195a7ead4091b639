"""The ablation: choosing among models, exchanging profile vectors, resuming, and the table."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit import evaluation_world as ew

from reclm.ablation import arms, cells, run
from reclm.ablation.arms import chosen_arms, overridden, with_profiles
from reclm.ablation.cells import NO_ARM, Cell, cell_name
from reclm.ablation.diagnostics import spearman, spearman_interval
from reclm.ablation.table import result_rows, table_of
from reclm.backbones.fitted import ColdStart, Selection
from reclm.dataset import EVALUATION_SETTINGS
from reclm.errors import SettingsError, WorkspaceError
from reclm.evaluation.evaluate import FinalSnapshot
from reclm.evaluation.report import language
from reclm.llm.lineage import matches_settings, preferred
from reclm.llm.models.versions import shared_parameters
from reclm.llm.teacher.parameters import teacher_parameters
from reclm.llm.tuning.heldout import decoding_settings
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.text.encoder import model_name, text_hash

PROFILE = "User identity: reader; User interests: {}"


def model(settings: Settings, kind: str, parents: dict[str, str] | None = None, **parameters: Any) -> Artifact:
    parents = {"warehouse": "w", **(parents or {})}
    with artifacts.writing(settings.paths, kind, parameters, parents):
        pass
    return artifacts.load(settings.paths, kind, artifacts.version_of(kind, parameters, parents))


class TestTheModelThatIsMeant:
    def test_is_the_one_the_settings_would_make_though_another_is_newer(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        single = overridden(settings, {"tune": {"turns": "one"}})
        two = model(settings, "sft", tune=settings.tune.model_dump(mode="json"), seed=42)
        one = model(settings, "sft", tune=single.tune.model_dump(mode="json"), seed=42)
        found = artifacts.all_of(settings.paths, "sft")
        assert found[-1].version == one.version
        assert preferred(settings, found, "w").version == two.version
        assert preferred(single, found, "w").version == one.version

    def test_is_judged_by_the_models_it_came_from_too(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        unmasked = overridden(settings, {"tune": {"masking": False}})
        sft = model(settings, "sft", tune=unmasked.tune.model_dump(mode="json"))
        refined = model(settings, "refine", {"sft": sft.version}, refine=settings.refine.model_dump(mode="json"))
        assert not matches_settings(settings, refined)
        assert matches_settings(unmasked, refined)

    def test_matches_settings_that_leave_the_number_of_tokens_open_or_name_it(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        base = model(settings, "base", base_model="tiny", size="small", vocabulary=2048, tokens=1_200_000)
        assert matches_settings(settings, base)
        assert matches_settings(overridden(settings, {"llm": {"tiny_tokens": 1_200_000}}), base)
        assert not matches_settings(overridden(settings, {"llm": {"tiny_tokens": 2_000_000}}), base)

    @pytest.mark.parametrize(
        "other",
        [
            {"embedding": {"max_tokens": 64}},
            {"profiles": {"temperature": 0.9}},
            {"llm": {"tiny_learning_rate": 1e-3}},
            {"teacher": {"users": 5}},
        ],
    )
    def test_is_judged_by_encoder_decoding_step_size_and_teacher_too(
        self, other: dict[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        settings = Settings(workspace=tmp_path)
        teacher = model(settings, "teacher", **teacher_parameters(settings))
        about = {**shared_parameters(settings), "decoding": decoding_settings(settings)}
        base = model(settings, "base", base_model="tiny", size="small", learning_rate=3e-3, encoder=about["encoder"])
        sft = model(settings, "sft", {"teacher": teacher.version, "base": base.version}, **about)
        assert matches_settings(settings, sft)
        assert not matches_settings(overridden(settings, other), sft)
        assert matches_settings(overridden(settings, {"runtime": {"dtype": "bfloat16"}}), sft)

    def test_is_the_newest_when_none_suits_and_of_this_warehouse_before_others(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        models = [model(settings, "sft", seed=seed) for seed in (1, 2)]
        elsewhere = model(settings, "sft", {"warehouse": "x"}, seed=settings.seed)
        assert preferred(settings, models, "w").version == models[1].version
        assert preferred(settings, [models[0], elsewhere], "w").version == models[0].version


class TestArms:
    def test_are_those_of_the_settings_then_what_the_extras_add(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        assert [arm.name for arm in chosen_arms(settings)] == list(settings.ablate.arms)
        more = overridden(settings, {"ablate": {"extras": ("masking", "sizes", "reward")}})
        added = [arm.name for arm in chosen_arms(more)[5:]]
        assert added == ["unmasked", "two_turn_medium", "two_turn_large", "refined_causal"]

    def test_differ_from_the_settings_by_what_their_name_says(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        single = arms.ARMS["single_turn"].settings(settings)
        assert (single.tune.turns, single.llm, single.seed) == ("one", settings.llm, settings.seed)


def write_texts(world: ew.World, name: str, text_of: Callable[[str], str]) -> Artifact:
    """A profiles artifact of both snapshots and the vectors of its texts, made of the text's length."""
    workspace, texts = world.settings.paths, set()
    with artifacts.writing(
        workspace, "profiles", {"engine": name, "model_version": ""}, {"warehouse": "f" * 16}
    ) as draft:
        for kind, ids in (("user", ew.USER_IDS), ("item", ew.ITEM_IDS)):
            rows = [
                {
                    f"{kind}_id": str(one),
                    "snapshot": snapshot,
                    "profile": text_of(str(one)),
                    "parse_status": "ok" if text_of(str(one)).startswith("User") else "missing_label",
                }
                for snapshot in ("select", "final")
                for one in ids
            ]
            texts |= {row["profile"] for row in rows}
            pq.write_table(pa.Table.from_pylist(rows), draft.path / f"{kind}_profiles.parquet")
        profiles = artifacts.version_of("profiles", {"engine": name, "model_version": ""}, {"warehouse": "f" * 16})
    with artifacts.writing(
        workspace, "embeddings", {"model": model_name(world.settings.embedding), "texts": name}, {}
    ) as draft:
        rows = [{"text_hash": text_hash(text), "embedding": [float(len(text)), 1.0]} for text in sorted(texts)]
        pq.write_table(pa.Table.from_pylist(rows), draft.path / "vectors-00000.parquet")
    return artifacts.load(workspace, "profiles", profiles)


class TestWhatIsCompared:
    @pytest.mark.parametrize("key", ["arms", "models", "seeds"])
    def test_is_something(self, key: str, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=f"ablate.{key}"):
            load(flags=[f"ablate.{key}="], workspace=tmp_path)

    def test_without_enough_to_learn_from_is_the_keyword_arm_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arms, "why_no_model", lambda settings: "too little")
        settings = Settings(workspace=tmp_path)
        assert arms.with_possible_arms(settings).ablate.arms == ("extractive",)
        with pytest.raises(WorkspaceError, match=r"set ablate\.arms to extractive"):
            arms.with_possible_arms(overridden(settings, {"ablate": {"arms": ("two_turn",)}}))

    def test_is_trained_anew_with_another_encoding(self, tmp_path: Path) -> None:
        settings = Settings(workspace=tmp_path)
        shorter = overridden(settings, {"embedding": {"max_tokens": 64}})
        assert cell_name(settings, {}, seed=1) != cell_name(shorter, {}, seed=1)


class TestAnArmsVectors:
    def test_stand_in_the_datas_order_and_malformed_and_empty_ones_are_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = ew.make_world(tmp_path, monkeypatch)
        odd = {str(ew.USER_IDS[3]): "no profile", str(ew.USER_IDS[5]): ""}
        profiles = write_texts(world, "x", lambda one: odd.get(one, PROFILE.format(one)))
        data = with_profiles(world.settings, ew.training_data(world.settings, "final"), profiles)
        assert data.user_profile is not None and data.item_profile is not None
        missing = np.flatnonzero(np.isnan(data.user_profile).all(axis=1))
        assert missing.tolist() == [3, 5]
        assert data.user_profile[0, 0] == len(PROFILE.format(ew.USER_IDS[0]))
        assert data.item_profile.shape == (ew.N_ITEMS, 2)


class Learner(ew.Noisy):
    """A backbone whose noise depends on the variant and the seed."""

    made = 0

    def __init__(self, model: str) -> None:
        self.model = model

    selection = Selection(
        {"full_shot": 2, "zero_shot": 1}, {"full_shot": ColdStart(0.25), "zero_shot": ColdStart(0.75)}
    )
    calls: ClassVar[list[Any]] = []

    def select(self, data: Any, variant: str, tasks: Any, seed: int) -> Selection:
        self._fit(data, variant, seed)
        Learner.calls.append("select")
        return self.selection

    def refit(self, data: Any, variant: str, selection: Selection, seed: int) -> list[Any]:
        self._fit(data, variant, seed)
        Learner.calls.append(selection)
        return []

    def learn_to_fold_in(self, data: Any, seed: int) -> None:
        Learner.calls.append("fold in")

    def _fit(self, data: Any, variant: str, seed: int) -> None:
        super().__init__(self.model, variant)
        rng = np.random.default_rng([seed, len(variant), int(np.nansum(data.user_profile or 0))])
        self.table = self.table + rng.standard_normal(self.table.shape).astype(np.float32) * 0.2
        Learner.made += 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ew.World:
    made = ew.make_world(
        tmp_path, monkeypatch, ablate={"models": ("biasmf",), "seeds": (1, 2), "arms": ("extractive",)}
    )
    monkeypatch.setattr("reclm.backbones.loading.create_backbone", lambda model, *sections: Learner(model))
    data = ew.training_data(made.settings, "select")
    monkeypatch.setattr(run, "Snapshots", lambda settings, warehouse: SimpleNamespace(select=(data, [])))
    monkeypatch.setattr(run, "with_profiles", lambda settings, data, profiles: replace(data))
    monkeypatch.setattr("reclm.features.publish.features_version", lambda settings: "features")
    monkeypatch.setattr(
        run, "make_arm", lambda settings, arm: arms.ArmOutput(arm, {}, write_texts(made, arm.name, PROFILE.format))
    )
    Learner.made, Learner.calls = 0, []
    return made


def results(ablation: Artifact) -> list[dict[str, Any]]:
    rows = pq.read_table(ablation.path / "results.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class TestAnAblation:
    def test_trains_the_base_once_a_seed_and_every_arm_in_both_variants(self, world: ew.World) -> None:
        rows = results(run.ablate(world.settings))
        assert {(row["arm"], row["variant"]) for row in rows} == {
            (NO_ARM, "base"), ("extractive", "augment"), ("extractive", "shuffled"),
        }  # fmt: skip
        assert {row["setting"] for row in rows} == set(EVALUATION_SETTINGS)
        assert Learner.made == 2 * 3 * 2  # two seeds, three columns, select and final
        assert Learner.calls == ["select", Learner.selection, "fold in"] * 6
        better = [row for row in rows if row["variant"] == "augment" and row["metric"] == "ndcg"]
        assert all(row["diff_lo"] <= row["diff"] <= row["diff_hi"] and row["diff"] > 0 for row in better)

    def test_goes_on_where_it_was_killed_and_ends_the_same(
        self, world: ew.World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = results(run.ablate(world.settings))
        shutil.rmtree(world.settings.paths.artifacts / "ablation")
        train, done = cells.train_cell, []

        def killed(settings: Settings, cell: Cell, *rest: Any) -> Any:
            if len(done) == 4:
                raise KeyboardInterrupt
            done.append(cell)
            return train(settings, cell, *rest)

        monkeypatch.setattr(run, "train_cell", killed)
        with pytest.raises(KeyboardInterrupt):
            run.ablate(world.settings)
        monkeypatch.setattr(run, "train_cell", train)
        Learner.made = 0
        assert results(run.ablate(world.settings)) == whole
        assert Learner.made == 2 * 2

    def test_run_again_trains_nothing_and_another_seed_trains_that_alone(self, world: ew.World) -> None:
        first = run.ablate(world.settings)
        Learner.made = 0
        assert run.ablate(world.settings).version == first.version
        assert Learner.made == 0
        run.ablate(overridden(world.settings, {"ablate": {"seeds": (1, 2, 3)}}))
        assert Learner.made == 3 * 2

    def test_is_planned_without_making_anything(self, world: ew.World) -> None:
        assert any("6 trainings" in line for line in run.plan(world.settings))
        assert not (world.settings.paths.artifacts / "ablation").exists()

    def test_leaves_plots_and_the_report_shows_it(self, world: ew.World) -> None:
        ablation = run.ablate(world.settings)
        assert (ablation.path / "zero_shot.svg").read_text().startswith("<svg")
        shown = language.ablation_section(world.settings)
        assert shown is not None
        assert [plot.title for plot in shown["plots"]] == [
            "Writers of profiles, full-shot",
            "Writers of profiles, zero-shot",
            "Writers of profiles, mixed",
        ]


class TestTheTable:
    def test_says_mean_deviation_and_gain_of_every_arm(self, world: ew.World) -> None:
        text = table_of(results(run.ablate(world.settings)))
        assert "biasmf, zero-shot" in text
        line = next(line for line in text.splitlines() if line.startswith("extractive        augment"))
        assert "±" in line and "[+" in line

    def test_of_one_seed_has_no_deviation(self, world: ew.World) -> None:
        settings = overridden(world.settings, {"ablate": {"seeds": (1,)}})
        rows = results(run.ablate(settings))
        assert {row["sd"] for row in rows} == {None}
        assert "±" not in table_of(rows)
        assert result_rows(settings, [], [], "shop") == []
        assert FinalSnapshot(settings).tasks


class TestRankCorrelation:
    def test_is_one_for_any_rising_relation_and_nan_for_none(self) -> None:
        one = np.arange(20.0)
        assert spearman(one, np.exp(one)) == pytest.approx(1)
        assert spearman(one, -one) == pytest.approx(-1)
        assert math.isnan(spearman(one, np.ones(20)))

    def test_has_an_interval_around_it(self) -> None:
        rng = np.random.default_rng(0)
        one = rng.standard_normal(200)
        other = one + rng.standard_normal(200)
        low, high = spearman_interval(one, other, 200, 1)
        assert low < spearman(one, other) < high
        assert low > 0
