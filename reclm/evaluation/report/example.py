"""Choose one real user for the report and show what profiles change for them.

In: the published warehouse and the two trained variants of one model. Out: a dictionary for the template with the
user's history, profile, and recommendations without and with profiles; None where the workspace does not have all of
it. The user is the one with the median number of known interactions among users with a profile and test interactions;
ties go to the lowest id, so the same workspace always shows the same user.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from reclm.backbones.ranking import NO_ITEM, BackboneScorer, rank
from reclm.errors import ModelError
from reclm.evaluation.evaluate import FinalSnapshot, require_same_ids
from reclm.storage import artifacts
from reclm.warehouse.reading import connect

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

SHOWN_HISTORY = 10
SHOWN_ITEMS = 10
TITLES = {"base": "Without profiles", "augment": "With profiles"}
MEDIAN_USER = """
    with known as (
        select user_id, count(*) as n_interactions from fct_known_interactions where snapshot = 'final' group by user_id
    ),

    eligible as (
        select known.user_id, known.n_interactions, profiles.profile
        from known
        inner join dim_user_profiles as current using (user_id)
        inner join fct_user_profiles as profiles
            on profiles.user_id = current.user_id
            and profiles.version = current.version
            and profiles.snapshot = 'final'
        where
            profiles.parse_status = 'ok'
            and known.user_id in (
                select user_id from fct_truth where snapshot = 'final' and setting = 'full_shot'
            )
    )

    select user_id, profile, n_interactions
    from eligible
    order by abs(n_interactions - (select median(n_interactions) from eligible)), user_id
    limit 1
"""
NEWEST_HISTORY = """
    select known.item_id, dim_items.title
    from fct_known_interactions as known
    inner join dim_items using (item_id)
    where known.snapshot = 'final' and known.user_id = ?
    order by known.event_ts desc nulls last, dim_items.item_index
    limit ?
"""

Row = dict[str, Any]


def example_user(settings: Settings, evaluation: Artifact | None, model: str, seed: int) -> Row | None:
    """Return one user's history, profile, and the lists of `model` without and with profiles.

    A dictionary with the single key `unavailable` says why the lists cannot be computed from the trained models.
    """
    variants = _trained_variants(settings, evaluation, model, seed)
    if variants is None:
        return None
    with connect(settings) as connection:
        if not _has_tables(connection):
            return None
        found = connection.execute(MEDIAN_USER).fetchall()
        if not found:
            return None
        user_id, profile, n_interactions = found[0]
        history = connection.execute(NEWEST_HISTORY, [user_id, SHOWN_HISTORY]).fetchall()
        titles = dict(connection.execute("select item_id, coalesce(title, '') from dim_items").fetchall())
    try:
        lists = _lists(settings, variants, str(user_id), titles)
    except ModelError as error:
        return {"unavailable": str(error)}
    shared = len(set.intersection(*({item["item_id"] for item in shown["items"]} for shown in lists)))
    return {
        "user_id": user_id,
        "n_interactions": n_interactions,
        "history": [{"item_id": item_id, "title": title or ""} for item_id, title in history],
        "profile": profile,
        "model": model,
        "lists": lists,
        "shared": shared,
    }


def _trained_variants(
    settings: Settings, evaluation: Artifact | None, model: str, seed: int
) -> dict[str, Artifact] | None:
    parents = evaluation.manifest["parents"] if evaluation else {}
    found = {}
    for variant in TITLES:
        version = parents.get(f"backbone/{model}-{variant}-{seed}")
        artifact = artifacts.find(settings.paths, "backbone", version) if version else None
        if artifact is None:
            return None
        found[variant] = artifact
    return found


def _has_tables(connection: DuckDBPyConnection) -> bool:
    rows = connection.execute(
        "select table_name, column_name from information_schema.columns where table_schema = 'main'"
    ).fetchall()
    return {("fct_user_profiles", "parse_status"), ("dim_items", "title")} <= set(rows)


def _lists(settings: Settings, variants: dict[str, Artifact], user_id: str, titles: dict[str, str]) -> list[Row]:
    """The recommendations of each variant; `hit` marks items that the user chose in the test slice."""
    from reclm.backbones.loading import load_backbone

    final = FinalSnapshot(settings, list(variants.values()))
    task = next(task for task in final.tasks if task.setting == "full_shot")
    users, items = final.ids
    user = int(np.flatnonzero(users == user_id)[0])
    only_user = sparse.csr_matrix((np.ones(1), ([user], [user])), shape=(len(users), len(users)))
    task = replace(task, truth=sparse.csr_matrix(only_user @ task.truth))
    chosen = set(task.truth.indices.tolist())
    lists = []
    for variant, artifact in variants.items():
        backbone = load_backbone(artifact.path)
        fitted = backbone.fitted
        require_same_ids(
            f"model {artifact.version}", fitted.user_ids, fitted.item_ids, users, items[: len(fitted.item_ids)]
        )
        ranked = rank(BackboneScorer(backbone, task.setting, len(items)), task, SHOWN_ITEMS)[0].tolist()
        shown = [
            {"item_id": str(items[item]), "title": titles.get(str(items[item]), ""), "hit": item in chosen}
            for item in ranked
            if item != NO_ITEM
        ]
        lists.append({"title": TITLES[variant], "items": shown, "hits": sum(bool(item["hit"]) for item in shown)})
    return lists
