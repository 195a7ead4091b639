"""The items that can be recommended: those the champion was trained with, and those that have come since.

A new item has a text and a profile in the feature store, and no place in the champion's space. It gets one by kernel
ridge regression from texts, text embeddings and, where validation found them of use, profile embeddings to where the
champion would see each of its own items if nobody had touched it (`Vectors.unseen`), or, by as much as validation found
good for cold items (`Backbone.placing`), to where it sees them, less their lead over the untouched; learned on all items
that it was trained with. Its vector is published beside the others under the champion's version, so whoever fills an index
from there has it, and nothing is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.progress import say
from reclm.promotion import champion
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.dataset import EvaluationSetting, TrainingData
    from reclm.settings.tree import Settings

SETTING: EvaluationSetting = "full_shot"


def add_new_items(settings: Settings) -> dict[str, Any]:
    """Gives every item that the champion has no vector of one, and publishes it; returns `{version, items, missing, added}`.

    Adding twice does nothing twice. Items of which neither text nor profile is known stay out, and are what is `missing`.
    Raises WorkspaceError without a champion or when the published features are not those of the build.
    """
    from reclm.backbones.loading import load_backbone
    from reclm.features.frame import load_training_data
    from reclm.features.fused import load_fused, publish_items
    from reclm.warehouse.reading import snapshot_as_of

    about = candidate_status(settings)
    if not about["missing"]:
        say(f"  all {about['items']:,} items have a vector of the champion {about['version']}")
        return about
    version = about["version"]
    held, _ = load_fused(settings, "item", version)
    data = load_training_data(settings, "final")
    missing = ~np.isin(data.item_ids, held)
    backbone = load_backbone(artifacts.load(settings.paths, "backbone", version).path)
    vectors = vectors_of_new_items(backbone, data)
    known = np.isfinite(vectors).all(axis=1)
    new = np.flatnonzero(missing & known)
    publish_items(settings, version, data.item_ids[new], vectors[new], snapshot_as_of(settings, "final"))
    about |= {"items": len(held) + len(new), "added": len(new), "missing": int((missing & ~known).sum())}
    say(f"  {len(new):,} new items are candidates of {version}; {about['missing']:,} have neither text nor profile")
    return about


def candidate_status(settings: Settings) -> dict[str, Any]:
    """`{version, items, missing, added: 0}`: the champion, the items that have a vector of it, and how many have none.

    Raises WorkspaceError without a champion. Asks the warehouse and one file, so it may be asked every few minutes.
    """
    from reclm.features.fused import load_fused
    from reclm.training.tasks import load_ids

    version = champion.current(settings)["version"]
    held, _ = load_fused(settings, "item", version)
    missing = int((~np.isin(load_ids(settings)[1], held)).sum())
    return {"version": version, "items": len(held), "missing": missing, "added": 0}


def vectors_of_new_items(backbone: Backbone, data: TrainingData) -> NDArray[np.float32]:
    """(n_items, width) float32: where each item of `data` belongs in the space of a fitted backbone; NaN: nobody can tell.

    Only rows of items that the backbone was not fitted on are of use: the others are predictions too. Where validation
    found texts alone to know better, profiles speak for items without a text.
    """
    from reclm.backbones.cold_start import blended, item_kernels, levelled, mapped, silent
    from reclm.backbones.features import present
    from reclm.backbones.fitted import ColdStart

    fitted = backbone.fitted
    learned = fitted.vectors[SETTING]
    position = np.array([fitted.item_position.get(item, -1) for item in data.item_ids.tolist()])
    targets = np.zeros((len(data.item_ids), learned.items.shape[1]), dtype=np.float32)
    source, place = learned.items, backbone.placing.get(SETTING, ColdStart())
    if learned.unseen is not None:
        cold = ~present(fitted.item_id_vectors)  # when it was fitted; people may have been forgotten since
        source = blended(learned.unseen, levelled(learned, ~cold), place.share)
        source[cold] = learned.items[cold]
    targets[position >= 0] = source[position[position >= 0]]
    profiles = None if fitted.description["variant"] == "base" else data.item_profile
    vectors = np.full_like(targets, np.nan)
    for read in (profiles,) if place.profiles or profiles is None else (None, profiles):
        missing = np.isnan(vectors).all(axis=1)
        if not missing.any():
            break
        sources: list[Any] = item_kernels(data, read)
        found = mapped(sources, (position >= 0).astype(np.int64), targets, linear=True)
        if found is not None:
            told = missing & ~silent(sources)
            vectors[told] = found[told]
    return vectors


def with_new_items(settings: Settings, backbone: Backbone, version: str) -> Backbone:
    """The fitted backbone, knowing also the items that were added to its candidates since."""
    from reclm.features.fused import load_fused

    ids, vectors = load_fused(settings, "item", version)
    new = ~np.isin(ids, backbone.fitted.item_ids)
    width = backbone.fitted.vectors[SETTING].items.shape[1]
    if new.any() and vectors.shape[1] != width:
        raise ModelError(f"published vectors of {version} have {vectors.shape[1]} numbers, the model's {width}")
    return backbone.extended(ids[new], vectors[new]) if new.any() else backbone
