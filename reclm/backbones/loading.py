"""Create a backbone by the name of its model, or load a fitted one from the folder that it was saved in."""

from __future__ import annotations

import importlib
from pathlib import Path

from reclm.backbones import storage
from reclm.backbones.base import Backbone
from reclm.errors import ModelError
from reclm.settings.operations import RuntimeSettings
from reclm.settings.recommenders import FusionSettings, TrainSettings

CLASSES = {
    "biasmf": "BiasMF",
    "ncf": "NCF",
    "lightgcn": "LightGCN",
    "sgl": "SGL",
    "simgcl": "SimGCL",
    "als": "ALS",
    "bpr": "BPR",
    "itemknn": "ItemKNN",
    "ease": "EASE",
    "kernel": "Kernel",
}
"""The class of each model, by the name that `settings.train.models` uses; its module has the same name."""


def create_backbone(name: str, train: TrainSettings, fusion: FusionSettings, runtime: RuntimeSettings) -> Backbone:
    """Create an unfitted backbone. `name` is one of `train.models`; raises ModelError for any other name."""
    if name not in CLASSES:
        raise ModelError(f"there is no backbone {name!r}; choose one of {', '.join(CLASSES)}")
    # imported when wanted: a service that serves one model loads neither implicit nor the other networks
    model = getattr(importlib.import_module(f"reclm.backbones.models.{name}"), CLASSES[name])
    backbone: Backbone = model(train, fusion, runtime)
    return backbone


def load_backbone(path: Path) -> Backbone:
    """Load the backbone saved in the folder `path`, ready to score.

    Users and items whose rows were deleted from its files are unknown to it. Raises ModelError naming a missing file.
    """
    name, train, fusion, fitted = storage.read(path)
    backbone = create_backbone(name, train, fusion, RuntimeSettings())
    backbone.restore(fitted)
    return backbone
