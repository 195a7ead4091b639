"""Is what was made fit to be used: warehouse, artifacts and feature store come in, one `health` artifact goes out.

`checks.parquet` holds one row per check and subject: the value, its bounds, a status and what to do. All of it is read
from what stands already. The figures on interactions are queries on the published warehouse, not dbt models: the window
and the bounds are settings of this check, and a change of them must not build every table again. The rows themselves are
in SQL as `fct_health`.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.errors import HealthError
from reclm.health.measured import BREACHES, Measured
from reclm.progress import say
from reclm.settings.operations import DRIFT_CHECKS
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.health.vectors import Sets
    from reclm.settings.tree import Settings

__all__ = ["Measured", "check_health", "drifted", "require_healthy", "rows", "sentence"]

KIND = "health"
FILE = "checks.parquet"
STATUSES = ("ok", *BREACHES, "unknown")


def check_health(settings: Settings) -> Artifact:
    """Measures every check of `operations_settings.CHECKS`, or finds that nothing has changed since; makes it current.

    What the online store holds is looked at each time and is part of the version, so a store that was damaged after a
    good check is noticed. Raises WorkspaceError when nothing has been built.
    """
    from reclm.health import interactions, profiles, skew, vectors
    from reclm.warehouse.reading import connect
    from reclm.warehouse.sources import set_current_artifact

    workspace = settings.paths
    compared = skew.compare(settings, settings.health.skew_sample)
    sets = vectors.chosen(workspace)
    parameters = {
        "health": settings.health.model_dump(mode="json"),
        "seed": settings.seed,
        "skew": compared.counts,
        "skew_unknown": compared.unknown,
        "before": sets.before.version if sets.before else "",
    }
    parents = _parents(settings, sets)
    version = artifacts.version_of(KIND, parameters, parents)
    if artifacts.find(workspace, KIND, version) is None:
        with (
            closing(connect(settings)) as connection,
            artifacts.writing(workspace, KIND, parameters, parents) as draft,
        ):
            measured = [
                *interactions.measure(connection, settings),
                *profiles.measure(settings),
                *vectors.measure(connection, settings, sets),
                *compared.measured(),
            ]
            table = [one.row(settings.health) for one in measured]
            draft.metrics.update({status: sum(row["status"] == status for row in table) for status in STATUSES})
            _write(settings, connection, draft, table, version)
    else:
        say(f"  health {version} stands: nothing it was measured on has changed, reused")
    set_current_artifact(workspace, KIND, version)
    return artifacts.load(workspace, KIND, version)


def _parents(settings: Settings, sets: Sets) -> dict[str, str]:
    from reclm.features.publish import published_path
    from reclm.health.profiles import current, newest_refined
    from reclm.storage.files import read_json
    from reclm.warehouse.reading import features_fingerprint

    workspace = settings.paths
    made = {"profiles": current(workspace), "embeddings": sets.current, "refine": newest_refined(workspace)}
    parents = {"warehouse": features_fingerprint(settings)}
    parents |= {kind: artifact.version for kind, artifact in made.items() if artifact}
    if published_path(workspace).exists():
        parents["features"] = str(read_json(published_path(workspace))["version"])
    return parents


def _write(
    settings: Settings,
    connection: DuckDBPyConnection,
    draft: artifacts.Draft,
    table: list[dict[str, Any]],
    version: str,
) -> None:
    from reclm.warehouse.sources import write_rows

    ((as_of,),) = connection.execute("select epoch_us(as_of) from int_snapshots where snapshot = 'final'").fetchall()
    about = {
        "checked_at": datetime.now(UTC),
        "dataset": str(settings.paths.require_dataset()["name"]),
        "as_of": datetime.fromtimestamp(as_of / 1e6, UTC),
        "version": version,
    }
    write_rows(draft.path / FILE, "health/checks", [{**about, **row} for row in table])


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a health artifact, in the order of the checks."""
    found: list[dict[str, Any]] = pq.read_table(artifact.path / FILE).to_pylist()
    return found


def require_healthy(artifact: Artifact, settings: Settings) -> None:
    """Says every breach as a warning, then raises HealthError when a check named in `health.fail` is among them."""
    breached = [row for row in rows(artifact) if row["status"] in BREACHES]
    failing = [row for row in breached if row["name"] in settings.health.fail]
    for row in breached:
        if row not in failing:
            say(f"warning: {sentence(row)}")
    if failing:
        many = f"{len(failing)} health checks fail" if len(failing) > 1 else "a health check fails"
        raise HealthError(f"{many}. {' '.join(map(sentence, failing))}")


def drifted(artifact: Artifact) -> list[str]:
    """The checks of DRIFT_CHECKS that are breached: what people do has moved away from what the models learned."""
    breached = {row["name"] for row in rows(artifact) if row["status"] in BREACHES}
    return [name for name in DRIFT_CHECKS if name in breached]


def sentence(row: dict[str, Any]) -> str:
    """`profile_format of user is 0.9, must be at least 0.999: what to do.`"""
    bounds = [
        f"{word} {row[bound]:g}"
        for word, bound in (("at least", "lower_bound"), ("at most", "upper_bound"))
        if row[bound] is not None
    ]
    value = "unknown" if row["value"] is None else f"{row['value']:.4g}"
    return f"{row['name']} of {row['subject']} is {value}, must be {' and '.join(bounds)}: {row['advice']}"
