"""Offline recommendations from the champion: a ranked list for each user, beside the profile the feature store holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.promotion import champion
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def _titles(settings: Settings, item_ids: Sequence[str]) -> dict[str, str]:
    from reclm.warehouse.reading import connect

    connection = connect(settings)
    try:
        found = connection.execute(
            "select item_id, title from dim_items where item_id in (select unnest(?))", [list(item_ids)]
        ).fetchall()
    finally:
        connection.close()
    return {item_id: title or "" for item_id, title in found}


def recommend_to_users(
    settings: Settings,
    user_ids: Sequence[str],
    *,
    top_k: int = 10,
    sample: int = 0,
    exclude: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yields `{user_id, profile, model, items: [{item_id, title, score}]}` for each user, known items left out.

    `sample` users, evenly spread over the user table, take the place of ids when none are given. Raises ModelError for
    an id the champion was not fitted on and WorkspaceError when there is no champion.
    """
    from reclm.backbones import Backbone
    from reclm.features.online import read_user
    from reclm.features.store import open_store
    from reclm.promotion.new_items import with_new_items

    pointer = champion.current(settings)
    model = Backbone.load(artifacts.load(settings.paths, "backbone", pointer["version"]).path)
    model = with_new_items(settings, model, pointer["version"])
    if not user_ids:
        positions = np.linspace(0, len(model.fitted.user_ids) - 1, sample).astype(int)
        user_ids = [str(model.fitted.user_ids[position]) for position in np.unique(positions)]
    store = open_store(settings)
    ids, scores = model.recommend(user_ids, k=top_k, filter=list(exclude))
    titles = _titles(settings, sorted({str(item) for row in ids for item in row if item}))
    for user_id, items, values in zip(user_ids, ids, scores, strict=True):
        features = read_user(store, str(user_id))
        yield {
            "user_id": str(user_id),
            "model": f"{pointer['model']}/{pointer['variant']}",
            "version": pointer["version"],
            "profile": features.profile.text if features and features.profile else None,
            "items": [
                {"item_id": str(item), "title": titles.get(str(item), ""), "score": round(float(value), 5)}
                for item, value in zip(items, values, strict=True)
                if item
            ],
        }


def format_recommendations(result: dict[str, Any]) -> str:
    """The block a person reads."""
    lines = [f"{result['user_id']}  ({result['model']})", f"  {result['profile'] or 'no profile'}"]
    lines += [
        f"  {rank:>3}. {item['item_id']:<12} {item['title'][:70]}" for rank, item in enumerate(result["items"], start=1)
    ]
    return "\n".join(lines)
