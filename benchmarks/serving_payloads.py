"""Bodies of requests for `serving.py`: recommendations of four mixes of users, and events."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

NEWCOMERS = 5000  # users with a profile that the model was not fitted on


def bodies(mix: str, users: int, items: int, n: int = 2000) -> list[bytes]:
    """Make the request bodies of one mix, as JSON."""
    draw = random.Random(mix)

    def history(k: int) -> list[str]:
        return [f"i{draw.randrange(items)}" for _ in range(k)]

    makers = {
        "warm": lambda: {"user_id": f"u{draw.randrange(users)}", "k": 10},
        "rules": lambda: {"user_id": f"u{draw.randrange(users)}", "k": 10, "diversity": 0.3, "max_per_category": 3},
        "sparse": lambda: {"user_id": f"new{draw.randrange(NEWCOMERS)}", "history": history(2), "k": 10},
        "cold": lambda: {"history": history(3), "k": 10},
    }
    return [json.dumps(makers[mix]()).encode() for _ in range(n)]


def event_bodies(n: int) -> list[bytes]:
    """Return bodies of `/v1/events`: one event each, of users and items that repeat."""
    now = datetime.now(UTC).isoformat()
    return [
        json.dumps(
            {
                "events": [
                    {
                        "event_id": f"{now} {number}",
                        "type": "click",
                        "user_id": f"u{number % 997}",
                        "item_id": f"i{number % 991}",
                        "event_ts": now,
                    }
                ]
            }
        ).encode()
        for number in range(n)
    ]
