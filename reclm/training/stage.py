"""The training stage: for each model, variant and seed, choose the epochs on `select`, refit on `final`, keep the result.

Features come from Feast, point-in-time at each snapshot's cut-off; the version of an artifact is the hash of the
settings that matter to it and of the features and tables it learned from. Beside the model lie its loss curve and, from
the model fitted on `select`, what promotion decides by (`evaluation/on_validation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from reclm.dataset import EvaluationSetting, EvaluationTask, Snapshot, TrainingData, Variant
from reclm.errors import WorkspaceError
from reclm.progress import say, track
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows
from reclm.storage.schemas import BACKBONE_CURVE
from reclm.training import pool as at_once

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KIND = "backbone"
METRIC = "ndcg"  # at 20
NOT_PART_OF_A_MODEL = {"models", "variants", "seeds", "jobs"}
LAYOUT = 7
"""What a finished model's folder and metrics hold, and how it was made; raised when that changes, so that older ones are
trained again."""


class Snapshots:
    """Training data and tasks, read when first needed, all at once, and then kept: the warehouse may move on meanwhile.

    Raises WorkspaceError when they are not what `parents` of the models to train name.
    """

    def __init__(self, settings: Settings, parents: Mapping[str, str]) -> None:
        self.settings, self.parents = settings, parents

    @cached_property
    def _read(self) -> tuple[TrainingData, list[EvaluationTask], TrainingData]:
        from reclm.training.tasks import load_tasks

        read = self._data("select"), load_tasks(self.settings, "select"), self._data("final")
        if parents_of(self.settings) != self.parents:
            raise WorkspaceError(
                "features were built or published anew while training read them; run `reclm train` again"
            )
        return read

    @property
    def select(self) -> tuple[TrainingData, list[EvaluationTask]]:
        return self._read[:2]

    @property
    def final(self) -> TrainingData:
        """Without tasks: the test slice is evaluation's alone."""
        return self._read[2]

    def _data(self, snapshot: Snapshot) -> TrainingData:
        from reclm.features.frame import load_training_data

        return load_training_data(self.settings, snapshot)


def parents_of(settings: Settings) -> dict[str, str]:
    """The versions that a model trained now learns from."""
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import features_fingerprint

    return {"features": features_version(settings), "warehouse": features_fingerprint(settings)}


def _identity(settings: Settings, model: str, variant: str, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """(parameters, parents): all that determines one trained model."""
    parameters = {
        "model": model,
        "variant": variant,
        "seed": seed,
        "train": settings.train.model_dump(mode="json", exclude=NOT_PART_OF_A_MODEL),
        "fusion": settings.fusion.model_dump(mode="json"),
        "device": settings.runtime.device,
        "dtype": settings.runtime.dtype,
        "layout": LAYOUT,
    }
    return parameters, parents_of(settings)


def _wanted(settings: Settings) -> list[tuple[str, Variant, int]]:
    return [
        (model, cast(Variant, variant), seed)
        for seed, model, variant in product(settings.train.seeds, settings.train.models, settings.train.variants)
    ]


def finished_backbones(settings: Settings) -> list[Artifact]:
    """The finished artifacts of the models, variants and seeds that the settings name, for the current features."""
    found = []
    for wanted in _wanted(settings):
        parameters, parents = _identity(settings, *wanted)
        artifact = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))
        if artifact is not None:
            found.append(artifact)
    return found


def train_all(settings: Settings) -> tuple[list[Artifact], int]:
    """Every wanted model, trained or found. Returns them and how many had to be trained."""
    from reclm.warehouse.sources import set_current_artifacts

    identities = [_identity(settings, *one) for one in _wanted(settings)]
    wanted = {artifacts.version_of(KIND, *identity): identity for identity in identities}
    missing = [one for version, one in wanted.items() if artifacts.find(settings.paths, KIND, version) is None]
    for version in track(_trained(settings, missing), "training", len(missing)):
        _tell(artifacts.load(settings.paths, KIND, version))
    finished = [artifacts.load(settings.paths, KIND, version) for version in wanted]
    set_current_artifacts(settings.paths, KIND, list(wanted))
    if not missing:
        say(f"  all {len(finished)} models stand; nothing to train")
    return finished, len(missing)


def _trained(settings: Settings, missing: Sequence[at_once.Identity]) -> Iterator[str]:
    jobs = at_once.processes(settings, len(missing))
    if jobs > 1:
        yield from at_once.train(settings, jobs, missing)
    elif missing:
        snapshots = Snapshots(settings, missing[0][1])
        for identity in missing:
            yield train_one(settings, snapshots, *identity)


def _tell(artifact: Artifact) -> None:
    parameters, metrics = artifact.manifest["parameters"], artifact.metrics
    shown = ", ".join(
        f"{setting} {value:.4f} (epoch {metrics['epochs'].get(setting)})"
        for setting, value in metrics["validation"].items()
        if value is not None
    )
    say(
        f"  {parameters['model']}/{parameters['variant']} seed {parameters['seed']}: "
        f"valid NDCG@20 {shown or 'not measurable'}; {artifact.manifest['seconds']:.1f} s"
    )


def train_one(settings: Settings, snapshots: Snapshots, parameters: dict[str, Any], parents: dict[str, str]) -> str:
    """Trains one model and writes its artifact. Returns the version."""
    from reclm import backbones
    from reclm.training import validation as on_validation
    from reclm.warehouse.reading import snapshot_as_of

    model, variant, seed = parameters["model"], parameters["variant"], parameters["seed"]
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        data, tasks = snapshots.select
        selected = backbones.create(model, settings)
        epochs = selected.fit(data, variant, seed=seed, tasks=tasks)
        fitted = backbones.create(model, settings)
        fitted.fit(
            snapshots.final,
            variant,
            seed=seed,
            epochs={str(setting): epoch for setting, epoch in epochs.items()},
            placing=selected.placing,
        )
        fitted.learn_to_fold_in(snapshots.final, seed)
        fitted.save(draft.path)
        rows = [
            {"model": model, "variant": variant, "seed": seed, "snapshot": snapshot, **row}
            for snapshot, backbone in (("select", selected), ("final", fitted))
            for row in backbone.curve
        ]
        write_rows(draft.path / "curve.parquet", rows, BACKBONE_CURVE)
        draft.metrics = {
            "validation": _validation(selected.curve, epochs),
            "validation_lists": on_validation.write(selected, data, tasks, draft.path),
            "epochs": epochs,
            "placing": selected.placing,
            "as_of": snapshot_as_of(settings, "final").isoformat(),
        }
    return artifacts.version_of(KIND, parameters, parents)


def _validation(curve: list[dict[str, Any]], epochs: Mapping[EvaluationSetting, int]) -> dict[str, float | None]:
    """NDCG@20 on the validation tasks at the chosen epochs; None for a setting that no task asked about."""
    return {
        setting: next(
            (
                row["value"]
                for row in curve
                if (row["setting"], row["metric"], row["epoch"]) == (setting, METRIC, epoch)
            ),
            None,
        )
        for setting, epoch in epochs.items()
    }
