"""Guards of the refinement: what was seen of held-out answers, look by look, comes in, a verdict that stops it goes out.

Reinforcement learning maximises a model of quality, not quality. Each guard is a pure function that compares the last look
with the first one, which is the tuned model before any update. RecLM (arXiv 2412.19302, section 3.3) refines against
over-smoothing; `distinct` sees it, `own` and `ranking` see a reward that rises for something else than what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclm.settings.llm import RefineSettings


@dataclass(frozen=True)
class HeldOutMetrics:
    """Held-out answers, as they are served, after `step` updates.

    `reward` is their mean with its standard error, `kl` the divergence from the tuned model in nats an answer, `distinct` a
    share, as is `format` of the well-formed, `own_minus_other` a difference of cosines, `ranking` an AUC. NaN: could not be
    seen.
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
    """Which guard rejects which step, and why, in a sentence."""

    guard: str
    step: int
    reason: str


Guard = Callable[[Sequence[HeldOutMetrics], "RefineSettings"], "Verdict | None"]


def kl(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    last = looks[-1]
    if not last.kl <= settings.max_kl:  # also when it is no number
        return Verdict(
            "kl", last.step, f"KL to the tuned model is {last.kl:.1f} nats an answer, over {settings.max_kl:g}"
        )
    return None


def well_formed(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    first, last = looks[0], looks[-1]
    if first.format - last.format > settings.max_format_drop:
        return Verdict("format", last.step, f"well-formed answers fell from {first.format:.3f} to {last.format:.3f}")
    return None


def distinct(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    first, last = looks[0], looks[-1]
    if first.distinct - last.distinct > settings.max_distinct_drop:
        reason = f"distinct profiles fell from {first.distinct:.3f} to {last.distinct:.3f} (over-smoothing)"
        return Verdict("distinct", last.step, reason)
    return None


def reward_hacking_own(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    first, last = looks[0], looks[-1]
    fall = first.own_minus_other - last.own_minus_other
    if last.reward > first.reward and fall > settings.max_own_drop:
        reason = f"the reward rose while own-minus-other similarity fell by {fall:.3f}"
        return Verdict("reward_hacking_own", last.step, reason)
    return None


def reward_hacking_ranking(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    first, last = looks[0], looks[-1]
    fall = first.ranking - last.ranking
    if last.reward > first.reward and fall > settings.max_ranking_drop:
        reason = f"the reward rose while the withheld items' AUC by profile fell by {fall:.3f}"
        return Verdict("reward_hacking_ranking", last.step, reason)
    return None


GUARDS: Mapping[str, Guard] = {
    "kl": kl,
    "format": well_formed,
    "distinct": distinct,
    "reward_hacking_own": reward_hacking_own,
    "reward_hacking_ranking": reward_hacking_ranking,
}


def verdict(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> Verdict | None:
    """What the first guard that rejects the last look says; None when none does."""
    found = (guard(looks, settings) for guard in GUARDS.values())
    return next((one for one in found if one is not None), None)


def best(looks: Sequence[HeldOutMetrics], settings: RefineSettings) -> HeldOutMetrics:
    """The look of the highest reward among those that no guard rejects; the first of equals. `looks[0]` always stands."""
    allowed = [look for row, look in enumerate(looks) if row == 0 or verdict(looks[: row + 1], settings) is None]
    return max(allowed, key=lambda look: look.reward)
