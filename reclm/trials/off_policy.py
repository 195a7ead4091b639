"""Estimate the click rate of a model that was never shown, from lists that another one showed.

In: logged lists (whose, the propensity of each item, what was clicked), and at which place of its own list the other
model, the *target*, would have shown each item. Out: the target's click rate with a 95 % interval, or in words why the
log cannot tell.

A click is taken to need two things: the user looks at the place, and likes the item (the position-based model; Li et
al. 2018, arXiv 1804.10488). How much a place p is looked at, look(p), is its click rate in explored lists, where every
item is as likely at every place (Joachims, Swaminathan & Schnabel 2017, arXiv 1608.04468). Each item of the target's
list that the log shows is then weighted up by its propensity, and by the look of its place there over its place here:

    w = 1 / propensity        rate = mean look * sum(w click look(there) / look(here)) / sum(w look(there))

The sums are self-normalised (Swaminathan & Joachims 2015, NeurIPS), and `sum(w look(there))` falls short of its
expectation where the log could not show what the target would. Weights are not clipped: exploration bounds them by
pool / (share k), and clipping would add a bias that no interval shows.

Bias and variance are those of the jackknife over groups of users (Quenouille 1956, Kott 2001), so that they include how
well the looks are known; the interval is Wilson's (1927) for the number of places that has this variance (Korn &
Graubard 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.trials.exploration import is_explored

Z = 1.96
GROUPS = 1000
MIN_CLICKS = 10
"""Clicks in explored lists that each place needs, so that it is known how much it is looked at."""
MIN_EFFECTIVE = 30
"""The effective number of places below which the log cannot tell; Wilson's interval then spans a third of the scale."""
MIN_SUPPORT = 0.9
"""The share of the target's places that the log must be able to show."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LoggedLists:
    """Lists of `k` places that were shown.

    `users` (n_lists,) numbers their users, `propensities` (n_lists, k) are the probabilities with which each item was
    in its list, `clicked` is (n_lists, k).
    """

    users: NDArray[np.int64]
    propensities: Floats
    clicked: NDArray[np.bool_]


class ClickRate(NamedTuple):
    """A click rate per place with 95 % bounds.

    `support` is the estimated share of the target's places whose items the log could show; `effective` is the number of
    places, shown by the target itself, that would tell as much.
    """

    value: float
    lo: float
    hi: float
    support: float
    effective: float


class _Sums(NamedTuple):
    """Sums over logged lists, one row a group of users.

    Of explored lists the places and clicks (groups, k); of the target's items the weights and weighted clicks by the
    place here and the place there (groups, k, k); the number of lists (groups,).
    """

    explored: Floats
    explored_clicks: Floats
    weights: Floats
    clicks: Floats
    lists: Floats


def estimate_click_rate(log: LoggedLists, target_place: NDArray[np.int64]) -> ClickRate:
    """Estimate the target's click rate per place.

    `target_place` (n_lists, k) is the place, from 0, of each logged item in the list that the target would show; -1
    where it is not in that list. Raises ModelError where a propensity is no probability above 0, where the log cannot
    show what the target would (`MIN_SUPPORT`), or where it tells too little (`MIN_CLICKS`, `MIN_EFFECTIVE`).
    """
    _require_probabilities(log.propensities)
    sums = _sum_by_group(log, target_place)
    whole = _Sums(*(part.sum(axis=0, keepdims=True) for part in sums))
    _require_looks(whole)
    without_one = _Sums(*(total - part for total, part in zip(whole, sums, strict=True)))
    with np.errstate(divide="ignore", invalid="ignore"):  # one group may have all clicks of a place: refused below
        supports, values = _support(without_one), _rate(without_one)
        support, uncorrected = float(_support(whole)[0]), float(_rate(whole)[0])
    error = Z * float(np.sqrt(_jackknife(supports)))
    if support + error < MIN_SUPPORT:
        raise ModelError(
            f"the log could have shown only about {support:.0%} of what the model would show, and {MIN_SUPPORT:.0%} "
            "are needed: its items are not among those that exploration draws from; raise serve.exploration_pool, or "
            "try the model with `reclm challenge`"
        )
    variance = _jackknife(values)
    value = float(np.clip(uncorrected - (len(values) - 1) * (values.mean() - uncorrected), 0, 1))
    effective = value * (1 - value) / variance if variance > 0 else 0.0
    if effective < MIN_EFFECTIVE:
        raise ModelError(
            f"the {len(log.users):,} logged lists tell as much about the model as {effective:.0f} places of its own, "
            f"and {MIN_EFFECTIVE} are needed; wait for more lists or raise serve.exploration"
        )
    return ClickRate(value, *wilson(value, effective), support, effective)


def click_rate_of_shown(log: LoggedLists) -> ClickRate:
    """Measure the click rate per place of the logging model itself, over the lists that were not drawn at random."""
    own = ~is_explored(log.propensities)
    if not own.any():
        raise ModelError("every logged list was drawn at random, so the model that logged them was never shown itself")
    _, user = np.unique(log.users[own], return_inverse=True)
    n_groups = min(int(user.max()) + 1, GROUPS)
    group, k = user % n_groups, log.clicked.shape[1]
    clicks = np.bincount(group, log.clicked[own].sum(axis=1), n_groups)
    places = np.bincount(group, minlength=n_groups) * float(k)
    value = float(clicks.sum() / places.sum())
    variance = 0.0
    if n_groups > 1:
        variance = _jackknife((clicks.sum() - clicks) / (places.sum() - places))
    effective = value * (1 - value) / variance if variance > 0 else float(places.sum())
    return ClickRate(value, *wilson(value, effective), 1.0, effective)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % bounds of a share that was measured on `n` draws (Wilson 1927); `n` need not be whole."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _require_probabilities(propensities: Floats) -> None:
    wrong = np.argwhere(~((propensities > 0) & (propensities <= 1)))
    if len(wrong):
        row, place = wrong[0]
        raise ModelError(
            f"the propensity at place {place + 1} of logged list {row} is {propensities[row, place]}, and must be "
            "above 0 and at most 1; estimate from lists that were logged with their propensities"
        )


def _require_looks(whole: _Sums) -> None:
    fewest = int(whole.explored_clicks.min())
    if fewest < MIN_CLICKS:
        raise ModelError(
            f"place {int(whole.explored_clicks.argmin()) + 1} of explored lists has {fewest} clicks, and {MIN_CLICKS} "
            "are needed to know how much each place is looked at; set serve.exploration above 0 and wait for more lists"
        )


def _sum_by_group(log: LoggedLists, target_place: NDArray[np.int64]) -> _Sums:
    k = log.propensities.shape[1]
    _, user = np.unique(log.users, return_inverse=True)
    n_groups = min(int(user.max(initial=-1)) + 1, GROUPS)
    group = user % n_groups
    explored = is_explored(log.propensities)
    clicks, places = np.zeros((n_groups, k)), np.zeros((n_groups, k))
    np.add.at(clicks, group[explored], log.clicked[explored])
    np.add.at(places, group[explored], 1.0)
    row, here = np.nonzero(target_place >= 0)
    cell = (group[row] * k + here) * k + target_place[row, here]
    weight = 1 / log.propensities[row, here]
    weights, weighted = (
        np.bincount(cell, values, n_groups * k * k).astype(np.float64).reshape(n_groups, k, k)
        for values in (weight, weight * log.clicked[row, here])
    )
    return _Sums(places, clicks, weights, weighted, np.bincount(group, minlength=n_groups).astype(np.float64))


def _looks(sums: _Sums) -> Floats:
    """How much each place is looked at, as a multiple of the mean place: (groups, k)."""
    rates = sums.explored_clicks / sums.explored
    return np.asarray(rates / rates.mean(axis=1, keepdims=True))


def _support(sums: _Sums) -> Floats:
    """The mean weight of the target's places: 1 where the log can show all of them. (groups,)."""
    k = sums.weights.shape[1]
    return np.asarray(np.einsum("gpq,gq->g", sums.weights, _looks(sums)) / (sums.lists * k))


def _rate(sums: _Sums) -> Floats:
    """The self-normalised estimate of the target's click rate: (groups,)."""
    look = _looks(sums)
    clicks = np.einsum("gpq,gq,gp->g", sums.clicks, look, 1 / look)
    return np.asarray(clicks / np.einsum("gpq,gq->g", sums.weights, look))


def _jackknife(without_one: Floats) -> float:
    """The variance of an estimate from its values without each group: (groups,)."""
    n = len(without_one)
    return float(((without_one - without_one.mean()) ** 2).sum() * (n - 1) / n)
