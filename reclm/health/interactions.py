"""Check the interactions: volume, category mix, new items and neighbourhoods.

In: the interactions known at snapshot `serve`. Out: one result per check. The newest days before the cut-off are
compared with all the time before them. Only known interactions count, so a check sees nothing of the test slice; rows
of a new log count as soon as they lie before the cut-off. The category mix is compared by the Jensen-Shannon distance
(Lin 1991).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reclm.health.check_result import CheckResult

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.operations import HealthSettings
    from reclm.settings.tree import Settings

DAY = 86_400_000_000
"""Microseconds in a day."""
MIN_INTERACTIONS = 30
"""The fewest interactions in the window from which a share is computed."""
KNOWN = (
    "select item_id, epoch_us(event_ts) as at_us from fct_known_interactions "
    "where snapshot = 'serve' and event_ts is not null"
)


@dataclass(frozen=True)
class Window:
    """The newest days of the log. Moments are in microseconds; `within` and `before` count interactions."""

    earliest: int
    begins: int
    ends: int
    within: int
    before: int


def measure(connection: DuckDBPyConnection, settings: Settings) -> list[CheckResult]:
    """Run the checks `volume`, `category_mix`, `new_item_share` and `neighbour_sparsity`."""
    health = settings.health
    window, unknown = _window(connection, health.window_days)
    checks: tuple[Callable[..., CheckResult], ...] = (_volume, _category_mix, _new_items)
    return [*(check(connection, health, window, unknown) for check in checks), _neighbours(connection, health)]


def _window(connection: DuckDBPyConnection, days: int) -> tuple[Window | None, str]:
    """The window and '', or None and the reason why there is no window."""
    (found,) = connection.execute(
        "select min(epoch_us(k.event_ts)), max(epoch_us(k.event_ts)), any_value(epoch_us(s.as_of)), "
        "any_value(s.ts_is_synthetic) from int_snapshots as s left join fct_known_interactions as k "
        "on k.snapshot = s.snapshot where s.snapshot = 'serve'"
    ).fetchall()
    earliest, latest, as_of, is_synthetic = found
    if earliest is None:
        return None, "The log has no times, so old and new cannot be compared; bring a column of event times."
    ends = latest + 1 if is_synthetic else as_of  # with assigned splits, as_of is a made-up date
    begins = ends - days * DAY
    if begins - earliest < DAY:
        return None, (
            f"The log is not a day longer than the {days} days of health.window_days; "
            "bring a longer log or lower health.window_days."
        )
    ((within, before),) = connection.execute(
        f"select count(*) filter (at_us >= ?), count(*) filter (at_us < ?) from ({KNOWN})", [begins, begins]
    ).fetchall()
    return Window(earliest, begins, ends, within, before), ""


def _volume(_: DuckDBPyConnection, health: HealthSettings, window: Window | None, unknown: str) -> CheckResult:
    value = None
    if window:
        daily_before = window.before / ((window.begins - window.earliest) / DAY)
        value = window.within / ((window.ends - window.begins) / DAY) / daily_before
    return CheckResult(
        "volume",
        "interactions",
        value,
        health.min_volume,
        health.max_volume,
        "Check whether a delivery of the log is missing, doubled or cut short, and repeat it with `reclm ingest`.",
        unknown,
    )


def _category_mix(
    connection: DuckDBPyConnection, health: HealthSettings, window: Window | None, unknown: str
) -> CheckResult:
    value = None
    if window:
        counts = _category_counts(connection, window)
        value, unknown = _category_distance(counts, window, health.max_category_shift)
    return CheckResult(
        "category_mix",
        "categories",
        value,
        None,
        health.max_category_shift,
        "Users choose other categories than before: tune and train again on the newer log.",
        unknown,
    )


def _category_counts(connection: DuckDBPyConnection, window: Window) -> NDArray[np.float64]:
    """(n_categories, 2): interactions in the window and before it; an item of n categories counts 1/n for each."""
    rows = connection.execute(
        f"select sum(part) filter (at_us >= $1), sum(part) filter (at_us < $1) from ("
        "select at_us, unnest(categories) as category, 1 / len(categories) as part "
        f"from ({KNOWN}) inner join dim_items using (item_id)) group by category",
        [window.begins],
    ).fetchall()
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _category_distance(counts: NDArray[np.float64], window: Window, bound: float) -> tuple[float | None, str]:
    """The distance of the two mixes and '', or None and why; None where chance alone would give half the bound."""
    counts = np.nan_to_num(counts)
    totals = counts.sum(axis=0)
    if not totals.all():
        return None, "No item in or before the window has a category; bring an item table with categories."
    # Two samples of one mix differ too, by the first term of the entropies' bias (Miller 1955) at equal weights.
    chance = np.sqrt((len(counts) - 1) / (8 * np.log(2)) * (1 / window.within + 1 / window.before))
    if chance > bound / 2:
        return None, (
            f"{window.within} interactions over {len(counts)} categories are too few to tell drift from chance; "
            "raise health.window_days."
        )
    return jensen_shannon(*(counts / totals).T), ""


def jensen_shannon(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon distance (base 2) of two distributions: 0 when equal, 1 when they share nothing."""
    middle = (first + second) / 2

    def divergence(part: NDArray[np.float64]) -> float:
        some = part > 0
        return float((part[some] * np.log2(part[some] / middle[some])).sum())

    return float(np.sqrt(max(0.0, (divergence(first) + divergence(second)) / 2)))


def _new_items(
    connection: DuckDBPyConnection, health: HealthSettings, window: Window | None, unknown: str
) -> CheckResult:
    value = None
    if window and window.within < MIN_INTERACTIONS:
        unknown = f"{window.within} interactions in the window are too few; raise health.window_days."
    elif window:
        ((value,),) = connection.execute(
            f"select avg((first_us >= $1)::int) from (select at_us, min(at_us) over (partition by item_id) as first_us "
            f"from ({KNOWN})) where at_us >= $1",
            [window.begins],
        ).fetchall()
    return CheckResult(
        "new_item_share",
        "interactions",
        value,
        None,
        health.max_new_items,
        "Many interactions are with new items: write profiles of new items, then tune and train again.",
        unknown,
    )


def _neighbours(connection: DuckDBPyConnection, health: HealthSettings) -> CheckResult:
    ((value,),) = connection.execute(
        "select avg((user_id in (select user_id from fct_user_neighbours where snapshot = 'serve'))::int) "
        "from fct_user_status where snapshot = 'serve' and n_interactions > 0"
    ).fetchall()
    return CheckResult(
        "neighbour_sparsity",
        "users",
        value,
        health.min_neighbours,
        None,
        "Few users share an item with another user, so profiles rest on texts alone; bring a longer log.",
        "No user has a known interaction; bring a longer log.",
    )
