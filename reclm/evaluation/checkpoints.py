"""Write and read the checkpoints of a running evaluation: one safetensors file per model and task.

In: the rank of each truth pair and the figures of the recommended lists. Out: the same, read again, so that an
interrupted evaluation continues where it stopped. All metrics, bands and intervals are computed from these. Files are
written atomically.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from reclm.dataset import EvaluationTask
from reclm.storage.files import write_atomically

FOLDER = "checkpoints"
LIST_METRICS = "favoured"
"""The key of the metadata; finished cells of older ablations have it too."""


@dataclass(frozen=True)
class RankingResult:
    """The result of ranking one task with one model.

    `ranks` (n_truth,) is the rank of each truth pair (`ranking.truth_ranks`); `list_metrics` has coverage, novelty
    and average popularity of the lists by (metric, k) (`ranking.list_metrics`).
    """

    ranks: NDArray[np.int16]
    list_metrics: dict[tuple[str, int], float] = field(default_factory=dict)


def write(path: Path, result: RankingResult) -> None:
    """Write a result to `path`."""
    list_metrics = json.dumps([[metric, k, value] for (metric, k), value in result.list_metrics.items()])
    write_atomically(path, save({"ranks": result.ranks}, {LIST_METRICS: list_metrics}))


def read(path: Path, task: EvaluationTask) -> RankingResult | None:
    """Read the result in `path`; None when there is no file or it belongs to another truth."""
    if not path.exists():
        return None
    with safe_open(str(path), framework="numpy") as file:
        ranks, metadata = file.get_tensor("ranks"), file.metadata()
    if len(ranks) != task.truth.nnz:
        return None
    stored = json.loads(metadata[LIST_METRICS])
    return RankingResult(ranks, {(metric, int(k)): float(value) for metric, k, value in stored})
