"""Give the champion vectors of items that came after it was trained, so that they can be recommended without training.

In: the champion and the current texts, text embeddings and profile embeddings of all items. Out: vectors of the new
items, published under the champion's version, where serving finds them. The backbone predicts them
(`Backbone.vectors_of_new_items`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.dataset import SERVED
from reclm.errors import ModelError
from reclm.progress import detail
from reclm.promotion import champion
from reclm.storage import artifacts
from reclm.storage.files import read_json, write_json

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.settings.tree import Settings


def place_new_items(settings: Settings, version: str = "") -> dict[str, Any]:
    """Publish a vector for each item that has none of the champion, or of another served model `version`.

    Returns `{version, items, missing, added}`.

    `missing` counts items without text and profile, which get no vector. A second call adds nothing. Raises
    WorkspaceError without a champion or when the published features are not those of the build.
    """
    from reclm.backbones.loading import load_backbone
    from reclm.features.frame import load_training_data
    from reclm.features.fused import publish_items
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import snapshot_as_of

    status = candidate_status(settings, version)
    if not status["missing"]:
        detail(f"all {status['items']:,} items have a vector of {status['version']}")
        return status
    version = status["version"]
    candidates = _candidates(settings, version)
    features = features_version(settings)  # before reading: newer ones that appear meanwhile are tried again
    data = load_training_data(settings, "serve")
    missing = ~np.isin(data.item_ids, candidates)
    backbone = load_backbone(artifacts.load(settings.paths, "served", version).path)
    vectors = backbone.vectors_of_new_items(data)
    known = np.isfinite(vectors).all(axis=1)
    new = np.flatnonzero(missing & known)
    publish_items(settings, version, data.item_ids[new], vectors[new], snapshot_as_of(settings, "serve"))
    status |= {"items": len(candidates) + len(new), "added": len(new), "missing": int((missing & ~known).sum())}
    remember_tried(settings, version, features)
    detail(f"{len(new):,} new items are candidates of {version}; {status['missing']:,} have neither text nor profile")
    return status


def were_tried(settings: Settings, version: str) -> bool:
    """Return whether every item has been tried with the published features: what is missing then stays so."""
    from reclm.features.publish import features_version

    return bool(_tried(settings).get(version) == features_version(settings))


def remember_tried(settings: Settings, version: str, features: str) -> None:
    """Record that every item was tried with the published version `features`, for the served models alone."""
    from reclm.promotion.challenger import versions_in_use

    in_use = versions_in_use(settings)
    before = {one: tried for one, tried in _tried(settings).items() if one in in_use}
    write_json(_tried_path(settings), before | {version: features})


def _tried(settings: Settings) -> dict[str, str]:
    """Return {model version: the published features with which all its missing items were tried}."""
    return read_json(_tried_path(settings)) if _tried_path(settings).exists() else {}


def _tried_path(settings: Settings) -> Path:
    return settings.paths.feast / "tried.json"


def candidate_status(settings: Settings, version: str = "") -> dict[str, Any]:
    """Return `{version, items, missing, added: 0}`: how many items have a vector of the model, how many have none.

    The model is the champion, or another served one, `version`. Reads the warehouse and two files, so it is cheap
    enough for every few minutes. Raises WorkspaceError without a champion.
    """
    from reclm.training.tasks import load_ids

    version = version or champion.current(settings)["version"]
    candidates = _candidates(settings, version)
    missing = int((~np.isin(load_ids(settings)[1], candidates)).sum())
    return {"version": version, "items": len(candidates), "missing": missing, "added": 0}


def _candidates(settings: Settings, version: str) -> NDArray[np.str_]:
    """The ids of the items that a model was fitted on and of those that were published since."""
    from reclm.features.fused import load_fused

    fitted = pq.read_table(
        artifacts.load(settings.paths, "served", version).path / "items.parquet", columns=["item_id"]
    )
    return np.union1d(np.array(fitted["item_id"].to_pylist(), np.str_), load_fused(settings, "item", version)[0])


def with_new_items(settings: Settings, backbone: Backbone, version: str) -> Backbone:
    """Return the fitted backbone extended by the items whose vectors were published after it was trained."""
    from reclm.features.fused import load_fused

    ids, vectors = load_fused(settings, "item", version)
    new = ~np.isin(ids, backbone.fitted.item_ids)
    width = backbone.fitted.vectors[SERVED].items.shape[1]
    if new.any() and vectors.shape[1] != width:
        raise ModelError(f"published vectors of {version} have {vectors.shape[1]} numbers, the model's {width}")
    return backbone.extended(ids[new], vectors[new]) if new.any() else backbone
