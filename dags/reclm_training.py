"""On new profiles: train recommenders, and let the promotion policy choose the champion."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, task

from reclm.schedule import tasks
from reclm.schedule.parts import CHAMPION, PROFILES, WAREHOUSE, accelerated, announced, request, schedule, shared, skip

DOC = """
### Training and promotion

`train` trains the recommenders on features from Feast. `evaluate` measures them and all baselines on the test slice,
for people to read. `promote` refits the champion's kind on the new data, or puts another kind in its place if that is
better on the validation slice; the model that is served is fitted once more on everything known. Every decision is a
row of `fct_promotions`. With `schedule.approval`, `propose` writes the report and describes a candidate that would be
promoted, and `approve` asks a person, who sees its name and figures.

**When it fails**: the champion stays. `reclm rollback` goes back to the one before.
"""
MODELS = {
    "models": Param(None, type=["null", "array"], description='Backbones, e.g. ["lightgcn"]; null: train.models.')
}

with DAG("reclm_training", schedule=[PROFILES], **shared(DOC, more=MODELS)) as dag:

    @task(**accelerated())
    def train(params=None, triggering_asset_events=None):
        """Select on the validation slice, then train again on all data before the as-of."""
        return tasks.train(request(params, triggering_asset_events))["versions"]

    @task(pool=WAREHOUSE)
    def evaluate(versions, params=None, triggering_asset_events=None):
        """Measure all models on the test slice."""
        return tasks.evaluate(request(params, triggering_asset_events), versions)

    @task(pool=WAREHOUSE)
    def propose(versions, params=None, triggering_asset_events=None):
        """Describe the candidate to the person who is asked; skipped where the champion stays."""
        described = tasks.propose(request(params, triggering_asset_events), versions)
        return described or skip("the policy keeps the champion: nobody has to be asked")

    @task(pool=WAREHOUSE, inlets=[CHAMPION], outlets=[CHAMPION], trigger_rule="none_failed")
    def promote(versions, answer=None, params=None, triggering_asset_events=None, inlet_events=None):
        """Apply the promotion policy. Where a person has to be asked, nothing is promoted without a yes."""
        chosen = answer["chosen_options"] if answer else []
        approved = chosen == ["Approve"] if schedule().approval else None
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
        proposed = propose(versions)
        approval = HITLOperator(
            task_id="approve",
            subject="May this candidate become champion?",
            body=proposed,
            options=["Approve", "Reject"],
            defaults=["Reject"],
            response_timeout=timedelta(hours=schedule().approval_hours),
        )
        evaluated >> proposed
        promoted = promote(versions, approval.output)
    else:
        promoted = promote(versions)
    evaluated >> promoted >> report()
