"""Order today's models as candidates for champion.

In: the finished `backbone` artifacts of one day. Out: candidates in the order in which the policy considers them. A
candidate is a *kind* of model, backbone and variant, and its value the mean over its seeds. The users with validation
truth are divided into two halves by a hash of their ids: candidates are ordered by their values on the first half,
and compared and guarded by those on the second, because the best of many looks better than it is on the users that it
was chosen on (the winner's curse). Backbones with profiles (`augment`) come before the same without (`base`) unless
those are better for certain. The `shuffled` control is never a candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reclm.dataset import SERVED, EvaluationSetting
from reclm.evaluation.intervals import over_users
from reclm.storage.artifacts import Artifact
from reclm.training.validation import mean_metric, metric_per_user

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

K = 20
SETTING: EvaluationSetting = SERVED
"""The evaluation setting by which champions are chosen, compared and guarded: that of the lists that are served."""
COLD: EvaluationSetting = "zero_shot"
"""The evaluation setting of the guard on new items."""
PROFILES, NO_PROFILES, CONTROL = "augment", "base", "shuffled"

Values = Mapping[str, float]
"""{user id: value of the primary metric at K}."""


class Interval(NamedTuple):
    """A mean over users, or a mean difference, with its 95 % bounds."""

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lo:.4f}, {self.hi:.4f}]"


@dataclass(frozen=True)
class Candidate:
    """A kind of model on one day's data.

    `artifact` is the model that would serve: of its seeds the best on the first half. `first` and `second` are the
    values of the users of each half, `cold` the mean over new items; all are means over the `seeds`.
    """

    artifact: Artifact
    seeds: tuple[int, ...]
    first: Values
    second: Values
    cold: float | None

    @property
    def kind(self) -> tuple[str, str]:
        """The backbone and the variant."""
        parameters = self.artifact.manifest["parameters"]
        return str(parameters["model"]), str(parameters["variant"])

    @property
    def label(self) -> str:
        return "/".join(self.kind)

    @property
    def is_measured(self) -> bool:
        return bool(self.second)


def model_label(model: Artifact) -> str:
    """Return `model/variant`, such as `lightgcn/augment`."""
    parameters = model.manifest["parameters"]
    return f"{parameters['model']}/{parameters['variant']}"


def candidates_of(settings: Settings, trained: Sequence[Artifact]) -> list[Candidate]:
    """Return one candidate for each kind among the models of one day, the control left out."""
    kinds: dict[str, list[Artifact]] = {}
    for model in trained:
        kinds.setdefault(model_label(model), []).append(model)
    return [
        candidate(settings, models)
        for models in kinds.values()
        if models[0].manifest["parameters"]["variant"] != CONTROL
    ]


def candidate(settings: Settings, models: Sequence[Artifact]) -> Candidate:
    """Return the candidate that models of one kind and day make, one model a seed."""
    metric = settings.promotion.metric
    values = [metric_per_user(model.path, SETTING, metric) for model in models]
    first, second = halves(settings, _mean_over_seeds(values))
    of_first = [fmean(each[user] for user in first) if first else 0.0 for each in values]
    best = max(range(len(models)), key=lambda row: (of_first[row], -_seed(models[row])))
    cold = [value for model in models if (value := mean_metric(model.path, COLD, metric)) is not None]
    return Candidate(models[best], tuple(sorted(map(_seed, models))), first, second, fmean(cold) if cold else None)


def why_unmeasurable(settings: Settings, candidates: Sequence[Candidate]) -> str:
    """Return why validation cannot tell these candidates apart; '' where it can.

    To people without a history every model shows much the same, so their values compare nothing.
    """
    from reclm.warehouse.reading import connect

    if not any(one.is_measured for one in candidates):
        return "no user has validation truth"
    with connect(settings) as connection:
        known = connection.execute(
            "select 1 from fct_truth as truth inner join fct_known_interactions as known "
            "on known.snapshot = truth.snapshot and known.user_id = truth.user_id "
            "where truth.snapshot = 'select' and truth.setting = ? limit 1",
            [SETTING],
        ).fetchall()
    return "" if known else "nobody has both a history and validation truth"


def halves(settings: Settings, values: Values) -> tuple[Values, Values]:
    """Divide the users into those to choose on and those to compare on, the same ones every day.

    Where a half would have fewer than `promotion.min_users` users, all of them stand in both.
    """
    first = {user: value for user, value in values.items() if is_in_first_half(user, settings.seed)}
    second = {user: value for user, value in values.items() if user not in first}
    return (first, second) if min(len(first), len(second)) >= settings.promotion.min_users else (values, values)


def is_in_first_half(user_id: str, seed: int) -> bool:
    """Return whether candidates are chosen on this user; models are compared on the others."""
    return hashlib.sha256(f"{seed}/{user_id}".encode()).digest()[0] % 2 == 0


def in_order(settings: Settings, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the measured candidates, best value on the first half first, profiles preferred where not worse.

    Profiles are worse where the paired difference of `base` and `augment` of a backbone lies above 0 with its whole
    interval, on the first half.
    """
    by_value = sorted(
        (one for one in candidates if one.is_measured), key=lambda one: (-fmean(one.first.values()), one.label)
    )
    with_profiles = {one.kind[0]: one for one in by_value if one.kind[1] == PROFILES}
    ordered: list[Candidate] = []
    for one in by_value:
        other = with_profiles.get(one.kind[0])
        if one.kind[1] == NO_PROFILES and other is not None and other not in ordered:
            gap = paired_difference(settings, one.first, other.first)
            if gap is None or gap.lo <= 0:
                ordered.append(other)
        if one not in ordered:
            ordered.append(one)
    return ordered


def mean_interval(settings: Settings, values: Values) -> Interval | None:
    """Return the mean and its bootstrap bounds over users; None without users."""
    if not values:
        return None
    column = ("model", settings.promotion.metric, K)
    rows = np.fromiter(values.values(), np.float32, len(values))[:, None]
    resampled = over_users([column], rows, settings.evaluation.bootstrap, settings.seed, "promotion")
    return Interval(fmean(values.values()), *resampled.interval(column))


def paired_difference(settings: Settings, one: Values, other: Values) -> Interval | None:
    """Return the mean of `one` minus `other` over their common users, with bounds; None without common users."""
    return mean_interval(settings, {user: value - other[user] for user, value in one.items() if user in other})


def _mean_over_seeds(values: Sequence[Values]) -> Values:
    """The mean of each user whom the models of all seeds were measured on."""
    common = [user for user in values[0] if all(user in each for each in values)]
    return {user: fmean(each[user] for each in values) for user in common}


def _seed(model: Artifact) -> int:
    return int(model.manifest["parameters"]["seed"])
