"""The data of `select` and `final` and the tasks of `select`, read once from the feature store and the warehouse."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from reclm.dataset import EvaluationTask, Snapshot, TrainingData

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


class Snapshots:
    """Training data and validation tasks, read together at first use and then held in memory.

    They stay the same however long training takes, even if the warehouse is built again meanwhile. Reading raises
    WorkspaceError when features or tables are not those that `parents`, the versions of the models to train, name.
    """

    def __init__(self, settings: Settings, parents: Mapping[str, str]) -> None:
        self.settings, self.parents = settings, parents

    @cached_property
    def _read(self) -> tuple[TrainingData, list[EvaluationTask], TrainingData]:
        from reclm.features.history import keep
        from reclm.training.tasks import load_tasks

        read = self._data("select"), load_tasks(self.settings, "select"), self._data("final")
        for data in (read[0], read[2]):
            keep(self.settings, self.parents, data)
        return read

    @property
    def select(self) -> tuple[TrainingData, list[EvaluationTask]]:
        """The training data of `select`, and the validation tasks to choose on."""
        return self._read[:2]

    @property
    def final(self) -> TrainingData:
        """The training data of `final`. It comes without tasks, because only evaluation may read the test slice."""
        return self._read[2]

    def _data(self, snapshot: Snapshot) -> TrainingData:
        from reclm.features.frame import load_training_data

        return load_training_data(self.settings, snapshot)


def parents_of(settings: Settings) -> dict[str, str]:
    """Return the versions of the features and tables that a model trained now learns from."""
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import features_fingerprint

    return {"features": features_version(settings), "warehouse": features_fingerprint(settings.paths)}
