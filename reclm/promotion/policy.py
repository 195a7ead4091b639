"""Decide which of today's models, if any, replaces the champion, and why: the promotion policy.

In: the finished `backbone` artifacts of one day, the current champion, earlier decisions and the settings
`promotion.*`. Out: a `Verdict`; nothing is written. A champion is of a *kind* (backbone and variant). When newer data
come, models of the same kind are fitted on them, a *refresh*, which replaces the champion unless a guard keeps it out.
The policy takes the first candidate (`candidates.py`) that no guard (`guards.py`) keeps out. One of another kind, a
*newcomer*, must also beat the refresh user by user; else the refresh is considered, and where a guard keeps that out,
the newcomer after all. Only one newcomer is compared a day, because some one of many comparisons is often won by
chance. Models of two days have different users and truth: their values are compared within the bounds of the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from reclm.promotion import champion
from reclm.promotion.candidates import (
    NO_PROFILES,
    Candidate,
    Interval,
    K,
    candidate,
    candidates_of,
    in_order,
    mean_interval,
    model_label,
    paired_difference,
    why_unmeasurable,
)
from reclm.promotion.guards import Guard, Standards, check, failures, standards_of
from reclm.promotion.online import online_objection
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

UNMEASURED_FIRST = ("ease", "itemknn", "als")
"""Backbones that serve where nothing can be measured, the first that was trained: they need no choice of epochs."""


@dataclass(frozen=True)
class Outcome:
    """What came of one candidate.

    `value` is its mean over the first half of the users, by which it was chosen, `compared` that over the second.
    """

    version: str
    model: str
    variant: str
    seeds: tuple[int, ...]
    value: float | None
    compared: float | None
    outcome: str


@dataclass(frozen=True)
class Verdict:
    """The policy's answer: whether the model `considered` replaces the champion.

    `value`, on the second half of the users, and `cold`, over new items, are means over the seeds of its kind.
    `difference` is the paired difference of a newcomer to the champion's kind on the same data. `candidates` are all
    candidates of the day in the order of choice.
    """

    decision: Literal["promoted", "kept"]
    reason: str
    considered: Artifact | None = None
    value: Interval | None = None
    difference: Interval | None = None
    guards: tuple[Guard, ...] = ()
    cold: float | None = None
    candidates: tuple[Outcome, ...] = ()


def validation_value(settings: Settings, model: Artifact) -> Interval | None:
    """Return the value of one model on the second half of the users, with bounds; None without users."""
    return mean_interval(settings, candidate(settings, [model]).second)


def apply_policy(settings: Settings, trained: Sequence[Artifact]) -> Verdict:
    """Decide on today's models `trained`. Reads files and writes none."""
    pointer = champion.find(settings)
    current = artifacts.find(settings.paths, "backbone", pointer["measured"]) if pointer else None
    history = [decision.metrics for decision in artifacts.all_of(settings.paths, "promotion")]
    candidates = candidates_of(settings, trained)
    unmeasurable = why_unmeasurable(settings, candidates)
    if unmeasurable:
        candidates = [replace(one, first={}, second={}) for one in candidates]
    day = _Day(settings, candidates, standards_of(settings, trained, current, history))
    if unmeasurable:
        was_measured = pointer is not None and pointer["value"] is not None
        return _unmeasured(day, current, trained, unmeasurable, was_measured)
    best = day.first_sound()
    if best is None:
        return day.verdict("kept", day.ordered[0], "no candidate passes the guards")
    if current is None:
        why = f"the champion's artifact {pointer['measured']} is gone" if pointer else "there is no champion yet"
        return day.verdict("promoted", best, f"{why}; {best.label} is the best of today")
    same_kind = _champions_kind(day, current, trained)
    if same_kind is None and _is_configured(settings, current):
        missing = f"{model_label(current)}, the champion's kind, was not trained today"
        return day.verdict("kept", best, f"{missing}, so {best.label} cannot be compared with it")
    if same_kind is None:
        reason = f"{model_label(current)} is trained no longer; {best.label} is the best of today"
        return day.verdict("promoted", best, reason)
    if best.kind == same_kind.kind:
        return _keep_or_refresh(day, current, same_kind, "the best of today")
    return _newcomer(day, best, current, same_kind)


def _newcomer(day: _Day, best: Candidate, current: Artifact, same_kind: Candidate) -> Verdict:
    """The verdict where the best sound candidate is of another kind than the champion."""
    wins, comparison, difference = _compare(day.settings, best, same_kind)
    if wins:
        return day.verdict("promoted", best, comparison, difference)
    day.outcomes[best.label] = comparison
    if same_kind.artifact == current:
        return day.verdict("kept", best, comparison, difference)
    if day.failures(same_kind):
        objection = online_objection(day.settings, best.kind, same_kind.kind)
        if objection:
            return day.verdict("kept", best, objection, difference)
        reason = f"{same_kind.label}, the champion's kind, is kept out; {best.label} is the best of the others"
        return day.verdict("promoted", best, reason, difference)
    return _keep_or_refresh(day, current, same_kind, comparison)


def _keep_or_refresh(day: _Day, current: Artifact, same_kind: Candidate, why: str) -> Verdict:
    if same_kind.artifact == current:
        reason = f"{same_kind.label} is the champion already, trained on the same data"
        return day.verdict("kept", same_kind, reason)
    reason = f"{same_kind.label}, the champion's kind, is fitted on newer data ({why})"
    return day.verdict("promoted", same_kind, reason)


def _unmeasured(
    day: _Day, current: Artifact | None, trained: Sequence[Artifact], why: str, was_measured: bool
) -> Verdict:
    """The verdict where validation tells models not apart.

    A champion that was measured stays. Where none ever was, a model serves all the same: no service would be worse.
    """
    advice = f"unmeasurable: {why}; bring a longer log or raise split.valid_share"
    if not day.candidates:
        return Verdict("kept", "no candidate was trained: the control alone must not serve")
    if current is not None and was_measured:
        return Verdict("kept", f"{advice}; the champion was measured and stays")
    same_kind = _champions_kind(day, current, trained) if current else None
    chosen = same_kind or min(day.candidates, key=lambda one: _unmeasured_rank(day.settings, one))
    if day.failures(chosen):
        return day.verdict("kept", chosen, advice)
    if current is not None and chosen.artifact == current:
        return _keep_or_refresh(day, current, chosen, advice)
    return day.verdict("promoted", chosen, f"{advice}; {chosen.label} serves unmeasured, because no other model does")


def _unmeasured_rank(settings: Settings, one: Candidate) -> tuple[bool, int, int]:
    """Lower is better: without profiles, closed-form backbones, then the order of `train.models`."""
    model, variant = one.kind
    order = [*UNMEASURED_FIRST, *settings.train.models]
    return variant != NO_PROFILES, order.index(model) if model in order else len(order), min(one.seeds)


def _champions_kind(day: _Day, current: Artifact, trained: Sequence[Artifact]) -> Candidate | None:
    """The champion itself where it was trained on today's data, else its refresh; None where that was not trained."""
    if any(model.manifest["parents"] == current.manifest["parents"] for model in trained):
        alone = candidate(day.settings, [current])
        with_all_seeds = next((one for one in day.candidates if one.kind == alone.kind), None)
        is_of_today = current.version in {model.version for model in trained}
        return replace(with_all_seeds, artifact=current) if with_all_seeds and is_of_today else alone
    return next((one for one in day.candidates if one.label == model_label(current)), None)


def _is_configured(settings: Settings, model: Artifact) -> bool:
    """Whether models of this kind are trained on today's data; a run of fewer models is no reason to give it up."""
    from reclm.training.stage import left_out_models, trained_variants

    parameters = model.manifest["parameters"]
    models = set(settings.train.models) - left_out_models(settings).keys()
    return parameters["model"] in models and parameters["variant"] in trained_variants(settings)


def _compare(settings: Settings, best: Candidate, same_kind: Candidate) -> tuple[bool, str, Interval | None]:
    """(whether `best` beats `same_kind`, a sentence about it, the paired difference over their common users)."""
    min_users, metric = settings.promotion.min_users, settings.promotion.metric
    common = len(best.second.keys() & same_kind.second.keys())
    difference = paired_difference(settings, best.second, same_kind.second)
    if difference is None or common < min_users:
        few = f"{common} common users, and promotion.min_users requires {min_users}"
        return False, f"{best.label} cannot be compared with {same_kind.label}: {few}", difference
    wins = difference.lo > settings.promotion.min_gain
    sentence = (
        f"{best.label} {'beats' if wins else 'does not beat'} {same_kind.label}: {metric}@{K} {difference} over "
        f"{common} users, and promotion.min_gain requires more than {settings.promotion.min_gain:g}"
    )
    objection = online_objection(settings, best.kind, same_kind.kind) if wins else ""
    return wins and not objection, "; ".join(filter(None, (sentence, objection))), difference


class _Day:
    """The candidates of a day, what the guards say of each, and what has come of it so far.

    `ordered` are the measured candidates in the order of choice; `outcomes` holds a sentence about each one that was
    looked at and passed over.
    """

    def __init__(self, settings: Settings, candidates: Sequence[Candidate], standards: Standards) -> None:
        self.settings, self.candidates, self.standards = settings, candidates, standards
        self.ordered = in_order(settings, candidates)
        self.outcomes: dict[str, str] = {}
        self._checked: dict[str, tuple[Interval | None, tuple[Guard, ...]]] = {}

    def checked(self, one: Candidate) -> tuple[Interval | None, tuple[Guard, ...]]:
        """Return the candidate's value on the second half of the users, and its guards."""
        version = one.artifact.version
        if version not in self._checked:
            value = mean_interval(self.settings, one.second)
            self._checked[version] = value, check(self.settings, one, value, self.standards)
        return self._checked[version]

    def failures(self, one: Candidate) -> str:
        """Return why guards keep the candidate out, '' where none does; the first is remembered as its outcome."""
        broken = failures(self.settings, self.checked(one)[1])
        if broken:
            self.outcomes[one.label] = f"kept out: {broken}"
        return broken

    def first_sound(self) -> Candidate | None:
        """Return the first candidate that no guard keeps out."""
        return next((one for one in self.ordered if not self.failures(one)), None)

    def verdict(
        self, decision: Literal["promoted", "kept"], one: Candidate, reason: str, difference: Interval | None = None
    ) -> Verdict:
        """Return the verdict about a candidate; its reason names the candidates that guards kept out."""
        value, guards = self.checked(one)
        passed_over = [f"{label} is {why}" for label, why in self.outcomes.items() if why.startswith("kept out")]
        parts = [reason, *passed_over]
        if value is not None:
            past = "" if self.standards.best is None else f" where the best champion had {self.standards.best:.4f}"
            parts.append(f"{one.label} has {self.settings.promotion.metric}@{K} {value}{past}")
        chosen = "chosen" if decision == "promoted" else self.outcomes.get(one.label, "the champion stays")
        listed = tuple(
            self._outcome(each, chosen if each.label == one.label else self.outcomes.get(each.label, "not reached"))
            for each in self.ordered or self.candidates
        )
        return Verdict(decision, "; ".join(parts), one.artifact, value, difference, guards, one.cold, listed)

    def _outcome(self, one: Candidate, outcome: str) -> Outcome:
        value, compared = (fmean(half.values()) if half else None for half in (one.first, one.second))
        return Outcome(one.artifact.version, *one.kind, one.seeds, value, compared, outcome)
