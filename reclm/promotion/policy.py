"""The policy of promotion: which of today's models may take the champion's place, and why.

In: finished `backbone` artifacts of one day, the champion that stands, the settings `promotion.*` and two figures of the
warehouse. Out: a `Verdict`; nothing is written. A champion is a *kind* (model, variant, seed) fitted on some data. On newer
data its kind is fitted again, a *refresh*, and that takes its place unless it has fallen; a model of another kind, a
*newcomer*, must first beat the refresh user by user, and leaves the way to it where a guard keeps it out. Everything is
measured on the validation slice, where days differ in users and truth: two models of one day are compared in pairs, two
days only by value, with room for chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from reclm.evaluation.intervals import over_users
from reclm.promotion import champion
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.training.validation import mean, per_user

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

K = 20
WARM, COLD = "full_shot", "zero_shot"
AT_MOST = {"popularity_lift", "latency_ms"}
GUARDS = {
    "users": ("min_users", "users with validation truth"),
    "interactions": ("min_interactions", "known interactions"),
    "value": ("max_drop", "the upper bound of {metric}@20"),
    "cold_value": ("max_cold_drop", "{metric}@20 over cold items"),
    "coverage": ("min_coverage", "share of candidates shown"),
    "popularity_lift": ("max_popularity_lift", "popularity above that of the users' own items"),
    "latency_ms": ("max_latency_ms", "milliseconds to rank all items for one user"),
    "format": ("min_format", "share of profiles that parse"),
}
"""The setting of `promotion` behind each guard, and what it measures, in words."""


class Interval(NamedTuple):
    """A mean over users, or a mean difference, with its 95 % bounds."""

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lo:.4f}, {self.hi:.4f}]"


@dataclass(frozen=True)
class Guard:
    """One bound that a model has to keep, and whether it did."""

    guard: str
    value: float
    bound: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the policy says of `considered`; `difference` is a newcomer's against the champion's kind on the same data."""

    decision: Literal["promoted", "kept"]
    reason: str
    considered: Artifact | None = None
    value: Interval | None = None
    difference: Interval | None = None
    guards: tuple[Guard, ...] = ()


def model_label(model: Artifact) -> str:
    """`model/variant`, as a person reads it."""
    about = model.manifest["parameters"]
    return f"{about['model']}/{about['variant']}"


def validation_value(settings: Settings, model: Artifact) -> Interval | None:
    """The model's primary metric on the validation slice, with 95 % bounds over users; None where nobody was asked."""
    return _interval(settings, _values(settings, model))


def best_candidate(settings: Settings, trained: Sequence[Artifact]) -> Artifact | None:
    """The model with the best primary metric among those that use profiles, else among all; None if none was measured.

    The shuffled control is never a candidate. Validation alone decides: the test slice plays no part.
    """
    values = {
        model.version: mean(model.path, WARM, settings.promotion.metric)
        for model in trained
        if model.manifest["parameters"]["variant"] != "shuffled"
    }
    measured = [(value, model) for model in trained if (value := values.get(model.version)) is not None]
    with_profiles = [pair for pair in measured if pair[1].manifest["parameters"]["variant"] == "augment"]
    ranked = sorted(with_profiles or measured, key=lambda pair: (-pair[0], pair[1].version))
    return ranked[0][1] if ranked else None


def apply_policy(settings: Settings, trained: Sequence[Artifact]) -> Verdict:
    """What the policy makes of today's models. Reads files, writes none."""
    best = best_candidate(settings, trained)
    if best is None:
        return Verdict(
            "kept",
            "unmeasurable: no model has users with validation truth; a longer log or a larger split.valid_share gives some",
        )
    pointer = champion.find(settings)
    standing = artifacts.find(settings.paths, "backbone", pointer["version"]) if pointer else None
    if pointer is None or standing is None:
        gone = f"the champion's artifact {pointer['version']} is gone" if pointer else "there is no champion yet"
        return _guarded(
            settings, Verdict("promoted", f"{gone}; {model_label(best)} is the best of today", best), None, None
        )
    own = _own(standing, trained)
    verdict = _contest(settings, best, standing, own)
    if verdict.decision == "kept":
        return verdict
    guarded = _guarded(settings, verdict, pointer, standing)
    if guarded.decision == "promoted" or own is None or own in (standing, verdict.considered):
        return guarded
    return _guarded(settings, _stays_or_refreshed(standing, own, guarded.reason), pointer, standing)


def _contest(settings: Settings, best: Artifact, standing: Artifact, own: Artifact | None) -> Verdict:
    """Who is considered: the best of today, or the champion's kind. The guards have not been asked yet."""
    if own is None and _is_configured(settings, standing):
        reason = f"{model_label(standing)}, the champion's kind, was not trained today, so {model_label(best)} has nothing to be held against"
        return Verdict("kept", reason, best, validation_value(settings, best))
    if own is None:
        return Verdict(
            "promoted", f"{model_label(standing)} is trained no longer; {model_label(best)} is the best of today", best
        )
    if _kind(best) == _kind(own):
        return _stays_or_refreshed(standing, own, "the best of today")
    wins, compared, difference = _compared(settings, best, own)
    if wins:
        return Verdict("promoted", compared, best, difference=difference)
    if own == standing:
        return Verdict("kept", compared, best, validation_value(settings, best), difference)
    return _stays_or_refreshed(standing, own, compared)


def _is_configured(settings: Settings, model: Artifact) -> bool:
    """Whether the settings have models of its kind trained: a run of fewer models is no reason to give it up."""
    kind, train = model.manifest["parameters"], settings.train
    return kind["model"] in train.models and kind["variant"] in train.variants and kind["seed"] in train.seeds


def _own(standing: Artifact, trained: Sequence[Artifact]) -> Artifact | None:
    """The champion's kind on today's data: itself where it was trained on them, else its refresh; None where its kind is
    trained no longer."""
    if any(model.manifest["parents"] == standing.manifest["parents"] for model in trained):
        return standing
    return next((model for model in trained if _kind(model) == _kind(standing)), None)


def _stays_or_refreshed(standing: Artifact, own: Artifact, why: str) -> Verdict:
    if own == standing:
        return Verdict("kept", f"{model_label(standing)} is the champion already, trained on these very data", standing)
    return Verdict("promoted", f"{model_label(own)}, the champion's kind, is fitted on newer data ({why})", own)


def _compared(settings: Settings, best: Artifact, own: Artifact) -> tuple[bool, str, Interval | None]:
    """(whether `best` beats `own`, the sentence that says so, the paired difference over the users both were asked about)."""
    needed, metric = settings.promotion.min_users, settings.promotion.metric
    here, there = _values(settings, best), _values(settings, own)
    paired = {user: value - there[user] for user, value in here.items() if user in there}
    difference = _interval(settings, paired)
    if difference is None or len(paired) < needed:
        few = f"{len(paired)} common users, and promotion.min_users asks for {needed}"
        return False, f"{model_label(best)} cannot be compared with {model_label(own)}: {few}", difference
    wins = difference.lo > settings.promotion.min_gain
    asked = f"{metric}@{K} {difference} over {len(paired)} users, and promotion.min_gain asks for more than "
    return (
        wins,
        f"{model_label(best)} {'beats' if wins else 'does not beat'} {model_label(own)}: {asked}{settings.promotion.min_gain:g}",
        difference,
    )


def _guarded(
    settings: Settings, verdict: Verdict, pointer: Mapping[str, Any] | None, standing: Artifact | None
) -> Verdict:
    """The verdict with its figures; kept in place of promoted where a guard failed."""
    model = verdict.considered
    assert model is not None
    values = _values(settings, model)
    value = _interval(settings, values)
    if value is None:
        return replace(
            verdict,
            decision="kept",
            reason=f"{model_label(model)} is unmeasurable: no user was asked ({verdict.reason})",
        )
    recorded = {
        setting: _recorded(settings, pointer, standing, setting) if pointer and standing else None
        for setting in (WARM, COLD)
    }
    guards = _guards(settings, model, len(values), value, recorded)
    failed = [_complaint(settings, guard) for guard in guards if not guard.passed]
    about = f"{settings.promotion.metric}@{K} {value}"
    if recorded[WARM] is not None:
        about += f" where the champion had {recorded[WARM]:.4f}"
    reason = f"{verdict.reason}; {about}"
    if failed:
        unmeasurable = "unmeasurable" if any(g.guard == "users" and not g.passed for g in guards) else "kept out"
        reason = f"{model_label(model)} is {unmeasurable}: {', '.join(failed)} ({reason})"
    return replace(verdict, decision="kept" if failed else "promoted", reason=reason, value=value, guards=guards)


def _recorded(settings: Settings, pointer: Mapping[str, Any], standing: Artifact, setting: str) -> float | None:
    """The champion's value when it was promoted; from its artifact where another metric was primary then."""
    if pointer.get("metric") == settings.promotion.metric:
        value = pointer["value" if setting == WARM else "zero_shot"]
        return None if value is None else float(value)
    return mean(standing.path, setting, settings.promotion.metric)


def _guards(
    settings: Settings, model: Artifact, n_users: int, value: Interval, recorded: Mapping[str, float | None]
) -> tuple[Guard, ...]:
    """Every guard that has both a figure and a bound: what could not be measured bounds nothing."""
    policy, lists = settings.promotion, model.metrics["validation_lists"][WARM]
    interactions, format_share = _from_warehouse(settings)
    warm, cold = recorded[WARM], recorded[COLD]
    uses_profiles = model.manifest["parameters"]["variant"] == "augment"
    figures: dict[str, tuple[float | None, float | None]] = {
        "users": (n_users, policy.min_users),
        "interactions": (interactions, policy.min_interactions),
        "value": (value.hi, None if warm is None else (1 - policy.max_drop) * warm),
        "cold_value": (
            mean(model.path, COLD, policy.metric),
            None if cold is None else (1 - policy.max_cold_drop) * cold,
        ),
        "coverage": (lists["coverage"], policy.min_coverage),
        "popularity_lift": (lists["popularity_lift"], policy.max_popularity_lift),
        "latency_ms": (lists["latency_ms"], policy.max_latency_ms),
        "format": (format_share if uses_profiles else None, policy.min_format),
    }
    return tuple(
        Guard(guard, float(figure), float(bound), figure <= bound if guard in AT_MOST else figure >= bound)
        for guard, (figure, bound) in figures.items()
        if figure is not None and bound is not None
    )


def _from_warehouse(settings: Settings) -> tuple[int, float | None]:
    """(interactions known at the final snapshot, the lower share of user and item profiles there that parse, if any)."""
    from reclm.warehouse.reading import connect

    with connect(settings) as connection:
        ((known,),) = connection.execute(
            "select count(*) from fct_known_interactions where snapshot = 'final'"
        ).fetchall()
        ((share,),) = connection.execute(
            "select min(value) from fct_profile_quality "
            "where is_current and snapshot = 'final' and severity = 'all' and metric = 'format'"
        ).fetchall()
    return int(known), share


def _complaint(settings: Settings, guard: Guard) -> str:
    side = "above" if guard.guard in AT_MOST else "below"
    bounded_by, what = GUARDS[guard.guard]
    said = what.format(metric=settings.promotion.metric)
    return f"{said} {guard.value:.4g} is {side} {guard.bound:.4g} (promotion.{bounded_by})"


def _kind(model: Artifact) -> tuple[Any, Any, Any]:
    about = model.manifest["parameters"]
    return about["model"], about["variant"], about["seed"]


def _values(settings: Settings, model: Artifact) -> dict[str, float]:
    return per_user(model.path, WARM, settings.promotion.metric)


def _interval(settings: Settings, values: Mapping[str, float]) -> Interval | None:
    """Mean and bootstrap bounds over users; None where nobody was measured."""
    if not values:
        return None
    column = ("model", settings.promotion.metric, K)
    rows = np.fromiter(values.values(), np.float32, len(values))[:, None]
    resampled = over_users([column], rows, settings.evaluation.bootstrap, settings.seed, "promotion")
    return Interval(float(np.mean(list(values.values()))), *resampled.interval(column))
