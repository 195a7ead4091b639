"""On new features or a new language model: write the profiles of what changed and publish them."""

from __future__ import annotations

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from reclm.schedule import tasks
from reclm.schedule.parts import FEATURES, MODEL, PROFILES, WAREHOUSE, accelerated, announced, checked, request, shared

DOC = """
### Profiles

`generate` writes the profiles of users and items that are new or changed, scores and embeds them, and builds the
profile tables; `publish` checks the features and writes them to Feast, offline and online, all or nothing.

While there is no language model (the first day) the run is skipped: reclm_tuning starts it again when it has made one.

**When it fails**: `publish` names the row, column and remedy, and the feature store does not change.
"""

with DAG("reclm_profiles", schedule=(FEATURES | MODEL), **shared(DOC)) as dag:

    @task(**accelerated())
    def generate(params=None, triggering_asset_events=None):
        """Write profiles, measure their quality, embed them."""
        if not tasks.can_write_profiles(request(params, triggering_asset_events)):
            raise AirflowSkipException(
                "no language model may write for this build; reclm_tuning makes one and starts this again"
            )
        return tasks.profiles(request(params, triggering_asset_events))

    @task(pool=WAREHOUSE, inlets=[PROFILES], outlets=[PROFILES])
    def publish(params=None, triggering_asset_events=None, inlet_events=None):
        """Write the features to Feast."""
        yield from announced(PROFILES, tasks.publish(request(params, triggering_asset_events)), inlet_events)

    @task(pool=WAREHOUSE)
    def health(params=None, triggering_asset_events=None):
        """Check over-smoothing, format, embeddings, and skew between offline and online store."""
        return checked(request(params, triggering_asset_events))

    generate() >> publish() >> health()
