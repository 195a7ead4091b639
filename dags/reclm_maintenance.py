"""Nightly: what nobody uses any more goes."""

from __future__ import annotations

from airflow.sdk import DAG, task

from reclm.schedule import tasks
from reclm.schedule.parts import DRY_RUN, WAREHOUSE, schedule, shared

DOC = """
### Maintenance

Old artifacts, their online rows, drafts of killed runs and old records go; the online store is packed; what has lost its
artifact is reported. Nothing that the champion, its predecessors or the current tables stand on is touched. Bounds:
settings `retention.*`; the parameter `dry_run` only lists.
"""

with DAG("reclm_maintenance", schedule=schedule().maintenance or None, **shared(DOC, more=DRY_RUN)) as dag:

    @task(pool=WAREHOUSE)
    def maintain(params=None):
        """Retention, leftovers, orphans."""
        return tasks.maintain(params)

    maintain()
