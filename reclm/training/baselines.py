"""Measure popularity and EASE on the validation slice, once for all models of a day.

In: the interactions known at the snapshot `select`, and its validation tasks. Out: an artifact `baselines` with a
folder for each baseline, which holds its `validation.parquet`: the values of the same users as in the file of that name
of every model. Promotion holds the day's models against them, because a model that has fallen below a simple baseline
has fallen however hard the day was. The baselines are those of `reclm/backbones/baselines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.training.snapshots import parents_of

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KIND = "baselines"
BASELINES = ("popularity", "ease")


def measure_baselines(settings: Settings) -> Artifact:
    """Measure the baselines on the current features' validation slice, or reuse the artifact that holds them.

    EASE is left out where its matrix of items by items would not fit in memory. New items, which no baseline can rank,
    are not measured alone.
    """
    from reclm.backbones.baselines import fit_baseline, why_not
    from reclm.features.frame import load_known
    from reclm.training.tasks import load_tasks
    from reclm.training.validation import write_metrics

    parents, parameters = parents_of(settings), parameters_of(settings)
    found = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))
    if found is not None:
        return found
    data = load_known(settings, "select")
    tasks = [task for task in load_tasks(settings, "select") if task.setting != "zero_shot"]
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        for name in BASELINES:
            if tasks and why_not(name, data) is None:
                (draft.path / name).mkdir()
                write_metrics(fit_baseline(name, data, settings.seed), data, tasks, draft.path / name)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))


def find_baselines(settings: Settings, parents: Mapping[str, str]) -> Artifact | None:
    """Return the measured baselines of models that learned from `parents`; None where they were not measured."""
    data = {name: parents[name] for name in ("features", "warehouse")}
    return artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters_of(settings), data))


def parameters_of(settings: Settings) -> dict[str, int]:
    """Return what determines the artifact beside the data."""
    return {"seed": settings.seed}
