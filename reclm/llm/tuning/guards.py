"""Stop the refinement when a metric of held-out answers gets too bad.

In: the metrics after each update. Out: the verdict of the guard that rejects the last ones, or None.

Reinforcement learning maximises a model of quality, not quality itself. Each guard is a pure function that compares the
last metrics with the first, which are those of the tuned model before any update. RecLM (arXiv 2412.19302, section 3.3)
refines against over-smoothing: `distinct` detects it. `reward_hacking_own` and `reward_hacking_ranking` detect a reward
that rises while what it should measure gets worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclm.settings.llm import RefineSettings


@dataclass(frozen=True)
class HeldOutMetrics:
    """Metrics of held-out answers, written as for serving, after `step` updates.

    `reward` is the mean reward and `reward_error` its standard error. `kl` is the divergence from the tuned model in
    nats per answer. `format` (well-formed answers) and `distinct` are shares, `own_minus_other` is a difference of
    cosines and `ranking` an AUC. A metric that cannot be measured is NaN.
    """

    step: int
    reward: float
    reward_error: float
    kl: float
    format: float
    distinct: float
    own_minus_other: float
    ranking: float


@dataclass(frozen=True)
class Verdict:
    """The guard that rejects a step, the step, and the reason as a sentence."""

    guard: str
    step: int
    reason: str


Guard = Callable[[Sequence[HeldOutMetrics], "RefineSettings"], "Verdict | None"]


def kl(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Reject a policy that is too far from the tuned model."""
    last = history[-1]
    if not last.kl <= settings.max_kl:  # also when it is NaN
        return Verdict(
            "kl", last.step, f"KL to the tuned model is {last.kl:.1f} nats per answer, over {settings.max_kl:g}"
        )
    return None


def well_formed(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Reject a policy that writes fewer well-formed answers."""
    first, last = history[0], history[-1]
    if first.format - last.format > settings.max_format_drop:
        return Verdict("format", last.step, f"well-formed answers fell from {first.format:.3f} to {last.format:.3f}")
    return None


def distinct(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Reject a policy that writes the same profile for more entities (over-smoothing)."""
    first, last = history[0], history[-1]
    if first.distinct - last.distinct > settings.max_distinct_drop:
        reason = f"distinct profiles fell from {first.distinct:.3f} to {last.distinct:.3f} (over-smoothing)"
        return Verdict("distinct", last.step, reason)
    return None


def reward_hacking_own(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Reject a policy whose reward rises while its answers describe their own entity less well."""
    first, last = history[0], history[-1]
    drop = first.own_minus_other - last.own_minus_other
    if last.reward > first.reward and drop > settings.max_own_drop:
        reason = f"the reward rose while own-minus-other similarity fell by {drop:.3f}"
        return Verdict("reward_hacking_own", last.step, reason)
    return None


def reward_hacking_ranking(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Reject a policy whose reward rises while withheld items are ranked less well by its profiles."""
    first, last = history[0], history[-1]
    drop = first.ranking - last.ranking
    if last.reward > first.reward and drop > settings.max_ranking_drop:
        reason = f"the reward rose while the withheld items' AUC by profile fell by {drop:.3f}"
        return Verdict("reward_hacking_ranking", last.step, reason)
    return None


GUARDS: Mapping[str, Guard] = {
    "kl": kl,
    "format": well_formed,
    "distinct": distinct,
    "reward_hacking_own": reward_hacking_own,
    "reward_hacking_ranking": reward_hacking_ranking,
}


def verdict(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """Return the verdict of the first guard that rejects the last metrics; None when no guard does."""
    found = (guard(history, settings) for guard in GUARDS.values())
    return next((one for one in found if one is not None), None)


def best(history: Sequence[HeldOutMetrics], settings: RefineSettings) -> HeldOutMetrics:
    """Return the metrics with the highest reward that no guard rejects; the first of equals, `history[0]` included."""
    allowed = [one for row, one in enumerate(history) if row == 0 or verdict(history[: row + 1], settings) is None]
    return max(allowed, key=lambda one: one.reward)
