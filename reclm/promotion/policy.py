"""Decide which of today's models, if any, replaces the champion, and why: the promotion policy.

In: the finished `backbone` artifacts of one day, the current champion, the settings `promotion.*` and two figures of
the warehouse. Out: a `Verdict`; nothing is written. A champion is of a *kind* (model, variant, seed), fitted on some
data. When newer data come, a model of the same kind is fitted on them, a *refresh*, and replaces the champion unless a
guard fails. A model of another kind, a *newcomer*, must first beat the refresh user by user; where a guard fails for
it, the refresh is considered instead. All values are measured on the validation slice. Two models of one day are
compared in pairs; models of two days have different users and truth, so only their mean values are compared, within the
bounds of the settings.
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
from reclm.training.validation import mean_metric, metric_per_user

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

K = 20
WARM, COLD = "full_shot", "zero_shot"
UPPER_BOUNDS = {"popularity_lift", "latency_ms"}
"""Guards whose bound is a maximum; the bound of every other guard is a minimum."""
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
"""{guard: (its setting in `promotion`, what it measures)}."""


class Interval(NamedTuple):
    """A mean over users, or a mean difference, with its 95 % bounds."""

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lo:.4f}, {self.hi:.4f}]"


@dataclass(frozen=True)
class Guard:
    """One bound that a model has to keep, and whether it does."""

    guard: str
    value: float
    bound: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The policy's answer: whether the model `considered` replaces the champion.

    `difference` is the paired difference of a newcomer to the model of the champion's kind on the same data.
    """

    decision: Literal["promoted", "kept"]
    reason: str
    considered: Artifact | None = None
    value: Interval | None = None
    difference: Interval | None = None
    guards: tuple[Guard, ...] = ()


def model_label(model: Artifact) -> str:
    """Return `model/variant`, such as `lightgcn/augment`."""
    parameters = model.manifest["parameters"]
    return f"{parameters['model']}/{parameters['variant']}"


def validation_value(settings: Settings, model: Artifact) -> Interval | None:
    """Return the model's primary metric on the validation slice with 95 % bounds; None when it has no users there."""
    return _interval(settings, _values(settings, model))


def best_candidate(settings: Settings, trained: Sequence[Artifact]) -> Artifact | None:
    """Return the model with the best primary metric among those with profiles, else among all; None if none has one.

    The shuffled control is never a candidate. Only the validation slice is read, never the test slice.
    """
    values = {
        model.version: mean_metric(model.path, WARM, settings.promotion.metric)
        for model in trained
        if model.manifest["parameters"]["variant"] != "shuffled"
    }
    measured = [(value, model) for model in trained if (value := values.get(model.version)) is not None]
    with_profiles = [pair for pair in measured if pair[1].manifest["parameters"]["variant"] == "augment"]
    ranked = sorted(with_profiles or measured, key=lambda pair: (-pair[0], pair[1].version))
    return ranked[0][1] if ranked else None


def apply_policy(settings: Settings, trained: Sequence[Artifact]) -> Verdict:
    """Decide on today's models `trained`. Reads files and writes none."""
    best = best_candidate(settings, trained)
    if best is None:
        return Verdict(
            "kept",
            "unmeasurable: no model has users with validation truth; bring a longer log or raise split.valid_share",
        )
    pointer = champion.find(settings)
    current = artifacts.find(settings.paths, "backbone", pointer["version"]) if pointer else None
    if pointer is None or current is None:
        why = f"the champion's artifact {pointer['version']} is gone" if pointer else "there is no champion yet"
        verdict = Verdict("promoted", f"{why}; {model_label(best)} is the best of today", best)
        return _apply_guards(settings, verdict, None, None)
    same_kind = _same_kind_on_todays_data(current, trained)
    verdict = _compare_with_champion(settings, best, current, same_kind)
    if verdict.decision == "kept":
        return verdict
    guarded = _apply_guards(settings, verdict, pointer, current)
    if guarded.decision == "promoted" or same_kind is None or same_kind in (current, verdict.considered):
        return guarded
    return _apply_guards(settings, _keep_or_refresh(current, same_kind, guarded.reason), pointer, current)


def _compare_with_champion(
    settings: Settings, best: Artifact, current: Artifact, same_kind: Artifact | None
) -> Verdict:
    """The verdict before the guards: on the best model of today or on the model of the champion's kind."""
    if same_kind is None and _is_configured(settings, current):
        reason = (
            f"{model_label(current)}, the champion's kind, was not trained today, "
            f"so {model_label(best)} cannot be compared with it"
        )
        return Verdict("kept", reason, best, validation_value(settings, best))
    if same_kind is None:
        reason = f"the settings no longer train {model_label(current)}; {model_label(best)} is the best of today"
        return Verdict("promoted", reason, best)
    if _kind(best) == _kind(same_kind):
        return _keep_or_refresh(current, same_kind, "the best of today")
    wins, comparison, difference = _paired_comparison(settings, best, same_kind)
    if wins:
        return Verdict("promoted", comparison, best, difference=difference)
    if same_kind == current:
        return Verdict("kept", comparison, best, validation_value(settings, best), difference)
    return _keep_or_refresh(current, same_kind, comparison)


def _is_configured(settings: Settings, model: Artifact) -> bool:
    """Whether the settings train models of this kind; a run of fewer models is no reason to give it up."""
    parameters, train = model.manifest["parameters"], settings.train
    return (
        parameters["model"] in train.models
        and parameters["variant"] in train.variants
        and parameters["seed"] in train.seeds
    )


def _same_kind_on_todays_data(current: Artifact, trained: Sequence[Artifact]) -> Artifact | None:
    """The champion where it was trained on today's data, else its refresh; None where its kind was not trained."""
    if any(model.manifest["parents"] == current.manifest["parents"] for model in trained):
        return current
    return next((model for model in trained if _kind(model) == _kind(current)), None)


def _keep_or_refresh(current: Artifact, same_kind: Artifact, why: str) -> Verdict:
    if same_kind == current:
        return Verdict("kept", f"{model_label(current)} is the champion already, trained on the same data", current)
    reason = f"{model_label(same_kind)}, the champion's kind, is fitted on newer data ({why})"
    return Verdict("promoted", reason, same_kind)


def _paired_comparison(settings: Settings, best: Artifact, same_kind: Artifact) -> tuple[bool, str, Interval | None]:
    """(whether `best` beats `same_kind`, a sentence about it, the paired difference over their common users)."""
    min_users, metric = settings.promotion.min_users, settings.promotion.metric
    values, other_values = _values(settings, best), _values(settings, same_kind)
    paired = {user: value - other_values[user] for user, value in values.items() if user in other_values}
    difference = _interval(settings, paired)
    names = model_label(best), model_label(same_kind)
    if difference is None or len(paired) < min_users:
        few = f"{len(paired)} common users, and promotion.min_users requires {min_users}"
        return False, f"{names[0]} cannot be compared with {names[1]}: {few}", difference
    wins = difference.lo > settings.promotion.min_gain
    sentence = (
        f"{names[0]} {'beats' if wins else 'does not beat'} {names[1]}: {metric}@{K} {difference} over "
        f"{len(paired)} users, and promotion.min_gain requires more than {settings.promotion.min_gain:g}"
    )
    return wins, sentence, difference


def _apply_guards(
    settings: Settings, verdict: Verdict, pointer: Mapping[str, Any] | None, current: Artifact | None
) -> Verdict:
    """Add value and guards to a verdict; it becomes `kept` where a guard fails."""
    model = verdict.considered
    assert model is not None
    values = _values(settings, model)
    value = _interval(settings, values)
    if value is None:
        reason = f"{model_label(model)} is unmeasurable: it has no users with validation truth ({verdict.reason})"
        return replace(verdict, decision="kept", reason=reason)
    recorded = {
        setting: _recorded_value(settings, pointer, current, setting) if pointer and current else None
        for setting in (WARM, COLD)
    }
    guards = _guards(settings, model, len(values), value, recorded)
    failed = [_failure(settings, guard) for guard in guards if not guard.passed]
    figures = f"{settings.promotion.metric}@{K} {value}"
    if recorded[WARM] is not None:
        figures += f" where the champion had {recorded[WARM]:.4f}"
    reason = f"{verdict.reason}; {figures}"
    if failed:
        unmeasurable = any(guard.guard == "users" and not guard.passed for guard in guards)
        status = "unmeasurable" if unmeasurable else "kept out"
        reason = f"{model_label(model)} is {status}: {', '.join(failed)} ({reason})"
    return replace(verdict, decision="kept" if failed else "promoted", reason=reason, value=value, guards=guards)


def _recorded_value(settings: Settings, pointer: Mapping[str, Any], current: Artifact, setting: str) -> float | None:
    """The champion's value when it was promoted; from its artifact where another metric was primary then."""
    if pointer.get("metric") == settings.promotion.metric:
        value = pointer["value" if setting == WARM else "zero_shot"]
        return None if value is None else float(value)
    return mean_metric(current.path, setting, settings.promotion.metric)


def _guards(
    settings: Settings, model: Artifact, n_users: int, value: Interval, recorded: Mapping[str, float | None]
) -> tuple[Guard, ...]:
    """Every guard that has both a value and a bound."""
    policy, lists = settings.promotion, model.metrics["validation_lists"][WARM]
    interactions, format_share = _from_warehouse(settings)
    warm, cold = recorded[WARM], recorded[COLD]
    uses_profiles = model.manifest["parameters"]["variant"] == "augment"
    figures: dict[str, tuple[float | None, float | None]] = {
        "users": (n_users, policy.min_users),
        "interactions": (interactions, policy.min_interactions),
        "value": (value.hi, None if warm is None else (1 - policy.max_drop) * warm),
        "cold_value": (
            mean_metric(model.path, COLD, policy.metric),
            None if cold is None else (1 - policy.max_cold_drop) * cold,
        ),
        "coverage": (lists["coverage"], policy.min_coverage),
        "popularity_lift": (lists["popularity_lift"], policy.max_popularity_lift),
        "latency_ms": (lists["latency_ms"], policy.max_latency_ms),
        "format": (format_share if uses_profiles else None, policy.min_format),
    }
    return tuple(
        Guard(guard, float(figure), float(bound), figure <= bound if guard in UPPER_BOUNDS else figure >= bound)
        for guard, (figure, bound) in figures.items()
        if figure is not None and bound is not None
    )


def _from_warehouse(settings: Settings) -> tuple[int, float | None]:
    """(interactions known at the final snapshot, the lower of the shares of user and item profiles that parse)."""
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


def _failure(settings: Settings, guard: Guard) -> str:
    """A guard that failed, in words: what was measured, the bound and its setting."""
    direction = "above" if guard.guard in UPPER_BOUNDS else "below"
    setting, description = GUARDS[guard.guard]
    measured = description.format(metric=settings.promotion.metric)
    return f"{measured} {guard.value:.4g} is {direction} {guard.bound:.4g} (promotion.{setting})"


def _kind(model: Artifact) -> tuple[Any, Any, Any]:
    parameters = model.manifest["parameters"]
    return parameters["model"], parameters["variant"], parameters["seed"]


def _values(settings: Settings, model: Artifact) -> dict[str, float]:
    return metric_per_user(model.path, WARM, settings.promotion.metric)


def _interval(settings: Settings, values: Mapping[str, float]) -> Interval | None:
    """Mean and bootstrap bounds over users; None without users."""
    if not values:
        return None
    column = ("model", settings.promotion.metric, K)
    rows = np.fromiter(values.values(), np.float32, len(values))[:, None]
    resampled = over_users([column], rows, settings.evaluation.bootstrap, settings.seed, "promotion")
    return Interval(float(np.mean(list(values.values()))), *resampled.interval(column))
