"""Decide on today's models, record the decision, and switch the champion where it says so.

In: today's finished models. Out: an artifact `promotion` with one row, which dbt shows in `fct_promotions`.
`promotion/policy.py` gives the verdict; this module records it and carries it out: first the model is fitted on the
snapshot `serve` (artifact `served`) and its vectors go into the feature store, then the decision is written, then the
pointer moves. When a process is killed between the last two,
the next decision completes the switch. A decision is named by everything it depends on, including the champion at that
time and the decision that had chosen it. So deciding twice changes nothing, and an old decision is not carried out
again after a later one has moved the pointer. A model that a person has chosen stays until there are models of other
data.

When its refresh is kept out, a champion of older data stays in use. The rows of forgotten users have been removed from
it by then; what its networks learned from all users together is replaced by the next refresh
(`reclm/maintenance/forget.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.progress import detail, say
from reclm.promotion import champion
from reclm.promotion.candidates import SETTING
from reclm.promotion.online import online_evidence
from reclm.promotion.policy import K, Verdict, apply_policy, model_label, validation_value
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.locks import alone
from reclm.training.model import SERVED_KIND, refit_on_serve

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.workspace import Workspace

KIND = "promotion"
ROLLED_BACK = "rolled_back"
CHAMPION_BEFORE = "champion_before"
"""The parameter of a decision that holds the champion at the time of the decision."""
BY_A_PERSON = ("hand", "approval")


def decisions(settings: Settings) -> list[Artifact]:
    """Return every decision, oldest first; `metrics` of each is its row of `fct_promotions`."""
    return artifacts.all_of(settings.paths, KIND)


def decide(settings: Settings, trained: Sequence[Artifact], *, approved: bool | None = None) -> Artifact:
    """Let the policy decide on today's models, record the decision, and switch the champion if it says so.

    `trained` are models of the same data. `approved` is a person's answer, where approval was requested: a model that
    the policy would promote is then promoted or kept out in that person's name. A second call with the same models
    returns the same decision. Raises WorkspaceError without models.
    """
    if not trained:
        raise WorkspaceError(f"{settings.paths.root} has no trained models of the current features; run `reclm train`")
    with deciding(settings.paths):
        _complete_interrupted_switch(settings)
        parameters, parents = _inputs(settings, trained, approved)
        earlier = _reusable_decision(settings, trained, parameters, parents)
        if earlier is not None:
            row = earlier.metrics
            decided_at = row["decided_at"][:19]
            detail(f"decided already ({row['decided_by']}, {decided_at}): {row['decision']}, {row['reason']}")
            return earlier
        verdict = apply_policy(settings, trained)
        if verdict.value is None:
            say(f"promotion: {verdict.reason}")
        row = _row(settings, verdict, as_of=trained[0].metrics["as_of"], **_apply_approval(verdict, approved))
        return _carry_out(settings, parameters, parents, row, verdict.considered)


def promote_by_hand(settings: Settings, version: str, *, reason: str = "") -> Artifact:
    """Make the trained model `version` champion without asking the policy, and record that a person chose it.

    Does nothing when it is the champion already. Raises ArtifactError when no such model exists, ModelError for the
    shuffled control.
    """
    model = servable(settings, version)
    with deciding(settings.paths):
        _complete_interrupted_switch(settings)
        decision = _decision_of_the_champion(settings)
        if decision is not None and decision.metrics["candidate_version"] == version:
            detail(f"{model_label(model)} ({version}) is the champion already")
            return decision
        return _decide_by_hand(settings, model, "promoted", reason or "a person chose it and gave no reason")


def servable(settings: Settings, version: str) -> Artifact:
    """Return the trained model `version`. Raises ArtifactError when there is none, ModelError for the control."""
    model = artifacts.find(settings.paths, "backbone", version)
    if model is None:
        raise ArtifactError(f"no trained model has version {version}; {_available_models(settings)}")
    if model.manifest["parameters"]["variant"] == "shuffled":
        raise ModelError(
            f"{version} is {model_label(model)}, the control that was trained on the profiles of other users, "
            "and must not serve; name a model of variant augment or base"
        )
    return model


def roll_back(settings: Settings, *, reason: str = "") -> Artifact:
    """Make the previous champion champion again and record it; a second call goes back one further.

    Raises WorkspaceError when there is no champion or none before it, ArtifactError when the previous one was deleted.
    """
    with deciding(settings.paths):
        completed = _complete_interrupted_switch(settings)
        if completed is not None and completed.metrics["decision"] == ROLLED_BACK:
            return completed
        now = champion.current(settings)
        earlier = _earlier_champions(settings, now["version"])
        if not earlier:
            raise WorkspaceError(
                f"no champion before {now['model']}/{now['variant']} ({now['version']}) is recorded; "
                "promote any trained model with `reclm promote VERSION`"
            )
        served = artifacts.find(settings.paths, SERVED_KIND, earlier[-1])
        model = artifacts.find(settings.paths, "backbone", served.manifest["parents"]["backbone"]) if served else None
        if served is None or model is None:
            raise ArtifactError(
                f"the previous champion, {earlier[-1]}, is no longer among the artifacts; promote any trained model "
                f"with `reclm promote VERSION`: {_available_models(settings)}"
            )
        why = reason or "a person went back to it and gave no reason"
        return _decide_by_hand(settings, model, ROLLED_BACK, why, served)


@contextmanager
def deciding(workspace: Workspace) -> Iterator[None]:
    """Let one process at a time change which models are served."""
    with alone(workspace.locks / "champion.lock", "another decision is being made", workspace.lock_timeout):
        yield


def _champion_now(settings: Settings) -> dict[str, str]:
    """The current champion and the decision that chose it; '' where there is none."""
    pointer = champion.find(settings) or {}
    return {"champion": pointer.get("version", ""), "decision": pointer.get("decision", "")}


def _inputs(
    settings: Settings, trained: Sequence[Artifact], approved: bool | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """(parameters, parents): everything that determines a decision of the policy."""
    parameters = {
        "promotion": settings.promotion.model_dump(mode="json"),
        "bootstrap": settings.evaluation.bootstrap,
        "seed": settings.seed,
        "approved": approved,
        CHAMPION_BEFORE: _champion_now(settings),
        **online_evidence(settings),
    }
    models = {
        "backbone/{model}-{variant}-{seed}".format(**model.manifest["parameters"]): model.version for model in trained
    }
    return parameters, {**trained[0].manifest["parents"], **models}


def _reusable_decision(
    settings: Settings, trained: Sequence[Artifact], parameters: dict[str, Any], parents: dict[str, str]
) -> Artifact | None:
    """The earlier decision that also holds for these models, if any.

    That is a person's decision on the same data, a decision with the same inputs, or the decision that chose the
    current champion among the same models.
    """
    newest = next(iter(reversed(decisions(settings))), None)
    if newest is not None and parameters["approved"] is None and newest.metrics["decided_by"] in BY_A_PERSON:
        data = trained[0].manifest["parents"]
        if {key: newest.manifest["parents"].get(key) for key in data} == data:
            return newest
    same = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))
    of_champion = _decision_of_the_champion(settings)
    if same is None and of_champion is not None:
        its_inputs = of_champion.manifest["parameters"] | {CHAMPION_BEFORE: parameters[CHAMPION_BEFORE]}
        return of_champion if (its_inputs, of_champion.manifest["parents"]) == (parameters, parents) else None
    return same


def _decision_of_the_champion(settings: Settings) -> Artifact | None:
    version = _champion_now(settings)["decision"]
    return artifacts.find(settings.paths, KIND, version) if version else None


def _complete_interrupted_switch(settings: Settings) -> Artifact | None:
    """Switch the champion where a process was killed between the newest decision and the switch; return that decision.

    The switch is missing when the pointer still has the value that it had when the decision was made.
    """
    newest = next(iter(reversed(decisions(settings))), None)
    if newest is None or newest.metrics["decision"] == "kept":
        return None
    if newest.manifest["parameters"].get(CHAMPION_BEFORE) != _champion_now(settings):
        return None
    served = artifacts.find(settings.paths, SERVED_KIND, newest.metrics["served_version"])
    if served is None:
        return None
    say(f"completing decision {newest.version}, which was interrupted before the champion was switched")
    champion.publish(settings, served)
    champion.switch(settings, served, newest)
    return newest


def _apply_approval(verdict: Verdict, approved: bool | None) -> dict[str, str]:
    """decision, decided_by and reason of a verdict, after a person's answer where there is one."""
    fields = {"decision": verdict.decision, "decided_by": "policy", "reason": verdict.reason}
    if approved is None or verdict.decision == "kept":
        return fields
    if approved:
        return fields | {"decided_by": "approval", "reason": f"approved: {verdict.reason}"}
    return fields | {"decision": "kept", "decided_by": "approval", "reason": f"not approved: {verdict.reason}"}


def _row(
    settings: Settings, verdict: Verdict, *, as_of: str, decision: str, decided_by: str, reason: str
) -> dict[str, Any]:
    """A row of `fct_promotions` without its version."""
    model = verdict.considered
    parameters = model.manifest["parameters"] if model else {}
    pointer = champion.find(settings) or {}
    value, lo, hi = verdict.value or (None, None, None)
    diff, diff_lo, diff_hi = verdict.difference or (None, None, None)
    return {
        "decided_at": datetime.now(UTC).isoformat(),
        "dataset": str(settings.paths.require_dataset()["name"]),
        "as_of": as_of,
        "decision": decision,
        "decided_by": decided_by,
        "reason": reason,
        "candidate_version": model.version if model else None,
        "candidate_model": parameters.get("model"),
        "candidate_variant": parameters.get("variant"),
        "candidate_seed": parameters.get("seed"),
        "champion_version": pointer.get("measured"),
        "champion_model": pointer.get("model"),
        "champion_variant": pointer.get("variant"),
        "setting": SETTING,
        "metric": settings.promotion.metric,
        "k": K,
        "candidate_value": value,
        "candidate_lo": lo,
        "candidate_hi": hi,
        "candidate_cold": verdict.cold,
        "champion_value": pointer.get("value"),
        "diff": diff,
        "diff_lo": diff_lo,
        "diff_hi": diff_hi,
        "guards": [asdict(guard) for guard in verdict.guards],
        "candidates": [asdict(outcome) for outcome in verdict.candidates],
    }


def _decide_by_hand(
    settings: Settings, model: Artifact, decision: str, reason: str, served: Artifact | None = None
) -> Artifact:
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import features_fingerprint

    parameters = {"decision": decision, "candidate": model.version, CHAMPION_BEFORE: _champion_now(settings)}
    data = {"features": features_version(settings), "warehouse": features_fingerprint(settings.paths)}
    verdict = Verdict("promoted", reason, model, validation_value(settings, model))
    row = _row(settings, verdict, as_of=model.metrics["as_of"], decision=decision, decided_by="hand", reason=reason)
    return _carry_out(settings, parameters, data | {"backbone": model.version}, row, model, served)


def _carry_out(
    settings: Settings,
    parameters: dict[str, Any],
    parents: dict[str, str],
    row: dict[str, Any],
    model: Artifact | None,
    served: Artifact | None = None,
) -> Artifact:
    """Fit the model on `serve` unless it is given, publish its vectors, write the decision, then move the pointer."""
    from reclm.storage.files import write_rows
    from reclm.storage.schemas import PROMOTION_DECISION

    if row["decision"] == "kept" or model is None:
        served = None
    elif served is None:
        served = refit_on_serve(settings, model)
    if served is not None:
        champion.publish(settings, served)
    row = row | {"served_version": served.version if served else None}
    version = artifacts.version_of(KIND, parameters, parents)
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        moments = {moment: datetime.fromisoformat(row[moment]) for moment in ("decided_at", "as_of")}
        lists = {name: json.dumps(row[name]) for name in ("guards", "candidates")}
        table_row = row | moments | lists | {"version": version}
        write_rows(draft.path / "decision.parquet", [table_row], PROMOTION_DECISION)
        draft.metrics = row
    decision = artifacts.load(settings.paths, KIND, version)
    detail(f"{row['decision']} by {row['decided_by']}: {row['reason']}")
    if served is not None:
        champion.switch(settings, served, decision)
    return decision


def _earlier_champions(settings: Settings, version: str) -> list[str]:
    """The served versions before `version` that a rollback can return to, newest last, without those rolled back."""
    earlier: list[str] = []
    for row in (decision.metrics for decision in decisions(settings)):
        if row["decision"] == "promoted":
            earlier.append(row["served_version"])
        elif row["decision"] == ROLLED_BACK and earlier:
            earlier.pop()
    while earlier and earlier[-1] == version:
        earlier.pop()
    return earlier


def _available_models(settings: Settings) -> str:
    models = [
        f"{model.version} ({model_label(model)})"
        for model in reversed(artifacts.all_of(settings.paths, "backbone"))
        if model.manifest["parameters"]["variant"] != "shuffled"
    ]
    if not models:
        return "no model has been trained yet; run `reclm train`"
    return f"the trained models are, newest first, {', '.join(models[:10])}"
