"""Run every health check and write the artifact `health`.

In: the published warehouse, the current artifacts and the feature store. Out: `checks.parquet`, one row per check and
subject with its value, its bounds, a status and what to do; dbt shows the rows as `fct_health`. The figures on
interactions are queries on the published warehouse and not dbt models, because window and bounds are settings of this
check and a change of them must not rebuild every table.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.errors import HealthError
from reclm.health import delivered, interactions, landed, profiles, skew, vectors
from reclm.health.check_result import BREACHES
from reclm.progress import detail, say
from reclm.settings.operations import DRIFT_CHECKS
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import read_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

KIND = "health"
FILE = "checks.parquet"
STATUSES = ("ok", *BREACHES, "unknown")


def check_health(settings: Settings) -> Artifact:
    """Run all checks of `CHECKS` and make their artifact current; reuse the artifact when nothing has changed.

    The online store is compared on every call and is part of the version, so damage after a good check is noticed.
    Raises WorkspaceError when nothing has been built.
    """
    from reclm.warehouse.reading import connect
    from reclm.warehouse.sources import set_current_artifact

    workspace = settings.paths
    with closing(connect(settings)) as connection:
        staged = [*delivered.measure(workspace), *landed.measure(connection, settings.health)]
    compared = skew.compare(settings, settings.health.skew_sample)
    embeddings = vectors.embeddings_to_check(workspace)
    parameters = {
        "health": settings.health.model_dump(mode="json"),
        "seed": settings.seed,
        "staged": [[one.name, one.subject, one.value, artifacts.content_hash(one.remedy)] for one in staged],
        "skew": compared.counts,
        "skew_unknown": compared.unknown,
        "before": embeddings.before.version if embeddings.before else "",
    }
    parents = _parents(settings, embeddings)
    version = artifacts.version_of(KIND, parameters, parents)
    if artifacts.find(workspace, KIND, version) is None:
        with (
            closing(connect(settings)) as connection,
            artifacts.writing(workspace, KIND, parameters, parents) as draft,
        ):
            results = [
                *staged,
                *interactions.measure(connection, settings),
                *profiles.measure(settings),
                *vectors.measure(connection, settings, embeddings),
                *compared.results(),
            ]
            rows = [result.row(settings.health) for result in results]
            draft.metrics.update({status: sum(row["status"] == status for row in rows) for status in STATUSES})
            _write(settings, connection, draft, rows, version)
    else:
        detail(f"reusing health check {version}: nothing it depends on has changed")
    set_current_artifact(workspace, KIND, version)
    return artifacts.load(workspace, KIND, version)


def _parents(settings: Settings, embeddings: vectors.EmbeddingSets) -> dict[str, str]:
    from reclm.features.publish import published_path
    from reclm.warehouse.reading import features_fingerprint

    workspace = settings.paths
    found = {
        "profiles": profiles.current_or_newest(workspace),
        "embeddings": embeddings.current,
        "refine": profiles.newest_refined(workspace),
    }
    parents = {"warehouse": features_fingerprint(settings.paths)}
    parents |= {kind: artifact.version for kind, artifact in found.items() if artifact}
    if published_path(workspace).exists():
        parents["features"] = str(read_json(published_path(workspace))["version"])
    return parents


def _write(
    settings: Settings,
    connection: DuckDBPyConnection,
    draft: artifacts.Draft,
    rows: list[dict[str, Any]],
    version: str,
) -> None:
    from reclm.storage.files import write_rows
    from reclm.storage.schemas import HEALTH_CHECKS

    ((as_of,),) = connection.execute("select epoch_us(as_of) from int_snapshots where snapshot = 'serve'").fetchall()
    shared = {
        "checked_at": datetime.now(UTC),
        "dataset": str(settings.paths.require_dataset()["name"]),
        "as_of": datetime.fromtimestamp(as_of / 1e6, UTC),
        "version": version,
    }
    write_rows(draft.path / FILE, [{**shared, **row} for row in rows], HEALTH_CHECKS)


def check_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """Return the rows of a health artifact, in the order of the checks."""
    from reclm.storage.schemas import HEALTH_CHECKS

    rows: list[dict[str, Any]] = pq.read_table(artifact.path / FILE, schema=HEALTH_CHECKS).to_pylist()
    return rows


def require_healthy(artifact: Artifact, settings: Settings) -> None:
    """Print a warning for each broken bound; raise HealthError when a check named in `health.fail` is among them."""
    breached = [row for row in check_rows(artifact) if row["status"] in BREACHES]
    failing = [row for row in breached if row["name"] in settings.health.fail]
    for row in breached:
        if row not in failing:
            say(f"warning: {breach_message(row)}")
    if failing:
        count = f"{len(failing)} health checks fail" if len(failing) > 1 else "a health check fails"
        raise HealthError(f"{count}. {' '.join(map(breach_message, failing))}")


def drifted_checks(artifact: Artifact) -> list[str]:
    """Return the checks in `DRIFT_CHECKS` whose bounds are broken: the data differ from those trained on."""
    breached = {row["name"] for row in check_rows(artifact) if row["status"] in BREACHES}
    return [name for name in DRIFT_CHECKS if name in breached]


def breach_message(row: dict[str, Any]) -> str:
    """Describe a broken bound: `profile_format of user is 0.9, must be at least 0.999: what to do.`"""
    bounds = [
        f"{limit} {row[bound]:g}"
        for limit, bound in (("at least", "lower_bound"), ("at most", "upper_bound"))
        if row[bound] is not None
    ]
    value = "unknown" if row["value"] is None else f"{row['value']:.4g}"
    return f"{row['name']} of {row['subject']} is {value}, must be {' and '.join(bounds)}: {row['advice']}"
