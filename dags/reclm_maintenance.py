"""Nightly: remove what nothing uses any more."""

from __future__ import annotations

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import DRY_RUN, WAREHOUSE, schedule, shared

DOC = """
### Maintenance

Removes old artifacts and their online rows, drafts of killed runs and old records, packs the online store, and reports
online rows whose artifact is missing. What the champion, its predecessors and the current tables were made from stays.
Bounds: settings `retention.*`; the parameter `dry_run` only lists.

Skipped while another stage is at work, and done the next night; `runs/` and the log say which stage it was.
"""

with DAG("reclm_maintenance", schedule=schedule().maintenance or None, **shared(DOC, more=DRY_RUN)) as dag:

    @task(pool=WAREHOUSE)
    def maintain(params=None):
        """Remove old artifacts, leftovers and old records."""
        result = tasks.maintain(params)
        if result["postponed"]:
            raise AirflowSkipException(f"postponed: {result['postponed']}")
        return result

    maintain()
