"""The two sentences at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.cli.conclusion import conclusion
from reclm.storage.artifacts import Artifact

CHAMPION = {"model": "als", "variant": "augment", "seed": 42}


def evaluation(folder: Path, *gains: tuple[str, float, float], k: int = 20) -> Artifact:
    """An evaluation of one model and two baselines; `gains` are (setting, low, high) over shuffled profiles."""
    values = {("als", "augment"): 0.3, ("popularity", "baseline"): 0.1, ("ease", "baseline"): 0.4}
    results: list[dict[str, Any]] = [
        {"setting": "full_shot", "model": model, "variant": variant, "metric": "recall", "k": k, "value": value}
        for (model, variant), value in values.items()
    ]
    pair = {"model": "als", "variant": "augment", "other_model": "als", "metric": "recall", "k": k, "seed": 42}
    other = {"setting": "full_shot", "other_variant": "base", "diff": 0.5, "lo_users": 0.4, "hi_users": 0.6}
    comparisons: list[dict[str, Any]] = [pair | other]
    for setting, low, high in gains:
        gain = {"setting": setting, "diff": (low + high) / 2, "lo_users": low, "hi_users": high}
        comparisons.append(pair | gain | {"other_variant": "shuffled"})
    pq.write_table(pa.Table.from_pylist(results), folder / "results.parquet")
    pq.write_table(pa.Table.from_pylist(comparisons), folder / "comparisons.parquet")
    return Artifact("evaluation", "v", folder, {})


class TestTheFirstSentence:
    def test_names_the_champion_and_its_recall_beside_popularity_and_ease(self, tmp_path: Path) -> None:
        first, _ = conclusion(evaluation(tmp_path), CHAMPION).splitlines()
        expected = (
            "The champion is als with profiles. Its Recall@20: warm items 0.3000 (popularity 0.1000, EASE 0.4000)."
        )
        assert first == expected

    def test_uses_the_largest_k_where_20_is_not_measured(self, tmp_path: Path) -> None:
        assert "Its Recall@10: warm" in conclusion(evaluation(tmp_path, k=10), CHAMPION)

    def test_without_a_champion_says_where_to_look(self, tmp_path: Path) -> None:
        assert "reclm champion" in conclusion(evaluation(tmp_path), None)


class TestTheSecondSentence:
    @pytest.mark.parametrize(
        ("low", "high", "verdict"),
        [(0.01, 0.03, "profiles help"), (-0.03, -0.01, "profiles hurt"), (-0.01, 0.03, "no proven gain")],
    )
    def test_says_help_only_where_the_interval_leaves_out_zero(
        self, tmp_path: Path, low: float, high: float, verdict: str
    ) -> None:
        _, second = conclusion(evaluation(tmp_path, ("zero_shot", low, high)), CHAMPION).splitlines()
        assert f"cold {(low + high) / 2:+.4f} [{low:+.4f}, {high:+.4f}]" in second
        assert verdict in second

    def test_says_when_the_control_was_not_trained(self, tmp_path: Path) -> None:
        assert "was not measured" in conclusion(evaluation(tmp_path), CHAMPION)
