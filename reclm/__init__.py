"""reclm: recommendations from profiles that a language model writes of users and items, cold items included.

    import reclm

    model = reclm.load_champion("workspace-demo")
    item_ids, scores = model.recommend(["u00017"], k=10)

A workspace comes in, its champion model goes out. The method is RecLM (arXiv 2412.19302).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reclm.storage.version import VERSION as __version__

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone

__all__ = ["__version__", "load_champion"]


def load_champion(workspace: str | Path | None = None) -> Backbone:
    """Load the champion of a workspace, ready to recommend.

    The model knows the users and items it was trained on and the items that were added to its candidates since. Its
    `recommend(user_ids, k)` and `similar_items(item_ids, k)` return two arrays of shape (n, k): ids and scores, best
    first. `workspace` is the folder of one data set; without it `RECLM_WORKSPACE` counts, then `./workspace`.

    Raises WorkspaceError when the workspace has no champion, and ArtifactError when its files cannot be read.
    """
    from reclm.serving.offline import load_champion as load_from_settings
    from reclm.settings.loading import load

    settings = load(workspace=None if workspace is None else Path(workspace))
    settings.paths.require_current_layout()
    return load_from_settings(settings)
