"""Decide which batches `dataset.json` lists once a call has landed some, and what it says of the earlier ones.

In: the entries listed before and the fresh ones. Out: which of the earlier ones stay, and marks on them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

Entry = dict[str, Any]


def is_current(entry: Entry, wanted: Container[str], fresh: Sequence[Entry], new_demo: bool) -> bool:
    """Return False for a batch replaced by the same content under another mapping, and for an earlier demo shop."""
    if entry["batch"] in wanted:
        return True
    replaced = {(new["table"], new["content"]) for new in fresh}
    return (entry.get("collected") or not new_demo) and (entry["table"], entry["content"]) not in replaced


def mark_older_logs(before: Sequence[Entry], kept: Sequence[Entry], fresh: Sequence[Entry]) -> None:
    """Mark the logs that were there before the first item table: their items stay known where it lacks them.

    A log that is landed again, under another mapping, keeps its mark.
    """
    if any(entry["table"] == "items" for entry in before):
        marked = {entry["content"] for entry in before if entry.get("before_items")}
        older = [entry for entry in fresh if entry["content"] in marked]
    else:
        older = list(kept) if any(entry["table"] == "items" for entry in fresh) else []
    for entry in older:
        if entry["table"] == "interactions":
            entry["before_items"] = True
