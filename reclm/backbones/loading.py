"""The way to a backbone: by the name of its model, or from the folder that a fitted one was saved in."""

from __future__ import annotations

import importlib
from pathlib import Path

from reclm.backbones import storage
from reclm.backbones.base import Backbone
from reclm.errors import ModelError
from reclm.settings.tree import Settings

CLASSES = {
    "biasmf": "BiasMF",
    "ncf": "NCF",
    "lightgcn": "LightGCN",
    "sgl": "SGL",
    "simgcl": "SimGCL",
    "als": "ALS",
    "bpr": "BPR",
}
"""The class of each model, by the name that `settings.train.models` uses; its module has the same name."""


def create_backbone(name: str, settings: Settings) -> Backbone:
    """Create an unfitted backbone. `name` is one of `settings.train.models`; raises ModelError for any other."""
    if name not in CLASSES:
        raise ModelError(f"no backbone is called {name!r}; there are {', '.join(CLASSES)}")
    backbone: Backbone = getattr(importlib.import_module(f"reclm.backbones.models.{name}"), CLASSES[name])(settings)
    return backbone


def load_backbone(path: Path) -> Backbone:
    """Load the backbone saved in the folder `path`, ready to score.

    Users or items whose rows were dropped from the files are unknown to it. Raises ModelError naming a missing file.
    """
    name, settings, fitted = storage.read(path)
    backbone = create_backbone(name, settings)
    backbone.restore(fitted)
    return backbone
