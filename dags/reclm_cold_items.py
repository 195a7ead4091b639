"""Every few minutes: make new items recommendable, without training."""

from __future__ import annotations

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import WAREHOUSE, schedule, shared

DOC = """
### Cold items

New items of the inbox get a profile by the model that wrote the others, an embedding, rows in Feast and a vector of the
champion. Interactions wait for reclm_features: the as-of does not move.

Shares the one slot of the pool `warehouse` with the daily build, and a file lock behind it: they take turns.
"""

with DAG("reclm_cold_items", schedule=schedule().cold_items or None, **shared(DOC)) as dag:

    @task(pool=WAREHOUSE)
    def add(params=None):
        """Land new items, write their profiles and vectors, publish them, add them to the candidates."""
        result = tasks.cold_items(params)
        if not result["added"]:
            raise AirflowSkipException(result.get("waiting") or "no new item")
        return result

    add()
