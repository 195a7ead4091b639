"""Decide which batches `dataset.json` lists once a call has landed some, and what it says of the earlier ones.

In: the entries listed before and the fresh ones. Out: which of the earlier ones stay, and marks on them. A log that
comes again under its name, corrected or grown, takes the place of what it delivered before; of a window of time that
moves on, each delivery stays. Item and user tables need no such rule: of several rows about one item the warehouse
takes the last to land.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from reclm.progress import say

Entry = dict[str, Any]
ROW = ("user_id", "item_id", "event_ts", "event_type")
"""Columns by which a row of a log is the same in two deliveries."""
SAME_ROWS = 0.5
"""The least share of a former delivery's rows that stand in a file of the same name which is a correction of it."""
SAME_FILE = ("table", "content", "partition")
"""Keys of an entry by which two batches are of the same file: parts of a log may have the same bytes."""


def is_current(entry: Entry, wanted: Container[str], fresh: Sequence[Entry], new_demo: bool) -> bool:
    """Return False for a batch replaced by the same content under another mapping, and for an earlier demo shop."""
    if entry["batch"] in wanted:
        return True
    is_replaced = any(all(new.get(key) == entry.get(key) for key in SAME_FILE) for new in fresh)
    return bool(entry.get("collected") or not new_demo) and not is_replaced


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


def without_superseded(
    kept: Sequence[Entry],
    wanted: Container[str],
    fresh: Sequence[Entry],
    file_of: Callable[[Entry], Path],
    count: Callable[[str], tuple[int, ...]],
) -> list[Entry]:
    """Return `kept` without former deliveries of the fresh logs, which are named alike and hold most of their rows.

    A file of the same name with other rows is a further delivery: both stay. `file_of` gives the file of a batch,
    `count` runs a query that returns numbers. Says what is replaced and what is not.
    """
    replaced: set[str] = set()
    for new in fresh:
        former = [
            entry
            for entry in kept
            if (entry["table"], entry["source_file"]) == ("interactions", new["source_file"])
            and new["table"] == "interactions"
            and entry["batch"] not in wanted
            and not (entry.get("collected") or new.get("collected"))
        ]
        for entry in former:
            rows, same, earlier, later = count(_same_rows(file_of(entry), file_of(new)))
            about = f"{new['source_file']} landed before with other content: {same:,} of its {rows:,} rows are the same"
            if same < SAME_ROWS * rows:
                say(f"{about}, so both deliveries count")
                continue
            if later and 0 < rows - same == earlier:
                say(f"{about}, the others are earlier than all of the new ones, so both deliveries count")
                continue
            say(f"{about}; its {new['rows']:,} rows replace them")
            replaced.add(entry["batch"])
            if entry.get("before_items"):
                new["before_items"] = True
    return [entry for entry in kept if entry["batch"] not in replaced]


def _same_rows(former: Path, latest: Path) -> str:
    """Return SQL of four numbers: the rows of `former`; those that `latest` has too; those that it lacks and whose
    time, as text, is below all of its own; and the rows of `latest` that are later than all of `former`. An export of
    the last month has lost the first days of the former one, and gained some."""
    old, new = (f"read_parquet('{str(path).replace(chr(39), chr(39) * 2)}')" for path in (former, latest))
    same = " and ".join(f"latest.{column} is not distinct from former.{column}" for column in ROW)
    return (
        f"select (select count(*) from {old}), "
        f"(select count(*) from {old} as former semi join {new} as latest on {same}), "
        f"(select count(*) from {old} as former anti join {new} as latest on {same} "
        f"where former.event_ts < (select min(event_ts) from {new})), "
        f"(select count(*) from {new} where event_ts > (select max(event_ts) from {old}))"
    )
