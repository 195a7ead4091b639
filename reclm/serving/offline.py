"""Recommend in batches, without a running service.

In: user ids. Out: a ranked list of items for each user. The champion scores all its candidates. Each list carries the
user's profile as the online feature store has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.promotion import champion
from reclm.serving.availability import hidden_items
from reclm.serving.user_items import load_dislikes, load_newer
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.settings.tree import Settings


def load_champion(settings: Settings) -> Backbone:
    """Load the champion of a workspace, with the items that were added to its candidates since it was trained.

    Raises WorkspaceError when no model has been promoted, ArtifactError when its files cannot be read.
    """
    from reclm.backbones.loading import load_backbone
    from reclm.promotion.new_items import with_new_items

    version = champion.current(settings)["version"]
    trained = load_backbone(artifacts.load(settings.paths, "served", version).path)
    return with_new_items(settings, trained, version)


def recommend_to_users(
    settings: Settings,
    user_ids: Sequence[str],
    *,
    top_k: int = 10,
    sample: int = 0,
    exclude: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Recommend items to each user, leaving out what the user took or disliked, and hidden items.

    Yields `{user_id, model, version, profile, items: [{item_id, title, score}]}` per user. Without `user_ids`, `sample`
    users are taken, evenly spread over the user table. Raises ModelError for a user that the champion was not trained
    on, and WorkspaceError when there is no champion.
    """
    from reclm.features.online import read_user
    from reclm.features.store import open_store

    pointer = champion.current(settings)
    model = load_champion(settings)
    if not user_ids:
        positions = np.linspace(0, len(model.fitted.user_ids) - 1, sample).astype(int)
        user_ids = [str(model.fitted.user_ids[position]) for position in np.unique(positions)]
    store = open_store(settings)
    unwanted = load_dislikes(settings, model.fitted.item_ids), load_newer(settings, pointer["version"], model.fitted)
    left_out = [*exclude, *(item for item in hidden_items(settings.paths) if item in model.fitted.item_position)]
    longest = max((sum(len(items.of(user_id)) for items in unwanted) for user_id in user_ids), default=0)
    ids, scores = model.recommend(user_ids, k=top_k + longest, filter=left_out)
    titles = _titles(settings, sorted({str(item) for row in ids for item in row if item}))
    for user_id, items, values in zip(user_ids, ids, scores, strict=True):
        features = read_user(store, str(user_id))
        left_out_here = {item for part in unwanted for item in model.fitted.item_ids[part.of(str(user_id))]}
        kept = [pair for pair in zip(items, values, strict=True) if pair[0] and pair[0] not in left_out_here]
        yield {
            "user_id": str(user_id),
            "model": f"{pointer['model']}/{pointer['variant']}",
            "version": pointer["version"],
            "profile": features.profile.text if features and features.profile else None,
            "items": [
                {"item_id": str(item), "title": titles.get(str(item), ""), "score": round(float(value), 5)}
                for item, value in kept[:top_k]
            ],
        }


def format_recommendations(result: dict[str, Any]) -> str:
    """Format one result of `recommend_to_users` as lines of text."""
    lines = [f"{result['user_id']}  ({result['model']})", f"  {result['profile'] or 'no profile'}"]
    lines += [
        f"  {rank:>3}. {item['item_id']:<12} {item['title'][:70]}" for rank, item in enumerate(result["items"], start=1)
    ]
    return "\n".join(lines)


def _titles(settings: Settings, item_ids: Sequence[str]) -> dict[str, str]:
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        found = connection.execute(
            "select item_id, title from dim_items where item_id in (select unnest(?))", [list(item_ids)]
        ).fetchall()
    return {item_id: title or "" for item_id, title in found}
