"""The recommenders: five networks trained here and implicit's two, one file each, behind one abstract base."""

from __future__ import annotations

import importlib

from reclm.backbones.base import Backbone
from reclm.errors import ModelError
from reclm.settings.recommenders import BACKBONES
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

__all__ = ["BACKBONES", "Backbone", "create"]


def create(name: str, settings: Settings) -> Backbone:
    """An unfitted backbone by the name `settings.train.models` uses. Raises ModelError for any other name."""
    if name not in CLASSES:
        raise ModelError(f"no backbone is called {name!r}; there are {', '.join(CLASSES)}")
    backbone: Backbone = getattr(importlib.import_module(f"reclm.backbones.models.{name}"), CLASSES[name])(settings)
    return backbone
