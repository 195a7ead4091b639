"""What is kept of one model on one task while an evaluation runs: the rank of each truth pair and what its lists favour.

All metrics, bands and intervals follow from these. One safetensors file each, written whole, so that an interrupted
evaluation goes on where it stopped.
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

FOLDER = "measured"


@dataclass(frozen=True)
class RankingResult:
    """`ranks` (n_truth,) from `ranking.truth_ranks`; `favoured` from `ranking.list_metrics`."""

    ranks: NDArray[np.int16]
    favoured: dict[tuple[str, int], float] = field(default_factory=dict)


def write(path: Path, result: RankingResult) -> None:
    favoured = json.dumps([[metric, k, value] for (metric, k), value in result.favoured.items()])
    write_atomically(path, save({"ranks": result.ranks}, {"favoured": favoured}))


def read(path: Path, task: EvaluationTask) -> RankingResult | None:
    """What stands in the file; None when there is none, or when it speaks of another truth."""
    if not path.exists():
        return None
    with safe_open(str(path), framework="numpy") as file:
        ranks, about = file.get_tensor("ranks"), file.metadata()
    if len(ranks) != task.truth.nnz:
        return None
    favoured = {(metric, int(k)): float(value) for metric, k, value in json.loads(about["favoured"])}
    return RankingResult(ranks, favoured)
