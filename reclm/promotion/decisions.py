"""Promotion: today's models come in, one recorded decision goes out, and the champion is switched where it says so.

`promotion_policy.py` judges; here the verdict is written down as an artifact `promotion`, one row that dbt turns into
`fct_promotions`, and carried out: vectors into the feature store, then the decision, then the pointer. A kill between the
last two is made up for by whoever decides next. A decision is named by all that it was made from, the champion that stood
and the decision that had put it there among them: deciding twice changes nothing, and no old decision is carried out
again once a later one has moved the pointer. What a person chose holds until the policy meets models of other data.

A champion of older data stays when its refresh is kept out. The rows of people who were forgotten are gone from it by
then; what its networks learned from many is replaced when a refresh passes (see `reclm/maintenance/forget.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.progress import say
from reclm.promotion import champion
from reclm.promotion.policy import K, Verdict, apply_policy, model_label, validation_value
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.locks import alone

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.workspace import Workspace

KIND = "promotion"
ROLLED_BACK = "rolled_back"
BY_PEOPLE = ("hand", "approval")


def decisions(settings: Settings) -> list[Artifact]:
    """Every decision, oldest first; `metrics` of each is its row of `fct_promotions`."""
    return artifacts.all_of(settings.paths, KIND)


def decide(settings: Settings, trained: Sequence[Artifact], *, approved: bool | None = None) -> Artifact:
    """What becomes of today's models, `trained` on the same data: artifact `promotion`, and the champion switched if it says so.

    `approved` is a person's answer where one was asked: what the policy would promote is then promoted or kept out in that
    person's name. Deciding again on the same models finds the decision that stands. Raises WorkspaceError without models.
    """
    if not trained:
        raise WorkspaceError(f"{settings.paths.root} has no trained models of the current features; run `reclm train`")
    with _one_at_a_time(settings.paths):
        _finish_what_was_cut_short(settings)
        parameters, parents = _made_from(settings, trained, approved)
        found = _standing_decision(settings, trained, parameters, parents)
        if found is not None:
            row = found.metrics
            say(
                f"  decided already ({row['decided_by']}, {row['decided_at'][:19]}): {row['decision']}, {row['reason']}"
            )
            return found
        verdict = apply_policy(settings, trained)
        row = _row(settings, verdict, as_of=trained[0].metrics["as_of"], **_answered(verdict, approved))
        return _carried_out(settings, parameters, parents, row, verdict.considered)


def promote_by_hand(settings: Settings, version: str, *, reason: str = "") -> Artifact:
    """Makes the trained model `version` champion, whatever the policy says of it, and records that a person chose it.

    Raises ArtifactError when no such model stands, ModelError for the shuffled control. Nothing is done when it is the
    champion already.
    """
    chosen = artifacts.find(settings.paths, "backbone", version)
    if chosen is None:
        raise ArtifactError(f"no trained model has version {version}; there {_are_models(settings)}")
    if chosen.manifest["parameters"]["variant"] == "shuffled":
        raise ModelError(
            f"{version} is {model_label(chosen)}, the control that was trained on other people's profiles: it must not serve; "
            "name a model of variant augment or base"
        )
    with _one_at_a_time(settings.paths):
        _finish_what_was_cut_short(settings)
        made = _that_made_the_champion(settings)
        if made is not None and made.metrics["candidate_version"] == version:
            say(f"  {model_label(chosen)} ({version}) is the champion already")
            return made
        return _by_hand(settings, chosen, "promoted", reason or "a person chose it and gave no reason")


def roll_back(settings: Settings, *, reason: str = "") -> Artifact:
    """Makes the champion before this one champion again, and records it. Once more goes one further back.

    Raises WorkspaceError when there is no champion or none before it, ArtifactError when that one's artifact is gone.
    """
    with _one_at_a_time(settings.paths):
        cut_short = _finish_what_was_cut_short(settings)
        if cut_short is not None and cut_short.metrics["decision"] == ROLLED_BACK:
            return cut_short
        now = champion.current(settings)
        before = _champions_before(settings, now["version"])
        if not before:
            raise WorkspaceError(
                f"no champion before {now['model']}/{now['variant']} ({now['version']}) is recorded; "
                "`reclm promote VERSION` takes any trained model"
            )
        chosen = artifacts.find(settings.paths, "backbone", before[-1])
        if chosen is None:
            raise ArtifactError(
                f"the champion before, {before[-1]}, is no longer among the artifacts; `reclm promote VERSION` takes any "
                f"trained model: there {_are_models(settings)}"
            )
        return _by_hand(settings, chosen, ROLLED_BACK, reason or "a person went back to it and gave no reason")


@contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
    with alone(workspace.locks / "champion.lock", "another decision is being made"):
        yield


def _state(settings: Settings) -> dict[str, str]:
    """The champion that stands and the decision that put it there; '' for none."""
    pointer = champion.find(settings) or {}
    return {"champion": pointer.get("version", ""), "decision": pointer.get("decision", "")}


def _made_from(
    settings: Settings, trained: Sequence[Artifact], approved: bool | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """(parameters, parents): all that determines a decision of the policy."""
    parameters = {
        "promotion": settings.promotion.model_dump(mode="json"),
        "bootstrap": settings.evaluation.bootstrap,
        "seed": settings.seed,
        "approved": approved,
        "standing": _state(settings),
    }
    models = {
        "backbone/{model}-{variant}-{seed}".format(**model.manifest["parameters"]): model.version for model in trained
    }
    return parameters, {**trained[0].manifest["parents"], **models}


def _standing_decision(
    settings: Settings, trained: Sequence[Artifact], parameters: dict[str, Any], parents: dict[str, str]
) -> Artifact | None:
    """The decision that speaks for these models already, if any: a person's on the same data, one made from the very same, or
    the one that made today's champion out of the same models."""
    newest = next(iter(reversed(decisions(settings))), None)
    if newest is not None and parameters["approved"] is None and newest.metrics["decided_by"] in BY_PEOPLE:
        data = trained[0].manifest["parents"]
        if {key: newest.manifest["parents"].get(key) for key in data} == data:
            return newest
    same = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))
    made = _that_made_the_champion(settings)
    if same is None and made is not None:
        then = made.manifest["parameters"] | {"standing": parameters["standing"]}
        return made if (then, made.manifest["parents"]) == (parameters, parents) else None
    return same


def _that_made_the_champion(settings: Settings) -> Artifact | None:
    version = _state(settings)["decision"]
    return artifacts.find(settings.paths, KIND, version) if version else None


def _finish_what_was_cut_short(settings: Settings) -> Artifact | None:
    """Switches the champion where the newest decision says so and was killed before it could. Returns that decision.

    It was cut short when the pointer still is where it was when the decision was made.
    """
    newest = next(iter(reversed(decisions(settings))), None)
    if newest is None or newest.metrics["decision"] == "kept":
        return None
    if newest.manifest["parameters"]["standing"] != _state(settings):
        return None
    chosen = artifacts.find(settings.paths, "backbone", newest.metrics["candidate_version"])
    if chosen is None:
        return None
    say(f"  decision {newest.version} was made and not carried out; it is now")
    champion.publish(settings, chosen)
    champion.switch(settings, chosen, newest)
    return newest


def _answered(verdict: Verdict, approved: bool | None) -> dict[str, str]:
    """decision, decided_by and reason of a verdict after a person's answer, if one was asked."""
    about = {"decision": verdict.decision, "decided_by": "policy", "reason": verdict.reason}
    if approved is None or verdict.decision == "kept":
        return about
    if approved:
        return about | {"decided_by": "approval", "reason": f"approved: {verdict.reason}"}
    return about | {"decision": "kept", "decided_by": "approval", "reason": f"not approved: {verdict.reason}"}


def _row(
    settings: Settings, verdict: Verdict, *, as_of: str, decision: str, decided_by: str, reason: str
) -> dict[str, Any]:
    """A row of `fct_promotions` but for its version."""
    model = verdict.considered
    about = model.manifest["parameters"] if model else {}
    standing = champion.find(settings) or {}
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
        "candidate_model": about.get("model"),
        "candidate_variant": about.get("variant"),
        "candidate_seed": about.get("seed"),
        "champion_version": standing.get("version"),
        "champion_model": standing.get("model"),
        "champion_variant": standing.get("variant"),
        "metric": settings.promotion.metric,
        "k": K,
        "candidate_value": value,
        "candidate_lo": lo,
        "candidate_hi": hi,
        "champion_value": standing.get("value"),
        "diff": diff,
        "diff_lo": diff_lo,
        "diff_hi": diff_hi,
        "guards": [asdict(guard) for guard in verdict.guards],
    }


def _by_hand(settings: Settings, chosen: Artifact, decision: str, reason: str) -> Artifact:
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import features_fingerprint

    parameters = {"decision": decision, "candidate": chosen.version, "standing": _state(settings)}
    data = {"features": features_version(settings), "warehouse": features_fingerprint(settings)}
    verdict = Verdict("promoted", reason, chosen, validation_value(settings, chosen))
    row = _row(settings, verdict, as_of=chosen.metrics["as_of"], decision=decision, decided_by="hand", reason=reason)
    return _carried_out(settings, parameters, data | {"backbone": chosen.version}, row, chosen)


def _carried_out(
    settings: Settings,
    parameters: dict[str, Any],
    parents: dict[str, str],
    row: dict[str, Any],
    chosen: Artifact | None,
) -> Artifact:
    """Vectors first, then the decision, then the pointer."""
    from reclm.storage.files import write_rows
    from reclm.storage.schemas import PROMOTION_DECISION

    switches = chosen is not None and row["decision"] != "kept"
    if chosen is not None and switches:
        champion.publish(settings, chosen)
    version = artifacts.version_of(KIND, parameters, parents)
    with artifacts.writing(settings.paths, KIND, parameters, parents) as draft:
        moments = {moment: datetime.fromisoformat(row[moment]) for moment in ("decided_at", "as_of")}
        told = row | moments | {"guards": json.dumps(row["guards"]), "version": version}
        write_rows(draft.path / "decision.parquet", [told], PROMOTION_DECISION)
        draft.metrics = row
    decision = artifacts.load(settings.paths, KIND, version)
    say(f"  {row['decision']} by {row['decided_by']}: {row['reason']}")
    if chosen is not None and switches:
        champion.switch(settings, chosen, decision)
    return decision


def _champions_before(settings: Settings, version: str) -> list[str]:
    """Those one can go back to from `version`, the nearest last: what was promoted and not rolled back since."""
    passed: list[str] = []
    for row in (decision.metrics for decision in decisions(settings)):
        if row["decision"] == "promoted":
            if not passed and row["champion_version"]:
                passed.append(row["champion_version"])
            passed.append(row["candidate_version"])
        elif row["decision"] == ROLLED_BACK and passed:
            passed.pop()
    while passed and passed[-1] == version:
        passed.pop()
    return passed


def _are_models(settings: Settings) -> str:
    models = [
        f"{model.version} ({model_label(model)})"
        for model in reversed(artifacts.all_of(settings.paths, "backbone"))
        if model.manifest["parameters"]["variant"] != "shuffled"
    ]
    return f"are, newest first, {', '.join(models[:10])}" if models else "are none yet; `reclm train` makes some"
