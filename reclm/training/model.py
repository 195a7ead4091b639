"""Train one model: select on `select`, refit on `final`, write a `backbone` artifact; later refit it on `serve`.

In: the snapshots and what identifies the model. Out: an artifact with the refitted model, its loss curve and, from the
model fitted on `select`, the validation figures by which promotion decides (`training/validation.py`). The version of
the artifact is the hash of the settings that matter to the model and of the features and tables it learned from.

A `backbone` artifact is for measuring: it does not know the test slice. The model that people are served is fitted with
the same choices on everything that is known, and is an artifact of kind `served`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reclm.dataset import EvaluationTask, TrainingData, Variant
from reclm.settings.recommenders import FusionSettings, TrainSettings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows
from reclm.storage.schemas import BACKBONE_CURVE
from reclm.training.snapshots import Snapshots, parents_of

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.backbones.fitted import CurveRow, Selection
    from reclm.settings.tree import Settings


KIND = "backbone"
SERVED_KIND = "served"
METRIC = "ndcg"  # at 20: the validation figure that is recorded beside a model
NOT_PART_OF_A_MODEL = {"models", "variants", "seeds", "jobs"}
"""Keys of `settings.train` that say which models are trained, and change nothing in any one of them."""


def identity_of(settings: Settings, model: str, variant: str, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (parameters, parents): everything that determines one trained model."""
    parameters = {
        "model": model,
        "variant": variant,
        "seed": seed,
        "train": settings.train.model_dump(mode="json", exclude=NOT_PART_OF_A_MODEL),
        "fusion": settings.fusion.model_dump(mode="json"),
        "device": settings.runtime.device,
        "dtype": settings.runtime.dtype,
    }
    return parameters, parents_of(settings)


@dataclass(frozen=True)
class TrainedModel:
    """A model after selection and refit: fitted on `select` as `selected`, fitted on `final` as `refitted`.

    `curve` holds the loss of each epoch of the refit.
    """

    selected: Backbone
    selection: Selection
    refitted: Backbone
    curve: list[CurveRow]


def select_and_refit(
    settings: Settings,
    model: str,
    variant: Variant,
    seed: int,
    select: tuple[TrainingData, Sequence[EvaluationTask]],
    final: TrainingData,
) -> TrainedModel:
    """Choose the epochs of a model on the snapshot `select`, refit it on `final`, and let it learn to fold in users."""
    from reclm.backbones.loading import create_backbone

    selected, refitted = (
        create_backbone(model, settings.train, settings.fusion, settings.runtime) for _ in ("select", "final")
    )
    selection = selected.select(select[0], variant, select[1], seed)
    curve = refitted.refit(final, variant, selection, seed)
    refitted.learn_to_fold_in(final, seed)
    return TrainedModel(selected, selection, refitted, curve)


def train_one(settings: Settings, snapshots: Snapshots, parameters: dict[str, Any], parents: dict[str, str]) -> str:
    """Train one model and write its artifact. Returns the version."""
    from reclm.training.validation import write_validation
    from reclm.warehouse.reading import snapshot_as_of

    model, variant, seed = parameters["model"], parameters["variant"], parameters["seed"]
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        data, tasks = snapshots.select
        trained = select_and_refit(settings, model, variant, seed, (data, tasks), snapshots.final)
        trained.refitted.save(draft.path)
        selection = trained.selection
        rows = [
            {"model": model, "variant": variant, "seed": seed, "snapshot": snapshot, **row}
            for snapshot, curve in (("select", selection.curve), ("final", trained.curve))
            for row in curve
        ]
        write_rows(draft.path / "curve.parquet", rows, BACKBONE_CURVE)
        draft.metrics = {
            "validation": selection.validation(METRIC),
            "validation_lists": write_validation(trained.selected, data, tasks, draft.path),
            "epochs": dict(selection.epochs),
            "options": trained.refitted.fitted.description.get("options", {}),
            "cold_start": trained.refitted.fitted.description.get("cold_start", {}),
            "cold_start_tried": [
                one.cold_start._asdict() | {"recall": one.recall, "ndcg": one.ndcg} for one in selection.tried
            ],
            "as_of": snapshot_as_of(settings, "final").isoformat(),
        }
    return artifacts.version_of(KIND, parameters, parents)


def selection_of(model: Artifact) -> Selection:
    """Return what validation chose for a trained model, from its `backbone` artifact."""
    from reclm.backbones.fitted import ColdStart, Selection

    chosen = {setting: ColdStart(**cold_start) for setting, cold_start in model.metrics["cold_start"].items()}
    return Selection(model.metrics["epochs"], chosen, options=model.metrics["options"])


def refit_on_serve(settings: Settings, model: Artifact) -> Artifact:
    """Fit a trained model once more, on everything that is known now: artifact `served`.

    `model` is a `backbone` artifact, which says what to fit: model, variant, seed, settings and what validation chose.
    The data are those of snapshot `serve` of the current build. Reuses an artifact with the same inputs. Raises
    WorkspaceError where the published features are not those of the build, or are published anew meanwhile.
    """
    from reclm.backbones.loading import create_backbone
    from reclm.features.frame import load_training_data
    from reclm.features.history import keep
    from reclm.warehouse.reading import snapshot_as_of

    trained = model.manifest["parameters"]
    parameters = {name: trained[name] for name in ("model", "variant", "seed")}
    parents = {**parents_of(settings), KIND: model.version}
    version = artifacts.version_of(SERVED_KIND, parameters, parents)
    found = artifacts.find(settings.paths, SERVED_KIND, version)
    if found is not None:
        return found
    backbone = create_backbone(
        trained["model"], TrainSettings(**trained["train"]), FusionSettings(**trained["fusion"]), settings.runtime
    )
    with artifacts.writing(settings.paths, SERVED_KIND, parameters, parents) as draft:
        data = load_training_data(settings, "serve")
        keep(settings, parents, data)
        curve = backbone.refit(data, trained["variant"], selection_of(model), trained["seed"])
        backbone.learn_to_fold_in(data, trained["seed"])
        backbone.save(draft.path)
        draft.metrics = {
            "as_of": snapshot_as_of(settings, "serve").isoformat(),
            "users": len(data.user_ids),
            "items": len(data.item_ids),
            "interactions": int(data.interactions.nnz),
            "loss": curve[-1]["loss"] if curve else None,
        }
    return artifacts.load(settings.paths, SERVED_KIND, version)
