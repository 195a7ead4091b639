"""Weekly, and when interactions have drifted: tune the language model again."""

from __future__ import annotations

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from reclm.schedule import tasks
from reclm.schedule.parts import MODEL, TUNING_DUE, accelerated, announced, request, schedule, shared, tunable

DOC = """
### Language model

Two-turn supervised tuning, a reward model, and reinforcement learning against it (RecLM, arXiv 2412.19302, section 3),
each an artifact that names its parents. Runs in the pool `accelerator`: one training at a time. Models whose inputs
have not changed are reused.

**When it fails**: run it again; each stage goes on where it stopped. Until then profiles are written by the model
before.
"""


def when():
    """Return the schedule: on drift, and by the clock where one is set."""
    cron = schedule().tuning
    if not cron:
        return [TUNING_DUE]
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=[TUNING_DUE])


with DAG("reclm_tuning", schedule=when(), **shared(DOC)) as dag:

    @task(**accelerated())
    def teach(params=None, triggering_asset_events=None):
        """Write the example profiles that the language model learns from."""
        return tasks.teach(tunable(params, triggering_asset_events))

    @task(**accelerated())
    def tune(params=None, triggering_asset_events=None):
        """Train the base model and tune it on two-turn dialogues."""
        return tasks.tune(tunable(params, triggering_asset_events))

    @task(**accelerated())
    def reward(params=None, triggering_asset_events=None):
        """Train the model that scores profiles."""
        return tasks.reward(request(params, triggering_asset_events))

    @task(**accelerated(), inlets=[MODEL], outlets=[MODEL])
    def refine(params=None, triggering_asset_events=None, inlet_events=None):
        """Refine by reinforcement learning with guards, and merge the model."""
        yield from announced(MODEL, tasks.refine(request(params, triggering_asset_events)), inlet_events)

    teach() >> tune() >> reward() >> refine()
