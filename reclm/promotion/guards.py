"""Hold a candidate against bounds that keep a bad model out, however it compares with others.

In: a candidate, its day's figures and the decisions of earlier days. Out: one `Guard` for each bound that can be
checked. Some guards look at the model alone. Some look back: at the best value that a champion of the last
`promotion.window_days` days had, so that small drops, each within `promotion.max_drop`, do not add up. Some look aside,
at popularity and EASE on the same day and users. The number of users and of interactions and the two baselines bind
only once a champion has kept them, because what a data set never had cannot be lost: a log too short to measure
anything, or one on which EASE is better than all models of `train.models`, is served by what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reclm.promotion.candidates import PROFILES, SETTING, Candidate, Interval, Values, candidate
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Row = Mapping[str, Any]
"""A decision as `fct_promotions` shows it."""
UPPER_BOUNDS = {"popularity_lift", "latency_ms"}
"""Guards whose bound is a maximum; the bound of every other guard is a minimum."""
BINDING_ONCE_KEPT = {"users", "interactions", "popularity", "ease"}
"""Guards that bind only where the newest champion they were checked for kept them."""
GUARDS = {
    "users": ("min_users", "users with validation truth"),
    "interactions": ("min_interactions", "known interactions"),
    "value": ("max_drop", "the upper bound of {metric}@20"),
    "cold_value": ("max_cold_drop", "{metric}@20 over cold items"),
    "popularity": ("max_below_baseline", "the upper bound of {metric}@20, beside popularity,"),
    "ease": ("max_below_baseline", "the upper bound of {metric}@20, beside EASE,"),
    "coverage": ("min_coverage", "share of candidates shown"),
    "popularity_lift": ("max_popularity_lift", "popularity above that of the users' own items"),
    "latency_ms": ("max_latency_ms", "milliseconds to rank all items for one user"),
    "format": ("min_format", "share of profiles that parse"),
}
"""{guard: (its setting in `promotion`, what it measures)}."""


@dataclass(frozen=True)
class Guard:
    """One bound: what was measured, whether it was kept, and whether a model that breaks it is kept out."""

    guard: str
    value: float
    bound: float
    passed: bool
    binding: bool

    @property
    def keeps_out(self) -> bool:
        return self.binding and not self.passed


@dataclass(frozen=True)
class Standards:
    """What every candidate of a day is held against.

    `interactions` are known at the snapshot `final`; `well_formed` is the lower of the shares of user and item profiles
    that parse. `best` and `best_cold` are the best recorded values, `baselines` the values of each baseline by user,
    and `kept` says of each guard whether the newest champion that it was checked for kept it.
    """

    interactions: int
    well_formed: float | None
    best: float | None
    best_cold: float | None
    baselines: Mapping[str, Values]
    kept: Mapping[str, bool]


def standards_of(
    settings: Settings, trained: Sequence[Artifact], current: Artifact | None, history: Sequence[Row]
) -> Standards:
    """Return the standards for the models `trained`.

    `current` is the measured model of the champion, `history` the rows of all decisions, oldest first.
    """
    interactions, well_formed = _from_warehouse(settings)
    best, best_cold = (None, None) if current is None else _best_recorded(settings, trained[0], current, history)
    kept: dict[str, bool] = {}
    for row in history:
        if row["decision"] != "kept":
            kept |= {guard["guard"]: guard["passed"] for guard in row["guards"]}
    baselines = _baselines(settings, trained[0].manifest["parents"])
    return Standards(interactions, well_formed, best, best_cold, baselines, kept if current else {})


def check(settings: Settings, one: Candidate, value: Interval | None, standards: Standards) -> tuple[Guard, ...]:
    """Check every guard that has both a value and a bound; `value` is the candidate's on the second half of users."""
    policy = settings.promotion
    lists = one.artifact.metrics["validation_lists"].get(SETTING, {})
    highest = None if value is None else value.hi
    figures: dict[str, tuple[float | None, float | None]] = {
        "users": (len({*one.first, *one.second}), policy.min_users),
        "interactions": (standards.interactions, policy.min_interactions),
        "value": (highest, _less(standards.best, policy.max_drop)),
        "cold_value": (one.cold, _less(standards.best_cold, policy.max_cold_drop)),
        **{
            name: (highest, _less(_mean_of(values, one.second), policy.max_below_baseline))
            for name, values in standards.baselines.items()
        },
        "coverage": (lists.get("coverage"), policy.min_coverage),
        "popularity_lift": (lists.get("popularity_lift"), policy.max_popularity_lift),
        "latency_ms": (lists.get("latency_ms"), policy.max_latency_ms),
        "format": (standards.well_formed if one.kind[1] == PROFILES else None, policy.min_format),
    }
    return tuple(
        Guard(
            guard,
            float(figure),
            float(bound),
            figure <= bound if guard in UPPER_BOUNDS else figure >= bound,
            guard not in BINDING_ONCE_KEPT or standards.kept.get(guard, False),
        )
        for guard, (figure, bound) in figures.items()
        if figure is not None and bound is not None
    )


def failures(settings: Settings, guards: Sequence[Guard]) -> str:
    """Return the guards that keep a model out in words: what was measured, the bound and its setting; '' for none."""
    return ", ".join(_in_words(settings, guard) for guard in guards if guard.keeps_out)


def _in_words(settings: Settings, guard: Guard) -> str:
    direction = "above" if guard.guard in UPPER_BOUNDS else "below"
    setting, description = GUARDS[guard.guard]
    measured = description.format(metric=settings.promotion.metric)
    return f"{measured} {guard.value:.4g} is {direction} {guard.bound:.4g} (promotion.{setting})"


def _best_recorded(
    settings: Settings, today: Artifact, current: Artifact, history: Sequence[Row]
) -> tuple[float | None, float | None]:
    """The best values that count: (over SETTING, over new items).

    They are those of the champion itself and of the champions before it, back to the last one that a person chose and
    no further than the window, by the as-of of the data and by the clock.
    """
    own = candidate(settings, [current])
    warm = [fmean(own.second.values())] if own.is_measured else []
    cold = [own.cold] if own.cold is not None else []
    window = timedelta(days=settings.promotion.window_days)
    oldest = {
        "as_of": datetime.fromisoformat(today.metrics["as_of"]) - window,
        "decided_at": datetime.now(UTC) - window,
    }
    for row in reversed(history):
        if any(datetime.fromisoformat(row[moment]) < limit for moment, limit in oldest.items()):
            break
        measured_alike = (row["metric"], row.get("setting")) == (settings.promotion.metric, SETTING)
        if row["decision"] != "kept" and measured_alike:
            warm += [row["candidate_value"]] if row["candidate_value"] is not None else []
            cold += [row["candidate_cold"]] if row["candidate_cold"] is not None else []
        if row["decided_by"] == "hand":
            break
    return max(warm, default=None), max(cold, default=None)


def _baselines(settings: Settings, parents: Mapping[str, str]) -> dict[str, Values]:
    """{baseline: its values by user} on the day's validation slice; empty where they were not measured."""
    from reclm.training.baselines import BASELINES, find_baselines
    from reclm.training.validation import metric_per_user

    measured = find_baselines(settings, parents)
    if measured is None:
        return {}
    return {name: metric_per_user(measured.path / name, SETTING, settings.promotion.metric) for name in BASELINES}


def _from_warehouse(settings: Settings) -> tuple[int, float | None]:
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


def _less(value: float | None, share: float) -> float | None:
    return None if value is None else (1 - share) * value


def _mean_of(values: Values, users: Values) -> float | None:
    common = [values[user] for user in users if user in values]
    return fmean(common) if common else None
