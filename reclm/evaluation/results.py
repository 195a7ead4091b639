"""From ranks to the three tables of an evaluation: results with intervals, bands, paired comparisons.

In: what each contender puts where, per task. Out: rows, and their parquet files. Every contender of a task sees the same
resamples, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import metrics_per_user
from reclm.dataset import EvaluationTask
from reclm.evaluation.checkpoints import RankingResult
from reclm.evaluation.intervals import ITEM_METRICS, Column, Resamples, over_items, over_users, pair_gains
from reclm.settings.tree import Settings
from reclm.storage.files import write_rows
from reclm.storage.schemas import EVALUATION

MAX_CELLS = 64_000_000  # per-user (or per-pair) values held at once: 256 MB in float32


class Named(Protocol):
    """Who a row speaks of."""

    @property
    def model(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def key(self) -> str: ...


Entry = tuple[Named, RankingResult]


@dataclass
class Rows:
    results: list[dict[str, Any]] = field(default_factory=list)
    bands: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)


def write(rows: Rows, folder: Path) -> None:
    """`results.parquet`, `bands.parquet` and `comparisons.parquet`."""
    for name, schema in EVALUATION.items():
        write_rows(folder / f"{name}.parquet", getattr(rows, name), schema)


def add_results(
    rows: Rows, where: dict[str, Any], task: EvaluationTask, entries: Sequence[Any], settings: Settings
) -> None:
    """Appends the results of one task, with intervals over users, and its paired comparisons."""
    ks = settings.evaluation.ks
    means, by_users = _resampled_users(task, entries, settings)
    by_items = _resampled_items(task, entries, settings)
    for who, result in entries:
        about = where | {"model": who.model, "variant": who.variant, "seed": who.seed, "n_users": len(task.users)}
        for column in [c for c in by_users.columns if c[0] == who.key]:
            low, high = by_users.interval(column)
            rows.results.append(about | _metric(column) | {"value": means[column], "lo": low, "hi": high})
        for (metric, k), value in result.favoured.items():
            rows.results.append(about | {"metric": metric, "k": k, "value": value if np.isfinite(value) else None})
    people = [who for who, _ in entries]
    for one, other in _pairs(people):
        about = where | {"model": one.model, "variant": one.variant, "seed": one.seed}
        about |= {"other_model": other.model, "other_variant": other.variant}
        for metric, k in [(metric, k) for metric in ITEM_METRICS for k in ks]:
            here, there = (one.key, metric, k), (other.key, metric, k)
            low, high = by_users.difference(here, there)
            low_items, high_items = by_items.difference(here, there)
            rows.comparisons.append(
                about
                | _metric(here)
                | {"diff": means[here] - means[there], "lo_users": low, "hi_users": high}
                | {"lo_items": low_items, "hi_items": high_items}
            )


def _metric(column: Column) -> dict[str, Any]:
    return {"metric": column[1], "k": column[2]}


def _pairs(people: Sequence[Named]) -> Iterator[tuple[Named, Named]]:
    """(augment, what it is held against): its own base, its shuffled control, every baseline."""
    for one in people:
        if one.variant == "augment":
            for other in people:
                own = other.model == one.model and other.seed == one.seed and other.variant in ("base", "shuffled")
                if own or other.variant == "baseline":
                    yield one, other


def _resampled_users(
    task: EvaluationTask, entries: Sequence[Entry], settings: Settings
) -> tuple[dict[Column, float], Resamples]:
    ks = settings.evaluation.ks
    means: dict[Column, float] = {}

    def columns(entry: Entry) -> Iterator[tuple[Column, NDArray[np.float32]]]:
        who, result = entry
        for (metric, k), values in metrics_per_user(result.ranks, task, ks).items():
            means[who.key, metric, k] = float(values.mean())
            yield (who.key, metric, k), values.astype(np.float32)

    parts = [
        over_users(names, values, settings.evaluation.bootstrap, settings.seed, task.setting)
        for names, values in _grouped((column for entry in entries for column in columns(entry)), len(task.users))
    ]
    return means, _joined(parts)


def _resampled_items(task: EvaluationTask, entries: Sequence[Entry], settings: Settings) -> Resamples:
    columns = (
        ((who.key, metric, k), pair_gains(result.ranks, task, metric, k))
        for who, result in entries
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
    """Columns side by side, as many at once as memory is meant to hold."""
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
