"""Give the champion vectors of items that came after it was trained, so that they can be recommended without training.

In: the champion and the current texts, text embeddings and profile embeddings of all items. Out: vectors of the new
items, published beside the others under the champion's version, where serving finds them. A new item's vector is
predicted by kernel ridge regression that is fitted on all items of the champion: from texts, text embeddings and,
where validation found them useful, profile embeddings to the vector that the item would have without interactions
(`Vectors.unseen`), blended with its trained vector by the share that validation found best for cold items. From the
trained vector the mean advantage of items with interactions is subtracted first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.progress import detail
from reclm.promotion import champion
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.dataset import EvaluationSetting, TrainingData
    from reclm.settings.tree import Settings

SETTING: EvaluationSetting = "full_shot"


def place_new_items(settings: Settings) -> dict[str, Any]:
    """Publish a vector for each item that has none of the champion; return `{version, items, missing, added}`.

    `missing` counts items without text and profile, which get no vector. A second call adds nothing. Raises
    WorkspaceError without a champion or when the published features are not those of the build.
    """
    from reclm.backbones.loading import load_backbone
    from reclm.features.frame import load_training_data
    from reclm.features.fused import load_fused, publish_items
    from reclm.warehouse.reading import snapshot_as_of

    status = candidate_status(settings)
    if not status["missing"]:
        detail(f"all {status['items']:,} items have a vector of the champion {status['version']}")
        return status
    version = status["version"]
    published, _ = load_fused(settings, "item", version)
    data = load_training_data(settings, "final")
    missing = ~np.isin(data.item_ids, published)
    backbone = load_backbone(artifacts.load(settings.paths, "backbone", version).path)
    vectors = vectors_of_new_items(backbone, data)
    known = np.isfinite(vectors).all(axis=1)
    new = np.flatnonzero(missing & known)
    publish_items(settings, version, data.item_ids[new], vectors[new], snapshot_as_of(settings, "final"))
    status |= {"items": len(published) + len(new), "added": len(new), "missing": int((missing & ~known).sum())}
    detail(f"{len(new):,} new items are candidates of {version}; {status['missing']:,} have neither text nor profile")
    return status


def candidate_status(settings: Settings) -> dict[str, Any]:
    """Return `{version, items, missing, added: 0}`: the champion, how many items have a vector of it, how many have
    none.

    Reads the warehouse and one file, so it is cheap enough for every few minutes. Raises WorkspaceError without a
    champion.
    """
    from reclm.features.fused import load_fused
    from reclm.training.tasks import load_ids

    version = champion.current(settings)["version"]
    published, _ = load_fused(settings, "item", version)
    missing = int((~np.isin(load_ids(settings)[1], published)).sum())
    return {"version": version, "items": len(published), "missing": missing, "added": 0}


def vectors_of_new_items(backbone: Backbone, data: TrainingData) -> NDArray[np.float32]:
    """Predict a vector in the space of a fitted backbone for each item of `data`: (n_items, width) float32.

    A row is NaN where neither text nor profile is known. Use only the rows of items that the backbone was not fitted
    on; the other rows are predictions too. Where validation found texts alone to be better, profiles are used only
    for items without a text.
    """
    from reclm.backbones.cold_start import mix, shifted_to_unseen
    from reclm.backbones.features import present
    from reclm.backbones.fitted import ColdStart
    from reclm.backbones.kernel_ridge import item_sources, predict_all, rows_without_source

    fitted = backbone.fitted
    learned = fitted.vectors[SETTING]
    position = np.array([fitted.item_position.get(item, -1) for item in data.item_ids.tolist()])
    targets = np.zeros((len(data.item_ids), learned.items.shape[1]), dtype=np.float32)
    source, cold_start = learned.items, backbone.cold_start.get(SETTING, ColdStart())
    if learned.unseen is not None:
        cold = ~present(fitted.item_id_vectors)  # at the time of the fit; users may have been forgotten since
        source = mix(learned.unseen, shifted_to_unseen(learned, ~cold), cold_start.kernel_share)
        source[cold] = learned.items[cold]
    targets[position >= 0] = source[position[position >= 0]]
    profiles = None if fitted.description["variant"] == "base" else data.item_profile
    vectors = np.full_like(targets, np.nan)
    for read in (profiles,) if cold_start.reads_profiles or profiles is None else (None, profiles):
        missing = np.isnan(vectors).all(axis=1)
        if not missing.any():
            break
        sources: list[Any] = item_sources(data, read)
        found = predict_all(sources, (position >= 0).astype(np.int64), targets, linear=True)
        if found is not None:
            predicted = missing & ~rows_without_source(sources)
            vectors[predicted] = found[predicted]
    return vectors


def with_new_items(settings: Settings, backbone: Backbone, version: str) -> Backbone:
    """Return the fitted backbone extended by the items whose vectors were published after it was trained."""
    from reclm.features.fused import load_fused

    ids, vectors = load_fused(settings, "item", version)
    new = ~np.isin(ids, backbone.fitted.item_ids)
    width = backbone.fitted.vectors[SETTING].items.shape[1]
    if new.any() and vectors.shape[1] != width:
        raise ModelError(f"published vectors of {version} have {vectors.shape[1]} numbers, the model's {width}")
    return backbone.extended(ids[new], vectors[new]) if new.any() else backbone
