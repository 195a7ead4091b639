"""One trained model: what identifies it, and how it is selected, refitted and written as a `backbone` artifact.

Epochs are chosen on the snapshot `select`, the model is refitted on `final`. The version of an artifact is the hash of the
settings that matter to it and of the features and tables it learned from. Beside the model lie its loss curve and, from
the model fitted on `select`, what promotion decides by (`training/validation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reclm.dataset import EvaluationSetting
from reclm.storage import artifacts
from reclm.storage.files import write_rows
from reclm.storage.schemas import BACKBONE_CURVE
from reclm.training.snapshots import Snapshots, parents_of

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


KIND = "backbone"
METRIC = "ndcg"  # at 20
NOT_PART_OF_A_MODEL = {"models", "variants", "seeds", "jobs"}
LAYOUT = 7
"""What a finished model's folder and metrics hold, and how it was made; raised when that changes, so that older ones are
trained again."""


def identity_of(settings: Settings, model: str, variant: str, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
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


def train_one(settings: Settings, snapshots: Snapshots, parameters: dict[str, Any], parents: dict[str, str]) -> str:
    """Trains one model and writes its artifact. Returns the version."""
    from reclm.backbones.loading import create_backbone
    from reclm.training.validation import write_validation
    from reclm.warehouse.reading import snapshot_as_of

    model, variant, seed = parameters["model"], parameters["variant"], parameters["seed"]
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        data, tasks = snapshots.select
        selected = create_backbone(model, settings)
        epochs = selected.fit(data, variant, seed=seed, tasks=tasks)
        fitted = create_backbone(model, settings)
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
            "validation_lists": write_validation(selected, data, tasks, draft.path),
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
