"""Look up figures that others published or measured for the benchmark data sets, to be shown beside ours.

In: the name of a data set. Out: its figures from `reference_figures.json`; nothing for a data set that is not a
benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any


@cache
def all_figures() -> dict[str, Any]:
    """Return the whole file."""
    return json.loads(resources.files(__package__).joinpath("reference_figures.json").read_text(encoding="utf-8"))


def figures_of(dataset: str) -> dict[str, Any]:
    """Return the figures of a benchmark data set, by its name in any case; {} for any other data set."""
    return all_figures()["datasets"].get(dataset.lower(), {})


def is_benchmark(dataset: str) -> bool:
    """Tell whether others published figures for this data set, so that targets and the paper's headline apply to it."""
    return dataset.lower() in all_figures()["datasets"]


def baseline_rows(dataset: str, regime: str, setting: str) -> dict[str, list[float]]:
    """Return {baseline: [R@20, N@20, R@40, N@40]} as published for that regime and setting."""
    return figures_of(dataset).get("baselines", {}).get(regime, {}).get(setting, {})


def published_models(dataset: str) -> dict[str, Any] | None:
    """Return {source, models: {setting: {model: {base: [R@20, N@20], augment: [...]}}}}, or None."""
    return figures_of(dataset).get("published")


def our_recall_and_ndcg(
    values: Mapping[tuple[str, str], Mapping[tuple[str, int], Sequence[float]]], model: str, variant: str
) -> tuple[float, float] | None:
    """Return our (Recall@20, NDCG@20) of a model and variant, averaged over seeds; None when it did not run."""
    cells = values.get((model, variant), {})
    pair = [cells.get((metric, 20), ()) for metric in ("recall", "ndcg")]
    return (sum(pair[0]) / len(pair[0]), sum(pair[1]) / len(pair[1])) if all(pair) else None
