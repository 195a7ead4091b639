"""Push what users did lately to the online store, by Feast's own push.

In: new events of users. Out: rows of the view `user_recent`, the latest events of each user, which the service reads
with the user's other features. Several processes may push: each reads a row, adds its events and writes it under one
lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from reclm.features.online import EPOCH, RecentEvent, read_recent
from reclm.features.store import Store
from reclm.storage.erasures import erased_users
from reclm.storage.locks import alone

PUSH_SOURCE = "user_recent_push"
KEPT_EVENTS = 50
"""Events kept of each user, the latest ones."""
LOCK_SECONDS = 30.0
"""Longest wait for another process's push, which takes milliseconds; the service tries again later."""


def push_recent(store: Store, events: Mapping[str, Sequence[RecentEvent]]) -> None:
    """Add events to those of their users, `{user_id: events}`, but erased ones. Adding one again changes nothing."""
    import pandas as pd
    from feast.data_source import PushMode

    workspace = store.settings.paths
    busy = "another process writes what users did lately"
    with alone(workspace.locks / "recent.lock", busy, LOCK_SECONDS), erased_users(workspace) as erased:
        user_ids = [user_id for user_id in events if user_id not in erased]
        if not user_ids:
            return
        rows = [
            merged(stored, events[user_id])
            for user_id, stored in zip(user_ids, read_recent(store, user_ids), strict=True)
        ]
        now = pd.Series([datetime.now(UTC)] * len(rows), dtype="datetime64[us, UTC]")
        frame = pd.DataFrame(
            {
                "user_id": user_ids,
                "item_ids": [[event.item_id for event in row] for row in rows],
                "event_types": [[event.event_type for event in row] for row in rows],
                "weights": [[event.weight for event in row] for row in rows],
                "moments_us": [[event.moment_us for event in row] for row in rows],
                "as_of_us": [row[-1].moment_us for row in rows],
                "row_hash": "",
                "as_of": now,
                "created_at": now,
            }
        )
        # No feature service of ours is precomputed; looking for one would read the registry's file at every push.
        store.feast._precompute_for_push = lambda *_: None  # type: ignore[method-assign]
        store.feast.push(PUSH_SOURCE, frame, to=PushMode.ONLINE)


def merged(stored: Sequence[RecentEvent], new: Sequence[RecentEvent]) -> list[RecentEvent]:
    """Return both without repetitions, in the order of their times, the latest KEPT_EVENTS of them."""
    ordered = sorted({*stored, *new}, key=lambda event: (event.moment_us, event.item_id, event.event_type))
    return ordered[-KEPT_EVENTS:]


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970 UTC, exactly."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
