"""Replay logged lists with a trained model that never showed any: what would people have clicked?

In: a fitted model and the impressions that the service logged with their propensities (`fct_impressions`). Out: its
click rate by `off_policy.py`, beside that of the lists that were shown. A list counts when it was shown after the
model's as-of, because a model that has learned what people clicked would foretell the past, and when the model knows
its user. What a user was known to have when a list was shown is left out of the model's list, as it was of that one.
"""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import top_k
from reclm.dataset import SERVED
from reclm.errors import ArtifactError, WorkspaceError
from reclm.storage import artifacts
from reclm.trials.off_policy import ClickRate, LoggedLists, click_rate_of_shown, estimate_click_rate

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

BATCH = 1024


class Replayed(NamedTuple):
    """The click rate that a model would have had, and that of the lists that were shown instead.

    `n_lists` lists of `places` places, of `n_users` users, shown from `since` on.
    """

    model: str
    estimate: ClickRate
    shown: ClickRate
    n_lists: int
    places: int
    n_users: int
    since: datetime


class ImpressionLog(NamedTuple):
    """Logged lists of one length: `users` (n_lists,) and `items` (n_lists, k) are positions in a model, -1 where it
    does not know the item; `known` are (list, item) pairs (2, n) of what the list's user had when it was shown.
    """

    lists: LoggedLists
    items: NDArray[np.int64]
    known: NDArray[np.int64]


def replay(settings: Settings, version: str) -> Replayed:
    """Estimate the click rate of the trained model `version` (kind `backbone` or `served`).

    Raises ArtifactError when no such model exists, WorkspaceError when no list was logged with propensities after its
    as-of, and ModelError where the log cannot tell (`off_policy.estimate_click_rate`).
    """
    from reclm.backbones.loading import load_backbone

    model = _model(settings, version)
    backbone, since = load_backbone(model.path), datetime.fromisoformat(model.metrics["as_of"])
    log = read_log(settings, backbone, since)
    places = target_places(backbone, log)
    parameters = model.manifest["parameters"]
    return Replayed(
        f"{parameters['model']}/{parameters['variant']}",
        estimate_click_rate(log.lists, places),
        click_rate_of_shown(log.lists),
        log.items.shape[0],
        log.items.shape[1],
        len(np.unique(log.lists.users)),
        since,
    )


def target_places(backbone: Backbone, log: ImpressionLog) -> NDArray[np.int64]:
    """Return the place, from 0, of each logged item in the list that the model would show, or -1: (n_lists, k)."""
    k = log.items.shape[1]
    places = np.full(log.items.shape, -1, dtype=np.int64)
    order = np.argsort(log.known[0], kind="stable")
    row, item = log.known[:, order]
    for start in range(0, len(log.items), BATCH):
        shown = log.items[start : start + BATCH]
        scores = np.require(backbone.score(log.lists.users[start : start + BATCH], SERVED), np.float32, ["C", "W"])
        first, last = np.searchsorted(row, [start, start + len(shown)])
        scores[row[first:last] - start, item[first:last]] = -np.inf
        same = (shown[:, :, None] == top_k(scores, k)[:, None, :]) & (shown[:, :, None] >= 0)
        places[start : start + BATCH] = np.where(same.any(axis=2), same.argmax(axis=2), -1)
    return places


def read_log(settings: Settings, backbone: Backbone, since: datetime) -> ImpressionLog:
    """Read the lists with propensities that were shown from `since` on, of the length that most of them have."""
    from reclm.warehouse.reading import connect

    fitted = backbone.fitted
    with closing(connect(settings)) as connection:
        shown = connection.execute(
            "with lists as (select request_id, count(*) as places, min(shown_at) as shown_at from fct_impressions "
            "group by request_id having count(propensity) = count(*) and count(user_id) = count(*) "
            "and min(shown_at) >= ?) "
            "select impressions.request_id, user_id, item_id, propensity, was_clicked, places "
            "from fct_impressions as impressions inner join lists using (request_id) "
            "where places = (select mode(places) from lists) order by request_id, position",
            [since],
        ).fetchnumpy()
        known = connection.execute(
            "select distinct impressions.request_id, known.item_id from fct_impressions as impressions "
            "inner join fct_known_interactions as known using (user_id) "
            "where known.snapshot = 'serve' and known.event_ts < impressions.shown_at and impressions.shown_at >= ?",
            [since],
        ).fetchnumpy()
    if not len(shown["places"]):
        raise WorkspaceError(
            f"no list with propensities was logged after {since:%Y-%m-%d %H:%M} UTC, the as-of of the model; "
            "serve with serve.exploration above 0, then `reclm ingest --events` and `reclm build`"
        )
    k = int(shown["places"][0])
    users, requests = (np.asarray(shown[name][::k]).astype(str) for name in ("user_id", "request_id"))
    user = np.array([fitted.user_position.get(one, -1) for one in users.tolist()], dtype=np.int64)
    kept = user >= 0
    if not kept.any():
        raise WorkspaceError(f"the model knows none of the {len(users):,} users whose lists were logged")
    item = np.array([fitted.item_position.get(str(one), -1) for one in shown["item_id"]], dtype=np.int64)
    lists = LoggedLists(
        user[kept],
        np.asarray(shown["propensity"], dtype=np.float64).reshape(-1, k)[kept],
        np.asarray(shown["was_clicked"], dtype=bool).reshape(-1, k)[kept],
    )
    row_of = {request: row for row, request in enumerate(requests[kept].tolist())}
    pairs = [
        (row_of[str(request)], fitted.item_position[str(one)])
        for request, one in zip(known["request_id"], known["item_id"], strict=True)
        if str(request) in row_of and str(one) in fitted.item_position
    ]
    return ImpressionLog(lists, item.reshape(-1, k)[kept], np.array(pairs, dtype=np.int64).reshape(-1, 2).T)


def _model(settings: Settings, version: str) -> Artifact:
    for kind in ("backbone", "served"):
        found = artifacts.find(settings.paths, kind, version)
        if found is not None:
            return found
    raise ArtifactError(f"no trained model has version {version}; `reclm train` lists what it made")
