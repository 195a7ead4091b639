"""How well validation foretold the test, and what each cold start gave: figures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reclm.evaluation.validation_figures import cold_starts_tried, foretold
from reclm.storage.artifacts import Artifact

TRIED = [
    {"kernel_share": 0.0, "reads_profiles": True, "shift": 0.0, "recall": 0.1, "ndcg": 0.1},
    {"kernel_share": 1.0, "reads_profiles": False, "shift": 0.0, "recall": 0.1, "ndcg": 0.3},
    {"kernel_share": 1.0, "reads_profiles": True, "shift": 0.0, "recall": 0.1, "ndcg": 0.2},
    {"kernel_share": 1.0, "reads_profiles": False, "shift": 2.0, "recall": 0.1, "ndcg": 0.4},
]


def model(name: str, validation: dict[str, float | None], **metrics: Any) -> Artifact:
    manifest = {
        "parameters": {"model": name, "variant": "base", "seed": 42},
        "metrics": {"validation": validation, **metrics},
    }
    return Artifact("backbone", name, Path(name), manifest)


def results(setting: str, **values: float) -> list[dict[str, Any]]:
    rows = [
        {"setting": setting, "model": name, "variant": "base", "seed": 42, "metric": "ndcg", "k": 20, "value": value}
        for name, value in values.items()
    ]
    return rows + [row | {"metric": "recall", "value": 1.0} for row in rows] + [row | {"k": 5} for row in rows]


class TestForetelling:
    def test_compares_the_order_and_the_height_of_both(self) -> None:
        models = [model(name, {"mixed": value}) for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3))]
        apart = [("mixed", "a-base-42", "b-base-42"), ("mixed", "c-base-42", "b-base-42"), ("zero_shot", "a", "b")]
        found = foretold(models, results("mixed", a=0.4, b=0.2, c=0.3), apart)["mixed"]
        assert found["models"] == 3
        assert found["promised"] == pytest.approx(0.4)
        assert found["given"] == pytest.approx(0.3)
        assert found["gap"] == pytest.approx(0.1)
        assert found["rank_correlation"] == pytest.approx(0.5)
        assert (found["pairs"], found["ordered"]) == (2, 1)

    def test_two_models_have_a_gap_and_no_order(self) -> None:
        models = [model("a", {"mixed": 0.5}), model("b", {"mixed": 0.4})]
        assert foretold(models, results("mixed", a=0.4, b=0.3), [])["mixed"]["rank_correlation"] is None

    def test_leaves_out_what_was_measured_on_one_side_alone(self) -> None:
        models = [model("a", {"mixed": None, "zero_shot": 0.2}), model("b", {"mixed": 0.4})]
        assert foretold(models, results("mixed", a=0.4), []) == {}


class TestColdStartsTried:
    def test_are_means_over_models_by_share_and_by_level(self) -> None:
        models = [model("a", {}, cold_start_tried=TRIED), model("b", {}, cold_start_tried=TRIED), model("ease", {})]
        found = {(row["choice"], row["option"]): (row["ndcg"], row["models"]) for row in cold_starts_tried(models)}
        assert found == {
            ("kernel share", 0.0): (pytest.approx(0.1), 2),
            ("kernel share", 1.0): (pytest.approx(0.3), 2),
            ("level", 0.0): (pytest.approx(0.3), 2),
            ("level", 2.0): (pytest.approx(0.4), 2),
        }
