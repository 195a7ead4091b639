"""Daily: build features from the new files of the inbox, as of the logical date of the run."""

from __future__ import annotations

from airflow.sdk import DAG, Metadata, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import (
    AS_OF,
    DRY_RUN,
    FEATURES,
    TUNING_DUE,
    WAREHOUSE,
    announced,
    checked,
    require_whole,
    schedule,
    shared,
)

DOC = """
### Features

`ingest` copies what services have logged and new files of the inbox into landing. `build` lets dbt type, check and
test them, using nothing that happened at or after the run's logical date, and publishes the read-only copy. `health`
compares the result with its bounds (`fct_health`). `tuning_due` decides whether the language model should be tuned.

A run on the same data changes nothing, so a backfill gives the tables that daily runs would have given. A day without
usable data ends here: the DAGs that follow are not started.

**When it fails**: `refused` names the files of the inbox that were not taken and what is wrong with them; `build` the
dbt model or test, and nothing that is published changes; `health` the check, its bound and what to do.
"""

with DAG("reclm_features", schedule=schedule().features or None, **shared(DOC, more=AS_OF | DRY_RUN)) as dag:

    @task
    def ingest(params=None):
        """Copy what services have logged and the new files of the inbox into landing."""
        result = tasks.ingest(params)
        if not tasks.has_data(params):
            require_whole(result)
            raise AirflowSkipException("nothing has landed yet: the inbox is empty")
        return result

    @task
    def refused(landed):
        """Fail when files of the inbox were refused. What could land has landed, and is built."""
        require_whole(landed)

    @task(pool=WAREHOUSE, inlets=[FEATURES], outlets=[FEATURES])
    def build(params=None, logical_date=None, inlet_events=None):
        """Build and test the features with dbt, then replace the copy for readers."""
        result = tasks.features(params, logical_date)
        if params["dry_run"]:
            raise AirflowSkipException(f"dry run: features as of {result['as_of'] or 'now'}")
        yield from announced(FEATURES, result, inlet_events)

    @task(pool=WAREHOUSE)
    def health(params=None):
        """Check drift, sparsity, profiles, embeddings and skew against their bounds."""
        return checked(params)

    @task(outlets=[TUNING_DUE])
    def tuning_due(drifted, params=None):
        """Start reclm_tuning when no model may write for this build, or when interactions have drifted."""
        due = tasks.tuning_due(params, drifted)
        if not due["reason"]:
            raise AirflowSkipException("the current language model is good enough")
        yield Metadata(TUNING_DUE, extra=due)

    landed = ingest()
    drifted = health()
    landed >> build() >> drifted
    refused(landed)
    tuning_due(drifted)
