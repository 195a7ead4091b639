"""Describe what the policy would do, for the person who is asked to approve it.

In: today's finished models. Out: Markdown with the candidate's name, its figures, what the guards found, and where the
report is. Nothing is written and nothing is switched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.promotion import champion
from reclm.promotion.candidates import SETTING, K
from reclm.promotion.guards import GUARDS, UPPER_BOUNDS, Guard
from reclm.promotion.policy import Verdict, apply_policy, model_label
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def proposal(settings: Settings, trained: Sequence[Artifact], report: Path) -> str:
    """Return what a person approves or rejects, '' where the policy would keep the champion and asks nothing."""
    verdict = apply_policy(settings, trained)
    if verdict.decision == "kept" or verdict.considered is None:
        return ""
    guards = [_guard(settings, guard) for guard in verdict.guards]
    return "\n".join(
        [
            f"**Candidate**: {model_label(verdict.considered)}, version {verdict.considered.version}",
            f"\n**Champion now**: {_champion(settings)}",
            f"\n**Why**: {verdict.reason}",
            f"\n| figure | value [95 % interval] |\n|---|---|\n{_figures(settings, verdict)}",
            "\n| guard | value | bound | |\n|---|---|---|---|",
            *guards,
            f"\n**Report**: {report}. Figures on the test slice: `fct_evaluation`.",
        ]
    )


def _champion(settings: Settings) -> str:
    pointer = champion.find(settings)
    if pointer is None:
        return "none"
    value = (
        "not measured" if pointer["value"] is None else f"{pointer['metric']}@{K} {pointer['value']:.4f} when promoted"
    )
    return f"{pointer['model']}/{pointer['variant']}, version {pointer['measured']}, {value}"


def _figures(settings: Settings, verdict: Verdict) -> str:
    name = f"{settings.promotion.metric}@{K}"
    rows = {
        f"{name}, {SETTING}, validation slice": verdict.value or "not measured",
        "difference to the champion's kind on the same data": verdict.difference or "none: it is of that kind",
        f"{name}, cold items": "not measured" if verdict.cold is None else f"{verdict.cold:.4f}",
    }
    return "\n".join(f"| {figure} | {value} |" for figure, value in rows.items())


def _guard(settings: Settings, guard: Guard) -> str:
    description = GUARDS[guard.guard][1].format(metric=settings.promotion.metric).rstrip(",")
    direction = "at most" if guard.guard in UPPER_BOUNDS else "at least"
    kept = "kept" if guard.passed else "broken, not binding"
    return f"| {description} | {guard.value:.4g} | {direction} {guard.bound:.4g} | {kept} |"
