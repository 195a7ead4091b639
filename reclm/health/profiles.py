"""Check profiles and the refined language model.

In: the current profiles and the newest refined model. Out: results on how distinct, how similar and how well formed
profiles are, and on reward hacking: a reward that rises while held-out ranking quality falls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS
from reclm.health.check_result import CheckResult
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import LANGUAGE_MODEL_CURVE, PROFILE_QUALITY
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.operations import HealthSettings
    from reclm.settings.tree import Settings

NO_PROFILES = "There are no profiles yet; run `reclm profile`."


def current_or_newest(workspace: Workspace) -> Artifact | None:
    """Return the profiles that the warehouse shows, else the newest; None when there are none."""
    from reclm.warehouse.sources import current_profiles

    return current_profiles(workspace)[0] if artifacts.all_of(workspace, "profiles") else None


def newest_refined(workspace: Workspace) -> Artifact | None:
    """Return the newest refined model, None when there is none."""
    found = artifacts.all_of(workspace, "refine")
    return found[-1] if found else None


def measure(settings: Settings) -> list[CheckResult]:
    """Run `profile_distinct`, `profile_similarity` and `profile_format` (users, items) and `reward_against_ranking`."""
    profiles = current_or_newest(settings.paths)
    rows = pq.read_table(profiles.path / "quality.parquet", schema=PROFILE_QUALITY).to_pylist() if profiles else []
    quality = {
        (row["kind"], row["metric"]): row["value"]
        for row in rows
        if (row["snapshot"], row["severity"]) == ("serve", "all")
    }
    results: list[CheckResult] = []
    for kind in ENTITY_KINDS:
        well_formed = _well_formed_share(profiles, kind) if profiles else None
        unknown = NO_PROFILES if profiles is None else ""
        results += _quality_results(settings.health, kind, quality, well_formed, unknown)
    return [*results, *_reward_results(settings)]


def _quality_results(
    health: HealthSettings,
    kind: str,
    quality: dict[tuple[str, str], float],
    well_formed: float | None,
    unknown: str,
) -> list[CheckResult]:
    no_profile = unknown or f"Every {kind} profile is empty, because nothing is known of any {kind}."
    alike = "Profiles sound alike (over-smoothing): refine again with a lower refine.max_distinct_drop, or tune longer."
    return [
        CheckResult(
            "profile_distinct", kind, quality.get((kind, "distinct")), health.min_distinct, None, alike, no_profile
        ),
        CheckResult(
            "profile_similarity",
            kind,
            quality.get((kind, "nearest_similarity")),
            None,
            health.max_similarity,
            alike,
            unknown or f"Fewer than two {kind} profiles can be compared.",
        ),
        CheckResult(
            "profile_format",
            kind,
            well_formed,
            health.min_format,
            None,
            "Profiles break the grammar: raise profiles.retries or llm.max_profile_tokens, "
            "then run `reclm profile --full`.",
            no_profile,
        ),
    ]


def _well_formed_share(profiles: Artifact, kind: str) -> float | None:
    """The share of profiles that parse; a profile that is empty because nothing was known does not count."""
    table = pq.read_table(profiles.path / f"{kind}_profiles.parquet", columns=["snapshot", "parse_status", "flag"])
    statuses = [
        row["parse_status"]
        for row in table.to_pylist()
        if row["snapshot"] == "serve" and not (row["flag"] and row["parse_status"] == "empty")
    ]
    return sum(status == "ok" for status in statuses) / len(statuses) if statuses else None


def _reward_results(settings: Settings) -> list[CheckResult]:
    """How far held-out ranking fell while the reward rose, at the step that was kept and at the last step."""
    refined = newest_refined(settings.paths)
    monitored = _held_out_metrics(refined) if refined else {}
    steps = {"kept": 0}
    if refined:
        steps = {"kept": int(refined.metrics.get("kept_step", 0)), "last": max(monitored, default=0)}
    unknown = "There is no refined model to check." if len(monitored) < 2 else ""
    return [
        CheckResult(
            "reward_against_ranking",
            subject,
            None if unknown else _ranking_drop(monitored[min(monitored)], monitored.get(step, {})),
            None,
            settings.health.max_ranking_drop,
            "The reward rose while ranking by the profiles fell: train the reward model again, or lower refine.steps.",
            unknown or "Held-out ranking was not measured; raise refine.held_out_sample.",
        )
        for subject, step in steps.items()
    ]


def _held_out_metrics(refined: Artifact) -> dict[int, dict[str, float]]:
    """{step: {metric: value}} on held-out users and items during refinement."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in pq.read_table(refined.path / "curve.parquet", schema=LANGUAGE_MODEL_CURVE).to_pylist():
        if row["metric"].startswith("held_out/"):
            by_step.setdefault(row["step"], {})[row["metric"].removeprefix("held_out/")] = row["value"]
    return by_step


def _ranking_drop(first: dict[str, float], later: dict[str, float]) -> float | None:
    """The drop of ranking quality; 0 where the reward did not rise, None where a value was not measured."""
    values = [metrics.get(name, math.nan) for name in ("reward", "ranking") for metrics in (first, later)]
    if any(value is None or math.isnan(value) for value in values):
        return None
    reward, later_reward, ranking, later_ranking = values
    return ranking - later_ranking if later_reward > reward else 0.0
