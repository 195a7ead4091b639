"""Compare what the validation slice said of the models with what the test slice says, and show what it chose between.

In: `backbone` artifacts, with the figures of their validation, and the rows of an evaluation's results. Out: for each
evaluation setting how well validation foretold the test, over all models and variants (Spearman's rank correlation, the
gap, and the order of those pairs that the test tells apart: among models that are equally good an order is chance);
and what each cold start gave where warm and cold items are ranked together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reclm.backbones.metrics import VALIDATION_K

if TYPE_CHECKING:
    from reclm.storage.artifacts import Artifact

METRIC = "ndcg"
MIN_MODELS = 3
"""Models with which a rank correlation says something at all."""


def foretold(
    models: Sequence[Artifact],
    results: Iterable[Mapping[str, Any]],
    told_apart: Iterable[tuple[str, str, str]],
) -> dict[str, dict[str, Any]]:
    """Return {evaluation setting: figures} of NDCG@20 on validation and test; without settings that lack either.

    `told_apart` are (setting, key of the better model, key of the worse one), keys like `biasmf-base-42`. The figures
    are `models`, `promised` (mean validation value), `given` (mean test value), `gap` (mean absolute difference),
    `rank_correlation` (Spearman; None with fewer than MIN_MODELS models or where all are equal), `pairs` (those that
    the test tells apart) and `ordered` (those of them that validation puts in the same order).
    """
    given = {
        (row["setting"], row["model"], row["variant"], row["seed"]): row["value"]
        for row in results
        if (row["metric"], row["k"]) == (METRIC, VALIDATION_K)
    }
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    promises: dict[tuple[str, str], float] = {}
    for model in models:
        parameters = model.manifest["parameters"]
        identity = (parameters["model"], parameters["variant"], int(parameters["seed"]))
        for setting, promised in model.metrics.get("validation", {}).items():
            if promised is not None and (setting, *identity) in given:
                pairs[setting].append((promised, given[setting, *identity]))
                promises[setting, "-".join(map(str, identity))] = promised
    figures = {setting: _agreement(np.array(values)) | {"pairs": 0, "ordered": 0} for setting, values in pairs.items()}
    for setting, better, worse in told_apart:
        if (setting, better) in promises and (setting, worse) in promises:
            figures[setting]["pairs"] += 1
            figures[setting]["ordered"] += promises[setting, better] > promises[setting, worse]
    return figures


def _agreement(pairs: NDArray[np.float64]) -> dict[str, Any]:
    promised, given = pairs.T
    ranked = len(pairs) >= MIN_MODELS and min(np.ptp(promised), np.ptp(given)) > 0
    return {
        "models": len(pairs),
        "promised": float(promised.mean()),
        "given": float(given.mean()),
        "gap": float(np.abs(promised - given).mean()),
        "rank_correlation": float(stats.spearmanr(promised, given).statistic) if ranked else None,
    }


def cold_starts_tried(models: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Return what each cold start gave on the validation slice, warm and cold items ranked together.

    Rows have `choice`, `option`, `ndcg` (at 20, a mean over the models that tried it) and `models`. The choices are
    `kernel share`, with the better of both kernels, and then `level`, at the share that is best for the model.
    """
    values: dict[tuple[str, float], list[float]] = defaultdict(list)
    for model in models:
        best: dict[tuple[str, float], float] = defaultdict(float)
        for one in model.metrics.get("cold_start_tried", []):
            level = ("level", float(one["shift"]))
            for option in (level,) if one["shift"] else (("kernel share", one["kernel_share"]), level):
                best[option] = max(best[option], one[METRIC])
        for option, value in best.items():
            values[option].append(value)
    return [
        {"choice": choice, "option": option, METRIC: float(np.mean(found)), "models": len(found)}
        for (choice, option), found in sorted(values.items())
    ]
