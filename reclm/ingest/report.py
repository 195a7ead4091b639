"""Say what was landed.

In: entries of `dataset.json`. Out: lines for the person who ingests.
"""

from __future__ import annotations

from typing import Any

from reclm.progress import detail, say


def report(name: str, entries: list[dict[str, Any]], n_unchanged: int) -> None:
    """Print a line a file: always when something needs attention, else as a detail."""
    for entry in entries:
        notes = [f"{entry['rows']:,} {entry['table']}"]
        if entry["unreadable"]:
            notes.append(f"{entry['unreadable']:,} unreadable lines, landed empty for the quarantine")
        if entry.get("below_min_weight"):
            notes.append(f"{entry['below_min_weight']:,} rows below data.min_weight: not likes")
        tell = say if len(notes) > 1 else detail
        tell(f"{entry['source_file']}: {'; '.join(notes)}")
    if not entries:
        detail(f"{name}: nothing new beside {n_unchanged} batches that landed before")
