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


Bounds = tuple[float, float]
UP, DOWN, OPEN = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.03)


def evaluation(
    folder: Path, over_none: Bounds | None = None, over_shuffled: Bounds | None = None, k: int = 20
) -> Artifact:
    """An evaluation of one model and two baselines; bounds of the gains of profiles on cold items."""
    values = {("als", "augment"): 0.3, ("popularity", "baseline"): 0.1, ("ease", "baseline"): 0.4}
    results: list[dict[str, Any]] = [
        {"setting": "full_shot", "model": model, "variant": variant, "metric": "recall", "k": k, "value": value}
        for (model, variant), value in values.items()
    ]
    pair = {"model": "als", "variant": "augment", "other_model": "als", "metric": "recall", "k": k, "seed": 42}
    other = {"setting": "full_shot", "other_model": "ease", "other_variant": "baseline"}
    over_ease = {"diff": 0.5, "lo_users": 0.4, "hi_users": 0.6, "lo_items": 0.4, "hi_items": 0.6}
    comparisons: list[dict[str, Any]] = [pair | other | over_ease]
    for variant, bounds in (("base", over_none), ("shuffled", over_shuffled)):
        if bounds is not None:
            gain = {"setting": "zero_shot", "other_variant": variant, "diff": sum(bounds) / 2}
            over = {f"{bound}_{what}": bounds[bound == "hi"] for bound in ("lo", "hi") for what in ("users", "items")}
            comparisons.append(pair | gain | over)
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
        ("over_none", "over_shuffled", "verdict"),
        [
            (UP, UP, "profiles help"),
            (OPEN, UP, "profiles bring no proven gain"),
            (UP, OPEN, "profiles bring no proven gain"),
            (DOWN, UP, "profiles hurt"),
        ],
    )
    def test_says_help_only_where_profiles_beat_none_and_the_control(
        self, tmp_path: Path, over_none: Bounds, over_shuffled: Bounds, verdict: str
    ) -> None:
        _, second = conclusion(evaluation(tmp_path, over_none, over_shuffled), CHAMPION).splitlines()
        none, shuffled = (sum(bounds) / 2 for bounds in (over_none, over_shuffled))
        assert f"cold {none:+.4f} against none and {shuffled:+.4f} against shuffled ones" in second
        assert second.endswith(f"{verdict} on this data.")

    def test_says_when_the_control_was_not_trained(self, tmp_path: Path) -> None:
        assert "was not measured" in conclusion(evaluation(tmp_path, UP), CHAMPION)
