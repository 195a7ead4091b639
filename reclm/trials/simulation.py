"""Check estimates of click rates against a shop whose truth is known: the demo shop.

In: the size of a shop and a seed. Out: what a model that was never shown would truly earn, and what the log of another
one says about it. Users ask at random, item-kNN answers with exploration, and users click by the preferences that made
the shop's log (`World.preferences`): a place is looked at with probability 1 / sqrt(place), and an item that is looked
at is clicked with probability lift / (lift + 4), where lift is how much likelier than chance the user's next visit
picks it. The true click rate of a list is then a sum, without chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.baselines import fit_baseline
from reclm.backbones.ranking import top_k
from reclm.dataset import TrainingData
from reclm.errors import ModelError
from reclm.ingest.demo import World
from reclm.settings.data import DemoSettings
from reclm.trials.exploration import explore
from reclm.trials.off_policy import ClickRate, LoggedLists, estimate_click_rate

PLACES = 10
HALF_LIFT = 4.0
NOISE = 1.0
SHOWN = "itemknn"
NEVER_SHOWN = ("ease", "content_knn", "noisy_truth")
Lists = NDArray[np.int32]


class SimulatedLog(NamedTuple):
    """Lists as a service would log them, and their items (n_lists, PLACES)."""

    lists: LoggedLists
    items: Lists


class Outcome(NamedTuple):
    """What a model never shown truly earns, and what a log said about it: an estimate, or why it could not tell."""

    model: str
    truth: float
    estimate: ClickRate | None
    refusal: str

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.estimate is not None and self.estimate.lo <= self.truth <= self.estimate.hi


@dataclass(frozen=True)
class Shop:
    """A demo shop with its log as training data, the clicks its users would make, and models of its log."""

    demo: DemoSettings
    seed: int

    @cached_property
    def world(self) -> World:
        return World(self.demo, self.seed)

    @cached_property
    def data(self) -> TrainingData:
        """The whole log: what every model is fitted on, and what no list holds again."""
        world, shape = self.world, (self.demo.users, self.demo.items)
        log = [world.events(chunk) for chunk in range(len(world.chunks))]
        user, item = (np.concatenate([part[name].to_numpy() for part in log]) for name in ("user_index", "item_index"))
        known = sparse.csr_matrix((np.ones(len(user), np.float32), (user, item)), shape=shape)
        about = world.items()
        texts = [f"{title} {text or ''}" for title, text in zip(*map(about.column, ("title", "text")), strict=True)]
        return TrainingData("final", np.arange(shape[0]).astype(str), np.arange(shape[1]).astype(str), known, texts)

    @cached_property
    def click_rates(self) -> NDArray[np.float64]:
        """The probability that a user clicks an item they look at: (n_users, n_items)."""
        lift = self.world.preferences() * self.demo.items
        return lift / (lift + HALF_LIFT)

    def rankings(self, model: str, depth: int) -> Lists:
        """Rank the items each user does not know with a baseline or the `noisy_truth`: (n_users, depth)."""
        if model == "noisy_truth":
            noise = self.world.rng("noise").normal(0, NOISE, self.click_rates.shape)
            scores = (np.log(self.click_rates + 1e-6) + noise).astype(np.float32)
        else:
            scores = fit_baseline(model, self.data, self.seed).score(np.arange(self.demo.users))
        scores[self.data.interactions.nonzero()] = -np.inf
        return top_k(scores, depth)

    def truth(self, lists: Lists) -> float:
        """Compute the click rate per place of lists (n_users, PLACES) when every user asks equally often."""
        liked = np.take_along_axis(self.click_rates, lists.astype(np.int64), axis=1)
        return float((liked * looks()).mean())

    def log(self, ranking: Lists, n_requests: int, share: float, pool: int, seed: int) -> SimulatedLog:
        """Answer `n_requests` of random users from `ranking` (n_users, depth) with exploration, and draw the clicks."""
        random = np.random.default_rng([self.seed, seed])
        users = random.integers(0, self.demo.users, n_requests)
        shown = [
            explore(ranking.shape[1], PLACES, share=share, pool=pool, request_id=f"{self.seed}-{seed}-{n}")
            for n in range(n_requests)
        ]
        items = np.take_along_axis(ranking[users], np.stack([one.order for one in shown]), axis=1)
        clicked = random.random(items.shape) < self.click_rates[users[:, None], items] * looks()
        return SimulatedLog(LoggedLists(users, np.stack([one.propensities for one in shown]), clicked), items)


def looks() -> NDArray[np.float64]:
    """Return the probability that a user looks at each place: (PLACES,)."""
    return 1 / np.sqrt(np.arange(1, PLACES + 1))


def estimate(log: SimulatedLog, target: Lists) -> ClickRate:
    """Estimate from a log what the lists `target` (n_users, PLACES) would earn."""
    same = target[log.lists.users][:, None, :] == log.items[:, :, None]
    return estimate_click_rate(log.lists, np.where(same.any(axis=2), same.argmax(axis=2), -1))


def simulate(
    demo: DemoSettings, seed: int, *, n_requests: int, share: float, pool: int, n_logs: int = 1
) -> Iterator[Outcome]:
    """Make one shop and `n_logs` logs of it; yield one outcome for each log and each model that was never shown."""
    shop = Shop(demo, seed)
    shown = shop.rankings(SHOWN, max(pool, PLACES))
    targets = {model: shop.rankings(model, PLACES) for model in NEVER_SHOWN}
    for number in range(n_logs):
        log = shop.log(shown, n_requests, share, pool, number)
        for model, target in targets.items():
            try:
                estimated, refusal = estimate(log, target), ""
            except ModelError as error:
                estimated, refusal = None, str(error)
            yield Outcome(model, shop.truth(target), estimated, refusal)
