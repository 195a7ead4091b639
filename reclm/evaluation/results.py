"""Build the three tables of an evaluation from ranks: results with intervals, bands, and paired comparisons.

In: the ranks of each model or baseline, per task. Out: rows, and their parquet files. All models of a task use the same
bootstrap resamples, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.metrics import VALIDATION_K, metrics_per_user
from reclm.dataset import EvaluationTask
from reclm.evaluation.checkpoints import RankingResult
from reclm.evaluation.intervals import ITEM_METRICS, Column, Resamples, over_items, over_users, pair_gains
from reclm.settings.tree import Settings
from reclm.storage.files import write_rows
from reclm.storage.schemas import EVALUATION

MAX_CELLS = 64_000_000  # per-user (or per-pair) values held at once: 256 MB in float32


class RankedModel(Protocol):
    """The identity of a model or baseline in a table row."""

    @property
    def model(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def key(self) -> str: ...


Ranked = tuple[RankedModel, RankingResult]


@dataclass
class Rows:
    """The rows of the three tables, and which models the test tells apart.

    `told_apart` has (setting, key of the better model, key of the worse one), where the 95 % intervals of the
    difference of their NDCG@20, over users and over items, both leave out zero.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    bands: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    told_apart: list[tuple[str, str, str]] = field(default_factory=list)


def write(rows: Rows, folder: Path) -> None:
    """Write `results.parquet`, `bands.parquet` and `comparisons.parquet` into `folder`."""
    for name, schema in EVALUATION.items():
        write_rows(folder / f"{name}.parquet", getattr(rows, name), schema)


def add_results(
    rows: Rows, task_fields: dict[str, Any], task: EvaluationTask, ranked: Sequence[Any], settings: Settings
) -> None:
    """Append the results of one task, with intervals over users, and its paired comparisons.

    `task_fields` are the columns dataset, regime and setting; `ranked` are pairs of a model and its ranks.
    """
    ks = settings.evaluation.ks
    means, by_users = _resampled_users(task, ranked, settings)
    by_items = _resampled_items(task, ranked, settings)
    for model, result in ranked:
        fields = task_fields | {"model": model.model, "variant": model.variant, "seed": model.seed}
        fields |= {"n_users": len(task.users)}
        for column in [c for c in by_users.columns if c[0] == model.key]:
            low, high = by_users.interval(column)
            rows.results.append(fields | _metric(column) | {"value": means[column], "lo": low, "hi": high})
        for (metric, k), value in result.list_metrics.items():
            rows.results.append(fields | {"metric": metric, "k": k, "value": value if np.isfinite(value) else None})
    for one, other in _compared_pairs([model for model, _ in ranked]):
        fields = task_fields | {"model": one.model, "variant": one.variant, "seed": one.seed}
        fields |= {"other_model": other.model, "other_variant": other.variant}
        for metric, k in [(metric, k) for metric in ITEM_METRICS for k in ks]:
            column, other_column = (one.key, metric, k), (other.key, metric, k)
            low, high = by_users.difference(column, other_column)
            low_items, high_items = by_items.difference(column, other_column)
            rows.comparisons.append(
                fields
                | _metric(column)
                | {"diff": means[column] - means[other_column], "lo_users": low, "hi_users": high}
                | {"lo_items": low_items, "hi_items": high_items}
            )
    if VALIDATION_K in ks:
        models = [model.key for model, _ in ranked if model.variant != "baseline"]
        rows.told_apart += [(task.setting, *pair) for pair in _told_apart(models, by_users, by_items)]


def _told_apart(models: Sequence[str], *resamples: Resamples) -> Iterator[tuple[str, str]]:
    """Yield (better, worse) of each pair whose difference has the same sign throughout every interval."""
    for one, other in combinations(models, 2):
        columns = (one, "ndcg", VALIDATION_K), (other, "ndcg", VALIDATION_K)
        bounds = [bound for means in resamples for bound in means.difference(*columns)]
        if min(bounds) > 0 or max(bounds) < 0:
            yield (one, other) if min(bounds) > 0 else (other, one)


def _metric(column: Column) -> dict[str, Any]:
    return {"metric": column[1], "k": column[2]}


def _compared_pairs(models: Sequence[RankedModel]) -> Iterator[tuple[RankedModel, RankedModel]]:
    """Pairs of an augment model with its own base, its shuffled control and every baseline."""
    for one in models:
        if one.variant == "augment":
            for other in models:
                own = other.model == one.model and other.seed == one.seed and other.variant in ("base", "shuffled")
                if own or other.variant == "baseline":
                    yield one, other


def _resampled_users(
    task: EvaluationTask, ranked: Sequence[Ranked], settings: Settings
) -> tuple[dict[Column, float], Resamples]:
    ks = settings.evaluation.ks
    means: dict[Column, float] = {}

    def columns(entry: Ranked) -> Iterator[tuple[Column, NDArray[np.float32]]]:
        model, result = entry
        for (metric, k), values in metrics_per_user(result.ranks, task, ks).items():
            means[model.key, metric, k] = float(values.mean())
            yield (model.key, metric, k), values.astype(np.float32)

    parts = [
        over_users(names, values, settings.evaluation.bootstrap, settings.seed, task.setting)
        for names, values in _grouped((column for entry in ranked for column in columns(entry)), len(task.users))
    ]
    return means, _joined(parts)


def _resampled_items(task: EvaluationTask, ranked: Sequence[Ranked], settings: Settings) -> Resamples:
    columns = (
        ((model.key, metric, k), pair_gains(result.ranks, task, metric, k))
        for model, result in ranked
        for metric in ITEM_METRICS
        for k in settings.evaluation.ks
    )
    parts = [
        over_items(names, gains, task, settings.evaluation.bootstrap, settings.seed, task.setting)
        for names, gains in _grouped(columns, task.truth.nnz)
    ]
    return _joined(parts)


def _grouped(
    columns: Iterable[tuple[Column, NDArray[np.float32]]], n_rows: int
) -> Iterator[tuple[list[Column], NDArray[np.float32]]]:
    """Stack columns side by side, in groups of at most MAX_CELLS values."""
    names: list[Column] = []
    values: list[NDArray[np.float32]] = []
    for name, column in columns:
        names.append(name)
        values.append(column)
        if len(names) * n_rows >= MAX_CELLS:
            yield names, np.stack(values, axis=1)
            names, values = [], []
    if names:
        yield names, np.stack(values, axis=1)


def _joined(parts: Sequence[Resamples]) -> Resamples:
    return Resamples(
        tuple(column for part in parts for column in part.columns), np.concatenate([p.means for p in parts], axis=1)
    )
