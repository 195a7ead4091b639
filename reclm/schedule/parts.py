"""What the DAG files share: assets, pools, parameters, retries and callbacks. Needs Airflow, loads nothing else
heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NoReturn

from airflow.sdk import Asset, Metadata, Param
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from reclm.errors import HealthError
from reclm.schedule import callbacks, tasks
from reclm.settings.operations import ScheduleSettings

FEATURES = Asset("reclm_features", uri="reclm://features", group="reclm")
TUNING_DUE = Asset("reclm_tuning_due", uri="reclm://tuning-due", group="reclm")
MODEL = Asset("reclm_model", uri="reclm://model", group="reclm")
PROFILES = Asset("reclm_profiles", uri="reclm://profiles", group="reclm")
CHAMPION = Asset("reclm_champion", uri="reclm://champion", group="reclm")

WAREHOUSE = "warehouse"
ACCELERATOR = "accelerator"
POOLS = {
    WAREHOUSE: "One build of the warehouse at a time; a second one would occupy a worker while it waits for the lock.",
    ACCELERATOR: "One training of a language model at a time.",
}
"""Pools of one slot each that must exist before the DAGs run, and why."""

MAX_EVENTS = 100
START = datetime(2020, 1, 1)
PARAMS = {
    "workspace": Param(
        None, type=["null", "string"], description="Data set: a workspace folder; null: RECLM_WORKSPACE."
    ),
    "settings": Param({}, type="object", description='Settings to override, e.g. {"train.epochs": 10}.'),
}
AS_OF = {
    "as_of": Param(
        None,
        type=["null", "string"],
        description="As-of, ISO 8601: nothing later is used; null: the run's logical date.",
    ),
}
DRY_RUN = {"dry_run": Param(False, type="boolean", description="Only say what would be done.")}


@lru_cache(maxsize=1)
def schedule() -> ScheduleSettings:
    """Load the section `schedule` of this deployment's settings."""
    from reclm.settings.loading import load

    return load([]).schedule


def shared(doc: str, *, more: Mapping[str, Param] | None = None, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arguments that every DAG has."""
    settings = schedule()
    return {
        "start_date": START,
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["reclm", *tags],
        "doc_md": doc,
        "params": PARAMS | dict(more or {}),
        "render_template_as_native_obj": True,
        "deadline": DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(minutes=settings.deadline_minutes),
            callback=SyncCallback(callbacks.deadline_missed),
        ),
        "default_args": {
            "owner": "reclm",
            "retries": settings.retries,
            "retry_delay": timedelta(seconds=settings.retry_seconds),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": timedelta(minutes=settings.task_minutes),
            "on_failure_callback": callbacks.failed,
        },
    }


def accelerated() -> dict[str, Any]:
    """Return the arguments of a task that trains or runs a language model: its pool, and a time that is longer."""
    return {"pool": ACCELERATOR, "execution_timeout": timedelta(minutes=schedule().training_minutes)}


def request(params: Mapping[str, Any], triggering_asset_events: Any) -> dict[str, Any]:
    """Return the parameters of a run that an asset started.

    The data set is that of the newest asset event, unless a person named one.
    """
    received = [event for events in (triggering_asset_events or {}).values() for event in events]
    newest = max(received, key=lambda event: event.timestamp, default=None)
    workspace = params.get("workspace") or (newest.extra.get("workspace") if newest else None)
    return {**params, "workspace": workspace}


def tunable(params: Mapping[str, Any], triggering_asset_events: Any) -> dict[str, Any]:
    """Return the parameters of a tuning run, as `request` does.

    Raises AirflowSkipException when there is nothing to tune.
    """
    wanted = request(params, triggering_asset_events)
    if reason := tasks.why_not_tune(wanted):
        raise AirflowSkipException(reason)
    return wanted


def checked(params: Mapping[str, Any]) -> list[str]:
    """Run the health checks and return the drifted ones. A breach fails the task without a retry, which would not
    help."""
    try:
        return list(tasks.health(params)["drifted"])
    except HealthError as error:
        raise AirflowFailException(str(error)) from error


def require_whole(landed: Mapping[str, Any]) -> None:
    """Fail a task, without a retry, when files of the inbox were refused; `landed` is the result of `tasks.ingest`."""
    if landed.get("refused"):
        lines = "\n".join(f"{file}: {landed['not_taken'][file]}" for file in landed["refused"])
        raise AirflowFailException(f"these files of the inbox were refused; all others have landed:\n{lines}")


def skip(reason: str) -> NoReturn:
    """End a task as skipped, with what follows from it alone."""
    raise AirflowSkipException(reason)


def announced(asset: Asset, result: dict[str, Any], inlet_events: Any) -> Iterator[Any]:
    """Emit an asset event with `result` unless the data set's last event has the same version.

    A task with `asset` among its inlets and outlets yields from this. Raises AirflowSkipException, so that what follows
    is skipped, when the version is not new.
    """
    events = (event.extra for event in inlet_events[asset].ascending(False).limit(MAX_EVENTS))
    last = next((extra.get("version") for extra in events if extra.get("workspace") == result["workspace"]), None)
    if last == result["version"]:
        raise AirflowSkipException(f"{asset.name} {result['version']} was announced before: nothing new follows")
    yield Metadata(asset, extra=result)
