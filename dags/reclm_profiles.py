"""On fresh features or a new model: profiles of what changed, into the feature store."""

from __future__ import annotations

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import ACCELERATOR, FEATURES, MODEL, PROFILES, WAREHOUSE, announced, checked, request, shared

DOC = """
### Profiles

`generate` asks the language model of users and items that are new or changed, scores and embeds the answers, and
builds the profile tables; `publish` checks the features and writes them to Feast, offline and online, all or nothing.

While no model stands (the first day) the run is skipped: reclm_tuning starts it again when it has made one.

**When it fails**: `publish` names the row, column and remedy, and the feature store keeps what it had.
"""

with DAG("reclm_profiles", schedule=(FEATURES | MODEL), **shared(DOC)) as dag:

    @task(pool=ACCELERATOR)
    def generate(params=None, triggering_asset_events=None):
        """Profiles, their quality and their embeddings."""
        if not tasks.can_write_profiles(request(params, triggering_asset_events)):
            raise AirflowSkipException(
                "no language model stands that may write of this build; reclm_tuning makes one and starts this again"
            )
        return tasks.profiles(request(params, triggering_asset_events))

    @task(pool=WAREHOUSE, inlets=[PROFILES], outlets=[PROFILES])
    def publish(params=None, triggering_asset_events=None, inlet_events=None):
        """Features into Feast."""
        yield from announced(PROFILES, tasks.publish(request(params, triggering_asset_events)), inlet_events)

    @task(pool=WAREHOUSE)
    def health(params=None, triggering_asset_events=None):
        """Over-smoothing, format, embeddings, skew between offline and online store."""
        return checked(request(params, triggering_asset_events))

    generate() >> publish() >> health()
