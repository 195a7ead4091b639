"""Check what staging made of the landed rows: how many are set apart, and whether one user or item holds most.

In: the published warehouse. Out: a result `set_apart` per landing table, and `concentration` of users and items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reclm.health.check_result import CheckResult

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.operations import HealthSettings


def measure(connection: DuckDBPyConnection, health: HealthSettings) -> list[CheckResult]:
    """Run the checks `set_apart` and `concentration`."""
    from reclm.warehouse.counts import heaviest, landed_rows

    apart = [
        CheckResult(
            "set_apart",
            landed.table,
            landed.set_apart / landed.distinct_rows if landed.distinct_rows else 0.0,
            None,
            health.max_set_apart,
            f"Read reason and remedy of each row in quarantine_{landed.table}"
            + (f", above all {landed.faults[0].reason}." if landed.faults else "."),
        )
        for landed in landed_rows(connection)
    ]
    most = [
        CheckResult(
            "concentration",
            f"{found.kind}s",
            found.rows / found.total,
            None,
            health.max_concentration,
            # no id: what is written here stays when a user is erased
            f'One {found.kind} holds most of the log; which: reclm sql "select {found.kind}_id from base_interactions '
            f"where status = 'accepted' group by all order by count(*) desc limit 1\". Drop a crawler's rows, or those "
            "of a stand-in for a missing id.",
        )
        for found in heaviest(connection)
    ]
    nothing = "Nothing has landed; bring a log with `reclm ingest`."
    return [
        *(apart or [CheckResult("set_apart", "interactions", None, None, health.max_set_apart, unknown=nothing)]),
        *(most or [CheckResult("concentration", "users", None, None, health.max_concentration, unknown=nothing)]),
    ]
