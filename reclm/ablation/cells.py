"""The cells of an ablation: one backbone, trained on one arm's profiles in one variant with one seed, and measured.

In: a cell and its training data. Out: the ranks of the test items, in files beside a JSON record. A cell is named by
the hash of everything that determines it and written as soon as it is finished. So a killed run continues after it, and
another ablation that needs the same cell copies it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.dataset import EvaluationTask, TrainingData, Variant
from reclm.evaluation import checkpoints
from reclm.evaluation.checkpoints import RankingResult
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, content_hash
from reclm.storage.files import read_json, write_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

FOLDER = "cells"
K = 20
NO_ARM = "none"
"""The arm of the variant base, which reads no profiles."""


@dataclass(frozen=True)
class Cell:
    """What one cell trains: a model, an arm, a variant, a seed.

    `profiles` is the version of the arm's profiles, '' for the variant base; `name` hashes everything that matters.
    """

    model: str
    arm: str
    variant: Variant
    seed: int
    profiles: str
    name: str


@dataclass(frozen=True)
class FinishedCell:
    """The result of a cell: ranks and chosen epochs by evaluation setting, and the seconds it took."""

    cell: Cell
    ranked: dict[str, RankingResult]
    epochs: dict[str, int]
    seconds: float


Data = Callable[[], tuple[TrainingData, Sequence[EvaluationTask], TrainingData, Sequence[EvaluationTask]]]
"""(select, its tasks, final, its tasks) with the cell's profiles in them."""


def training_settings(settings: Settings) -> Settings:
    """Return the settings of training, with `ablate.epochs` in place of `train.epochs` where it is set."""
    if not settings.ablate.epochs:
        return settings
    return settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": settings.ablate.epochs})})


def cell_name(settings: Settings, parents: dict[str, str], **about: Any) -> str:
    """Return the hash of everything that determines a cell: `about` it, settings and parent versions."""
    from reclm.storage.version import ARTIFACT_LAYOUTS
    from reclm.text.reader import embedding_name
    from reclm.training.model import NOT_PART_OF_A_MODEL

    trained = training_settings(settings)
    return content_hash(
        {
            **about,
            "layout": ARTIFACT_LAYOUTS["backbone"],
            "train": trained.train.model_dump(mode="json", exclude=NOT_PART_OF_A_MODEL),
            "fusion": trained.fusion.model_dump(mode="json"),
            "embedding": embedding_name(trained),
            "device": trained.runtime.device,
            "dtype": trained.runtime.dtype,
            "parents": parents,
        }
    )


def load_finished(
    settings: Settings, cell: Cell, folder: Path, tasks: Sequence[EvaluationTask], earlier: Sequence[Artifact]
) -> FinishedCell | None:
    """Load a finished cell from `folder`, or copy it there from an earlier ablation; None when it must be trained."""
    about = folder / f"{cell.name}.json"
    if not about.exists():
        held = next((a.path / FOLDER for a in reversed(earlier) if (a.path / FOLDER / about.name).exists()), None)
        if held is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(
            held.glob(f"{cell.name}*"), key=lambda path: path.suffix == ".json"
        ):  # the record last: it marks the cell as finished
            shutil.copy(path, folder / path.name)
    ranked = {task.setting: checkpoints.read(_ranks(folder, cell, task), task) for task in tasks}
    if any(found is None for found in ranked.values()):
        return None
    record = read_json(about)
    return FinishedCell(
        cell, {s: found for s, found in ranked.items() if found is not None}, record["epochs"], record["seconds"]
    )


def _ranks(folder: Path, cell: Cell, task: EvaluationTask) -> Path:
    return folder / f"{cell.name}-{task.setting}.safetensors"


def train_cell(settings: Settings, cell: Cell, folder: Path, data: Data) -> FinishedCell:
    """Train one cell as `reclm train` trains a model, rank the tasks of `final`, and write the result into `folder`."""
    from reclm.backbones.ranking import BackboneScorer, rank, truth_ranks
    from reclm.training.model import select_and_refit

    began = time.monotonic()
    select, select_tasks, final, tasks = data()
    trained = select_and_refit(
        training_settings(settings), cell.model, cell.variant, cell.seed, (select, select_tasks), final
    )
    folder.mkdir(parents=True, exist_ok=True)
    ranked: dict[str, RankingResult] = {}
    for task in tasks:
        lists = rank(BackboneScorer(trained.refitted, task.setting), task, K, settings.evaluation.batch_size)
        ranked[task.setting] = RankingResult(truth_ranks(lists, task))
        checkpoints.write(_ranks(folder, cell, task), ranked[task.setting])
    seconds = round(time.monotonic() - began, 3)
    epochs = {str(setting): int(epoch) for setting, epoch in trained.selection.epochs.items()}
    record = {
        "model": cell.model,
        "arm": cell.arm,
        "variant": cell.variant,
        "seed": cell.seed,
        "epochs": epochs,
        "cold_start": {setting: one._asdict() for setting, one in trained.selection.cold_start.items()},
        "seconds": seconds,
    }
    write_json(folder / f"{cell.name}.json", record)
    return FinishedCell(cell, ranked, epochs, seconds)


def earlier_ablations(settings: Settings) -> list[Artifact]:
    return artifacts.all_of(settings.paths, "ablation")
