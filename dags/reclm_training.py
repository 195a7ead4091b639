"""On fresh profiles: recommenders from Feast, and a champion if one earns it."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, task

from reclm.schedule import tasks
from reclm.schedule.parts import ACCELERATOR, CHAMPION, PROFILES, WAREHOUSE, announced, request, schedule, shared

DOC = """
### Training and promotion

`train` fits the backbones on features from Feast; `evaluate` ranks them and all baselines on the test slice, for people to
read; `promote` holds the day's candidate against the champion on the validation slice and switches the pointer when the
policy says so. Every decision is a row of `fct_promotions`. With `schedule.approval` a person is asked first.

**When it fails**: the champion stands. `reclm rollback` goes back to the one before.
"""
MODELS = {
    "models": Param(None, type=["null", "array"], description='Backbones, e.g. ["lightgcn"]; null: train.models.')
}

with DAG("reclm_training", schedule=[PROFILES], **shared(DOC, more=MODELS)) as dag:

    @task(pool=ACCELERATOR)
    def train(params=None, triggering_asset_events=None):
        """Select on the validation slice, refit on all that is known."""
        return tasks.train(request(params, triggering_asset_events))["versions"]

    @task(pool=WAREHOUSE)
    def evaluate(versions, params=None, triggering_asset_events=None):
        """The test slice, once."""
        return tasks.evaluate(request(params, triggering_asset_events), versions)

    @task(pool=WAREHOUSE, inlets=[CHAMPION], outlets=[CHAMPION])
    def promote(versions, answer=None, params=None, triggering_asset_events=None, inlet_events=None):
        """The promotion policy."""
        approved = None if answer is None else answer["chosen_options"] == ["Approve"]
        yield from announced(
            CHAMPION, tasks.promote(request(params, triggering_asset_events), versions, approved), inlet_events
        )

    @task(pool=WAREHOUSE, trigger_rule="none_failed")
    def report(params=None, triggering_asset_events=None):
        """The HTML page."""
        return tasks.report(request(params, triggering_asset_events))["page"]

    versions = train()
    evaluated = evaluate(versions)
    if schedule().approval:
        asked = HITLOperator(
            task_id="approve",
            subject="May today's candidate become champion?",
            body="Figures: fct_evaluation and the report. The policy still has its say after an approval.",
            options=["Approve", "Reject"],
            defaults=["Reject"],
            response_timeout=timedelta(hours=schedule().approval_hours),
        )
        evaluated >> asked
        promoted = promote(versions, asked.output)
    else:
        promoted = promote(versions)
    evaluated >> promoted >> report()
