"""On new profiles: train recommenders, and promote one if it is better than the champion."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, task

from reclm.schedule import tasks
from reclm.schedule.parts import ACCELERATOR, CHAMPION, PROFILES, WAREHOUSE, announced, request, schedule, shared

DOC = """
### Training and promotion

`train` trains the recommenders on features from Feast. `evaluate` measures them and all baselines on the test slice,
for people to read. `promote` compares the day's candidate with the champion on the validation slice and switches the
pointer when the policy says so. Every decision is a row of `fct_promotions`. With `schedule.approval` a person is asked
first.

**When it fails**: the champion stays. `reclm rollback` goes back to the one before.
"""
MODELS = {
    "models": Param(None, type=["null", "array"], description='Backbones, e.g. ["lightgcn"]; null: train.models.')
}

with DAG("reclm_training", schedule=[PROFILES], **shared(DOC, more=MODELS)) as dag:

    @task(pool=ACCELERATOR)
    def train(params=None, triggering_asset_events=None):
        """Select on the validation slice, then train again on all data before the as-of."""
        return tasks.train(request(params, triggering_asset_events))["versions"]

    @task(pool=WAREHOUSE)
    def evaluate(versions, params=None, triggering_asset_events=None):
        """Measure all models on the test slice."""
        return tasks.evaluate(request(params, triggering_asset_events), versions)

    @task(pool=WAREHOUSE, inlets=[CHAMPION], outlets=[CHAMPION])
    def promote(versions, answer=None, params=None, triggering_asset_events=None, inlet_events=None):
        """Apply the promotion policy."""
        approved = None if answer is None else answer["chosen_options"] == ["Approve"]
        yield from announced(
            CHAMPION, tasks.promote(request(params, triggering_asset_events), versions, approved), inlet_events
        )

    @task(pool=WAREHOUSE, trigger_rule="none_failed")
    def report(params=None, triggering_asset_events=None):
        """Write the report."""
        return tasks.report(request(params, triggering_asset_events))["page"]

    versions = train()
    evaluated = evaluate(versions)
    if schedule().approval:
        approval = HITLOperator(
            task_id="approve",
            subject="May today's candidate become champion?",
            body="Figures: fct_evaluation and the report. The policy still decides after an approval.",
            options=["Approve", "Reject"],
            defaults=["Reject"],
            response_timeout=timedelta(hours=schedule().approval_hours),
        )
        evaluated >> approval
        promoted = promote(versions, approval.output)
    else:
        promoted = promote(versions)
    evaluated >> promoted >> report()
