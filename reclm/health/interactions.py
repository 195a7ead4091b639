"""What people do: the interactions known at snapshot `final` come in, checks of volume, drift and neighbourhoods go out.

The newest days before the cut-off are held against all the time before them. Only known interactions count, so nothing
of the test slice or of zero-shot items is told; what a new log brings shows once it lies before the cut-off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reclm.health.measured import Measured

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.operations import HealthSettings
    from reclm.settings.tree import Settings

DAY = 86_400_000_000
"""Microseconds."""
LEAST = 30
"""Interactions of the window under which a share of them says nothing."""
KNOWN = (
    "select item_id, epoch_us(event_ts) as at_us from fct_known_interactions "
    "where snapshot = 'final' and event_ts is not null"
)


@dataclass(frozen=True)
class Window:
    """The moments (microseconds) that the window begins and ends, when the log began, and interactions on either side."""

    earliest: int
    begins: int
    ends: int
    within: int
    before: int


def measure(connection: DuckDBPyConnection, settings: Settings) -> list[Measured]:
    """Rows of `volume`, `category_mix`, `new_item_share` and `neighbour_sparsity`."""
    health = settings.health
    window, unknown = _window(connection, health.window_days)
    checks: tuple[Callable[..., Measured], ...] = (_volume, _category_mix, _new_items)
    return [*(check(connection, health, window, unknown) for check in checks), _neighbours(connection, health)]


def _window(connection: DuckDBPyConnection, days: int) -> tuple[Window | None, str]:
    """The window, or None and why there is none."""
    (found,) = connection.execute(
        "select min(epoch_us(k.event_ts)), max(epoch_us(k.event_ts)), any_value(epoch_us(s.as_of)), "
        "any_value(s.ts_is_synthetic) from int_snapshots as s left join fct_known_interactions as k "
        "on k.snapshot = s.snapshot where s.snapshot = 'final'"
    ).fetchall()
    earliest, latest, as_of, is_synthetic = found
    if earliest is None:
        return None, "The log has no clock, so old and new cannot be told apart; bring a column of times."
    ends = latest + 1 if is_synthetic else as_of  # an assigned split has a made-up date in place of a cut-off
    begins = ends - days * DAY
    if begins - earliest < DAY:
        return None, f"The log is not a day longer than the {days} days of health.window_days; bring more, or lower it."
    ((within, before),) = connection.execute(
        f"select count(*) filter (at_us >= ?), count(*) filter (at_us < ?) from ({KNOWN})", [begins, begins]
    ).fetchall()
    return Window(earliest, begins, ends, within, before), ""


def _volume(_: DuckDBPyConnection, health: HealthSettings, window: Window | None, unknown: str) -> Measured:
    value = None
    if window:
        a_day_before = window.before / ((window.begins - window.earliest) / DAY)
        value = window.within / ((window.ends - window.begins) / DAY) / a_day_before
    return Measured(
        "volume",
        "interactions",
        value,
        health.min_volume,
        health.max_volume,
        "Look whether a delivery of the log is missing, doubled or cut short; `reclm ingest` takes it again.",
        unknown,
    )


def _category_mix(connection: DuckDBPyConnection, health: HealthSettings, window: Window | None, why: str) -> Measured:
    value = None
    if window:
        masses = _masses(connection, window)
        value, why = _distance(masses, window, health.max_category_shift)
    return Measured(
        "category_mix",
        "categories",
        value,
        None,
        health.max_category_shift,
        "People pick other categories than before: tune and train again on the newer log.",
        why,
    )


def _masses(connection: DuckDBPyConnection, window: Window) -> NDArray[np.float64]:
    """(n_categories, 2), interactions in the window and before it; one with an item of several is shared among them."""
    rows = connection.execute(
        f"select sum(part) filter (at_us >= $1), sum(part) filter (at_us < $1) from ("
        "select at_us, unnest(categories) as category, 1 / len(categories) as part "
        f"from ({KNOWN}) inner join dim_items using (item_id)) group by category",
        [window.begins],
    ).fetchall()
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _distance(masses: NDArray[np.float64], window: Window, bound: float) -> tuple[float | None, str]:
    """The Jensen-Shannon distance (base 2; Lin 1991), or None where chance alone would give half the bound."""
    masses = np.nan_to_num(masses)
    counts = masses.sum(axis=0)
    if not counts.all():
        return None, "No item of one side of the window has a category; bring an item table with categories."
    # Two samples of one mix differ too: by the first term of the entropies' bias (Miller 1955), both sides weighed alike.
    chance = np.sqrt((len(masses) - 1) / (8 * np.log(2)) * (1 / window.within + 1 / window.before))
    if chance > bound / 2:
        return None, (
            f"{window.within} interactions over {len(masses)} categories are too few to tell drift from chance; "
            "raise health.window_days."
        )
    return jensen_shannon(*(masses / counts).T), ""


def jensen_shannon(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Distance of two distributions, 0 (the same) to 1 (nothing in common)."""
    middle = (first + second) / 2

    def divergence(part: NDArray[np.float64]) -> float:
        some = part > 0
        return float((part[some] * np.log2(part[some] / middle[some])).sum())

    return float(np.sqrt(max(0.0, (divergence(first) + divergence(second)) / 2)))


def _new_items(connection: DuckDBPyConnection, health: HealthSettings, window: Window | None, why: str) -> Measured:
    value = None
    if window and window.within < LEAST:
        why = f"{window.within} interactions in the window are too few; raise health.window_days."
    elif window:
        ((value,),) = connection.execute(
            f"select avg((first_us >= $1)::int) from (select at_us, min(at_us) over (partition by item_id) as first_us "
            f"from ({KNOWN})) where at_us >= $1",
            [window.begins],
        ).fetchall()
    return Measured(
        "new_item_share",
        "interactions",
        value,
        None,
        health.max_new_items,
        "Much of what people pick is new: write profiles of new items, then tune and train again.",
        why,
    )


def _neighbours(connection: DuckDBPyConnection, health: HealthSettings) -> Measured:
    ((value,),) = connection.execute(
        "select avg((user_id in (select user_id from fct_user_neighbours where snapshot = 'final'))::int) "
        "from fct_user_status where snapshot = 'final' and n_interactions > 0"
    ).fetchall()
    return Measured(
        "neighbour_sparsity",
        "users",
        value,
        health.min_neighbours,
        None,
        "Few users share an item with anybody, so profiles lean on texts alone; bring a longer log.",
        "No user has a known interaction; bring a longer log.",
    )
