"""Daily: what is new in the inbox becomes features, as of the logical date of the run."""

from __future__ import annotations

from airflow.sdk import DAG, Metadata, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import AS_OF, DRY_RUN, FEATURES, TUNING_DUE, WAREHOUSE, announced, checked, schedule, shared

DOC = """
### Features

`ingest` copies what is new in the inbox into landing; `build` lets dbt type, judge and test it, with nothing that
happened at or after the run's logical date, and publishes the analysts' copy; `health` holds the result against its bounds
(`fct_health`); `tuning_due` asks whether the language model should be tuned.

A run on the same data does nothing twice, so a backfill gives the tables that daily runs would have given. An empty
day, and a day of garbage, end here: what nobody knows more of is not told to downstream.

**When it fails**: `ingest` names the file and what is wrong with it; `build` the dbt model or test, and nothing that is
published changes; `health` the check, its bound and what to do.
"""

with DAG("reclm_features", schedule=schedule().features or None, **shared(DOC, more=AS_OF | DRY_RUN)) as dag:

    @task
    def ingest(params=None):
        """What is new in the inbox, into landing."""
        result = tasks.ingest(params)
        if not tasks.has_data(params):
            raise AirflowSkipException("nothing has landed yet: the inbox is empty")
        return result

    @task(pool=WAREHOUSE, inlets=[FEATURES], outlets=[FEATURES])
    def build(params=None, logical_date=None, inlet_events=None):
        """dbt builds and tests the features; the copy for readers is replaced."""
        result = tasks.features(params, logical_date)
        if params["dry_run"]:
            raise AirflowSkipException(f"dry run: features as of {result['as_of'] or 'now'}")
        yield from announced(FEATURES, result, inlet_events)

    @task(pool=WAREHOUSE)
    def health(params=None):
        """Drift, sparsity, profiles, embeddings, skew, against their bounds."""
        return checked(params)

    @task(outlets=[TUNING_DUE])
    def tuning_due(drifted, params=None):
        """Starts reclm_tuning when no model stands that may write of this build, or when what people do has drifted."""
        due = tasks.tuning_due(params, drifted)
        if not due["reason"]:
            raise AirflowSkipException("the language model that stands will do")
        yield Metadata(TUNING_DUE, extra=due)

    drifted = health()
    ingest() >> build() >> drifted
    tuning_due(drifted)
