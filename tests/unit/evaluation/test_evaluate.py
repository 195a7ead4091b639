"""The evaluation stage on a small finished world: tasks, tables, bands, resuming, what the terminal shows."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit import evaluation_world as ew

from reclm.backbones import loading
from reclm.backbones.baselines import ANSWERS
from reclm.backbones.metrics import metrics_per_user
from reclm.backbones.ranking import BackboneScorer, rank, truth_ranks
from reclm.errors import ModelError, SettingsError, WorkspaceError
from reclm.evaluation import bands
from reclm.evaluation.console import comparison_table
from reclm.evaluation.evaluate import ROW_FIELDS, FinalSnapshot, evaluate, random_list_band, result_rows
from reclm.storage import artifacts
from reclm.storage.schemas import EVALUATION


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ew.World:
    return ew.make_world(tmp_path, monkeypatch)


class TestTasksFromTheWarehouse:
    def test_are_aligned_with_user_ids_as_text_and_items_by_index(self, world: ew.World) -> None:
        full, zero, mixed = world.tasks
        cells = ew.interactions()
        np.testing.assert_array_equal(full.truth.toarray() > 0, cells[ew.TEST])
        np.testing.assert_array_equal(full.mask.toarray() > 0, cells[ew.KNOWN])
        np.testing.assert_array_equal(zero.truth.toarray() > 0, cells[ew.ZERO])
        np.testing.assert_array_equal(zero.candidates, ew.COLD)
        assert zero.mask.nnz == 0
        np.testing.assert_array_equal(mixed.truth.toarray() > 0, cells[ew.TEST] | cells[ew.ZERO])
        np.testing.assert_array_equal(mixed.mask.toarray(), full.mask.toarray())
        assert mixed.candidates.all()

    def test_without_truth_are_left_out(self, world: ew.World) -> None:
        from reclm.training.tasks import load_tasks

        assert load_tasks(world.settings, "select") == []


class TestAnEvaluation:
    def test_holds_every_model_variant_and_baseline_where_it_answers(self, world: ew.World) -> None:
        rows = pq.read_table(evaluate(world.settings, world.backbones).path / "results.parquet").to_pylist()
        found = {(row["setting"], row["model"], row["variant"]) for row in rows}
        assert ("full_shot", "ease", "baseline") in found
        assert ("zero_shot", "ease", "baseline") not in found
        assert ("zero_shot", "popularity", "baseline") not in found
        assert {("mixed", name, "baseline") for name in ("ease", "popularity", "ridge")} < found
        assert {("mixed", "lightgcn", v) for v in ("base", "augment", "shuffled")} < found
        assert {("zero_shot", "lightgcn", v) for v in ("base", "augment", "shuffled")} < found
        assert {row["metric"] for row in rows} == {
            *("recall", "ndcg", "precision", "mrr", "hit_rate"),
            *("coverage", "novelty", "average_popularity"),
        }

    def test_states_the_mean_over_users_with_its_interval(self, world: ew.World) -> None:
        rows = pq.read_table(evaluate(world.settings, world.backbones).path / "results.parquet").to_pylist()
        task = world.tasks[1]
        lists = rank(_Score(ew.Noisy("biasmf", "base")), task, 20)
        expected = metrics_per_user(truth_ranks(lists, task), task, (20,))["ndcg", 20].mean()
        row = _one(rows, setting="zero_shot", model="biasmf", variant="base", metric="ndcg", k=20)
        assert row["value"] == pytest.approx(expected)
        assert row["lo"] < row["value"] < row["hi"]
        assert row["n_users"] == len(task.users)

    def test_compares_augment_with_its_controls_and_every_baseline(self, world: ew.World) -> None:
        rows = pq.read_table(evaluate(world.settings, world.backbones).path / "comparisons.parquet").to_pylist()
        others = {
            (row["other_model"], row["other_variant"])
            for row in rows
            if row["setting"] == "zero_shot" and row["model"] == "biasmf"
        }
        assert others == {("biasmf", "base"), ("biasmf", "shuffled")} | {
            (name, "baseline") for name in ANSWERS if "zero_shot" in ANSWERS[name]
        }
        assert {row["variant"] for row in rows} == {"augment"}
        row = _one(rows, setting="full_shot", model="biasmf", other_variant="shuffled", metric="recall", k=20)
        assert 0 < row["lo_users"] < row["diff"] < row["hi_users"]  # the shuffled model is much noisier

    def test_writes_the_columns_that_the_warehouse_expects(self, world: ew.World) -> None:
        path = evaluate(world.settings, world.backbones).path
        for name, schema in EVALUATION.items():
            assert pq.read_schema(path / f"{name}.parquet").equals(schema)
            assert pq.read_metadata(path / f"{name}.parquet").num_rows > 0

    def test_is_the_same_twice_to_the_last_digit(
        self, world: ew.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = ew.make_world(tmp_path / "again", monkeypatch)
        second = list(result_rows(evaluate(other.settings, other.backbones)))
        monkeypatch.undo()
        third = ew.make_world(tmp_path / "third", monkeypatch)
        assert list(result_rows(evaluate(third.settings, third.backbones))) == second

    def test_is_reused_when_nothing_changed(self, world: ew.World) -> None:
        first = evaluate(world.settings, world.backbones)
        calls = len(world.loaded)
        assert evaluate(world.settings, world.backbones).version == first.version
        assert len(world.loaded) == calls

    def test_needs_a_test_slice(self, world: ew.World) -> None:
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            connection.execute("delete from fct_truth")
        with pytest.raises(WorkspaceError, match="train_share"):
            evaluate(world.settings, world.backbones)

    def test_refuses_a_model_of_other_users(self, world: ew.World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "reclm.backbones.loading.load_backbone", lambda path: ew.Noisy("biasmf", "base", ew.USER_IDS[:-1])
        )
        with pytest.raises(ModelError, match="89 users"):
            evaluate(world.settings, world.backbones)
        assert artifacts.all_of(world.settings.paths, "evaluation") == []


class TestItemsThatCameAfterTraining:
    def test_are_candidates_for_nobody_and_the_rest_is_ranked(
        self, world: ew.World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        n_items = ew.N_ITEMS - 3
        for model in world.backbones:
            pq.write_table(pa.table({"item_id": ew.ITEM_IDS[:n_items]}), model.path / "items.parquet")
        whole = ew.Noisy("biasmf", "base")
        older = ew.Noisy("biasmf", "base")
        older.table, older.fitted.item_ids = older.table[:, :n_items], ew.ITEM_IDS[:n_items]
        older.fitted.known = older.fitted.known[:, :n_items]
        for task in world.tasks:
            task.candidates[n_items:] = False
            lists = [rank(BackboneScorer(model, task.setting, ew.N_ITEMS), task, 20, 64) for model in (whole, older)]
            assert np.array_equal(*lists) and lists[0].max() < n_items
        monkeypatch.setattr("reclm.backbones.loading.load_backbone", lambda path: older)
        final = FinalSnapshot(world.settings, world.backbones)
        assert not any(task.candidates[n_items:].any() for task in final.tasks)
        assert evaluate(world.settings, world.backbones).version


class TestAnInterruptedEvaluation:
    def test_goes_on_where_it_stopped_and_ends_with_the_same_tables(
        self, world: ew.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load, started = loading.load_backbone, []

        def killed_at_the_fourth(path: Path) -> ew.Noisy:
            started.append(path)
            if len(started) == 4:
                raise KeyboardInterrupt
            return load(path)

        monkeypatch.setattr("reclm.backbones.loading.load_backbone", killed_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            evaluate(world.settings, world.backbones)
        assert artifacts.all_of(world.settings.paths, "evaluation") == []
        monkeypatch.setattr("reclm.backbones.loading.load_backbone", load)
        world.loaded.clear()
        resumed = evaluate(world.settings, world.backbones)
        assert len(world.loaded) == 3  # the three ranked before the kill are not ranked again
        other = ew.make_world(tmp_path / "undisturbed", monkeypatch)
        undisturbed = evaluate(other.settings, other.backbones)
        for name in EVALUATION:
            assert pq.read_table(resumed.path / f"{name}.parquet").equals(
                pq.read_table(undisturbed.path / f"{name}.parquet")
            )
        assert sorted(path.name for path in resumed.path.iterdir()) == sorted(
            p.name for p in undisturbed.path.iterdir()
        )


class TestWhatIsShown:
    def test_rows_have_the_promised_fields_in_order_and_no_nan(self, world: ew.World) -> None:
        rows = list(result_rows(evaluate(world.settings, world.backbones)))
        assert {tuple(row) for row in rows} == {ROW_FIELDS}
        assert all(value == value for row in rows for value in row.values())
        assert _one(rows, model="ease", metric="coverage", k=20, setting="full_shot")["lo"] is None

    def test_the_table_stars_the_best_of_each_column(self, world: ew.World) -> None:
        evaluation = evaluate(world.settings, world.backbones)
        text = comparison_table(evaluation)
        rows = [
            row
            for row in result_rows(evaluation)
            if row["setting"] == "zero_shot" and row["metric"] == "recall" and row["k"] == 20
        ]
        best = max(row["value"] for row in rows)
        zero = text[text.index("zero-shot") :]
        assert f"{best:.4f}*" in zero
        assert "a fixed random list of 20 items" in text

    def test_the_published_table_stands_beside_ours_where_there_is_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = ew.make_world(tmp_path, monkeypatch, name="mind")
        text = comparison_table(evaluate(world.settings, world.backbones))
        assert "0.0389/0.0150 → 0.0788/0.0337" in text
        assert "not run → not run" in text  # simgcl

    def test_baselines_that_could_not_run_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("reclm.backbones.closed_form.MAX_DENSE_ITEMS", 50)
        world = ew.make_world(tmp_path, monkeypatch)
        evaluation = evaluate(world.settings, world.backbones)
        assert "left out: ease needs an item-item matrix" in comparison_table(evaluation)


class TestTheRandomListBand:
    def test_equals_ranking_that_many_fixed_lists(self, world: ew.World) -> None:
        task = world.tasks[1]
        band = random_list_band(task, seed=1, k=5, n_lists=4000)
        rng = np.random.default_rng(9)
        recalls = []
        for _ in range(400):
            scores = np.where(task.candidates, rng.random(ew.N_ITEMS), -1).astype(np.float32)
            ranks = truth_ranks(rank(_Fixed(scores), task, 5), task)
            recalls.append(metrics_per_user(ranks, task, (5,))["recall", 5].mean())
        assert band["recall"] == pytest.approx(np.mean(recalls), abs=0.01)
        assert band["recall_sd"] == pytest.approx(np.std(recalls), rel=0.15)


class TestBands:
    def test_of_users_average_back_to_the_whole(self, world: ew.World) -> None:
        path = evaluate(world.settings, world.backbones).path
        results, rows = (pq.read_table(path / f"{name}.parquet").to_pylist() for name in ("results", "bands"))
        who = {"setting": "full_shot", "model": "biasmf", "variant": "base", "metric": "recall", "k": 20}
        inside = [row for row in rows if who.items() <= row.items()]
        for kind in ("activity", "density"):
            parts = [row for row in inside if row["band_kind"] == kind]
            mean = sum(row["value"] * row["n"] for row in parts) / sum(row["n"] for row in parts)
            assert mean == pytest.approx(_one(results, **who)["value"])

    def test_of_items_ask_only_for_the_items_of_the_band(self, world: ew.World) -> None:
        task = world.tasks[0]
        ranks = np.where(task.truth.indices % 2 == 0, 1, 0).astype(np.int16)
        coldness = np.where(np.arange(ew.N_ITEMS) % 2 == 0, "4-10", "51+")
        status = bands.Bands(np.full(ew.N_USERS, ""), np.full(ew.N_USERS, ""), coldness)
        rows = [row for row in bands.band_rows(ranks, task, status, (5,)) if row["metric"] == "recall"]
        assert {row["band"]: row["value"] for row in rows} == {"4-10": 1.0, "51+": 0.0}

    @pytest.mark.parametrize(
        ("series", "expected"),
        [
            ([("0", 0.2), ("1-3", 0.1), ("4-10", -0.01), ("11-50", 0.1)], "4-10"),
            ([("0", 0.0), ("1-3", -0.1), ("4-10", 0.3)], "4-10"),
            ([("0", 0.2), ("1-3", 0.0), ("4-10", 0.1)], None),
            ([], None),
        ],
    )
    def test_name_the_band_where_the_gain_crosses_zero(
        self, series: list[tuple[str, float]], expected: str | None
    ) -> None:
        assert bands.first_sign_change(series) == expected

    def test_gains_average_seeds_and_keep_band_order(self) -> None:
        def row(variant: str, seed: int, band: str, value: float) -> dict[str, object]:
            where = {
                "setting": "full_shot",
                "model": "ncf",
                "band_kind": "activity",
                "metric": "recall",
                "k": 20,
                "n": 9,
            }
            return where | {"variant": variant, "seed": seed, "band": band, "value": value}

        rows = [row("base", s, b, 0.1) for s in (1, 2) for b in ("51+", "1-3")]
        rows += [row("augment", 1, "51+", 0.1), row("augment", 2, "51+", 0.3), row("augment", 1, "1-3", 0.0)]
        assert [(g["band"], pytest.approx(g["gain"])) for g in bands.gains(rows, "recall", 20)] == [
            ("1-3", -0.1),
            ("51+", 0.1),
        ]

    def test_families_compare_graph_backbones_with_factor_ones(self) -> None:
        values = {
            ("lightgcn", "base"): 0.2,
            ("lightgcn", "augment"): 0.3,
            ("ncf", "base"): 0.1,
            ("ncf", "augment"): 0.1,
        }
        rows = [
            {"setting": "zero_shot", "model": m, "variant": v, "metric": "recall", "k": 20, "value": value}
            for (m, v), value in values.items()
        ]
        found = {row["family"]: row["relative_gain"] for row in bands.family_gains(rows, "recall", 20)}
        assert found == {"graph": pytest.approx(0.5), "factor": pytest.approx(0.0)}


class TestTracking:
    def test_logs_one_run_a_model_and_variant(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mlflow = pytest.importorskip("mlflow", reason="needs the tracking extra")
        world = ew.make_world(tmp_path, monkeypatch, tracking={"mlflow": True})
        evaluation = evaluate(world.settings, world.backbones)
        client = mlflow.MlflowClient((world.settings.paths.root / "mlruns").as_uri())
        experiment = client.get_experiment_by_name("shop")
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert {"biasmf-augment-42", "ease-baseline-42"} < set(runs)
        row = _one(result_rows(evaluation), model="biasmf", variant="augment", setting="zero_shot", metric="ndcg", k=20)
        assert runs["biasmf-augment-42"].data.metrics["zero_shot/ndcg_at_20"] == pytest.approx(row["value"])

    def test_says_how_to_install_what_is_missing(self, world: ew.World, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        evaluation = evaluate(world.settings, world.backbones)
        monkeypatch.setitem(sys.modules, "mlflow", None)
        from reclm.evaluation.tracking import log_evaluation

        on = world.settings.model_copy(update={"tracking": world.settings.tracking.model_copy(update={"mlflow": True})})
        with pytest.raises(SettingsError, match=r"reclm\[tracking\]"):
            log_evaluation(on, evaluation)


class _Score:
    def __init__(self, backbone: ew.Noisy) -> None:
        self.score = backbone.score


class _Fixed:
    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score(self, users: np.ndarray) -> np.ndarray:
        return np.tile(self.scores, (len(users), 1))


def _one(rows: object, **wanted: object) -> dict:
    found = [row for row in rows if wanted.items() <= row.items()]  # type: ignore[attr-defined]
    assert len(found) == 1, (wanted, len(found))
    return found[0]
