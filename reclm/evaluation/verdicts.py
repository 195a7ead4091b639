"""Judge paired comparisons: which of two models is better, and whether profiles help.

In: rows of an evaluation's `comparisons.parquet`. Out: a word. A difference counts only where both of its 95 %
bootstrap intervals, over users and over items (`reclm.evaluation.intervals`), leave out zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Row = Mapping[str, Any]


def verdict(row: Row) -> Literal["better", "worse", "open"]:
    """Judge one comparison of a model with another one; `open` also where an interval is missing."""
    bounds = [row[name] for name in ("lo_users", "hi_users", "lo_items", "hi_items")]
    if any(bound is None for bound in bounds):
        return "open"
    if bounds[0] > 0 and bounds[2] > 0:
        return "better"
    return "worse" if bounds[1] < 0 and bounds[3] < 0 else "open"


def profiles_verdict(rows: Mapping[str, Row]) -> Literal["yes", "worse", "not content", "unclear"]:
    """Judge the comparisons of a model with profiles to its `base` and, where there is one, its `shuffled` variant.

    `not content`: better than base, but not than with shuffled profiles, so what profiles say is not shown to matter.
    """
    against_base = verdict(rows["base"])
    if against_base != "better":
        return "worse" if against_base == "worse" else "unclear"
    return "yes" if "shuffled" not in rows or verdict(rows["shuffled"]) == "better" else "not content"
