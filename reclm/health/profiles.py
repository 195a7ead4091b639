"""What was written: the current profiles and the newest refined model come in, checks of both go out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.health.measured import Measured
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.operations import HealthSettings
    from reclm.settings.tree import Settings

KINDS = ("user", "item")
NO_PROFILES = "There are no profiles yet; run `reclm profile`."


def current(workspace: Workspace) -> Artifact | None:
    """The profiles that the warehouse shows, else the newest, None when there are none."""
    from reclm.warehouse.sources import current_profiles

    return current_profiles(workspace) if artifacts.all_of(workspace, "profiles") else None


def newest_refined(workspace: Workspace) -> Artifact | None:
    """The newest refined model, None when there is none."""
    found = artifacts.all_of(workspace, "refine")
    return found[-1] if found else None


def measure(settings: Settings) -> list[Measured]:
    """Rows of `profile_distinct`, `profile_similarity`, `profile_format` (users and items) and `reward_against_ranking`."""
    profiles = current(settings.paths)
    quality = pq.read_table(profiles.path / "quality.parquet").to_pylist() if profiles else []
    found = {
        (row["kind"], row["metric"]): row["value"]
        for row in quality
        if (row["snapshot"], row["severity"]) == ("final", "all")
    }
    rows: list[Measured] = []
    for kind in KINDS:
        well_formed = _well_formed(profiles, kind) if profiles else None
        rows += _of_kind(settings.health, kind, found, well_formed, NO_PROFILES if profiles is None else "")
    return [*rows, *_reward(settings)]


def _of_kind(
    health: HealthSettings, kind: str, found: dict[tuple[str, str], float], well_formed: float | None, why: str
) -> list[Measured]:
    too_few = why or f"Nothing is known of any {kind}, so no profile of one says anything."
    smooth = (
        "Profiles sound alike (over-smoothing): refine again with a lower refine.max_distinct_drop, or tune longer."
    )
    return [
        Measured("profile_distinct", kind, found.get((kind, "distinct")), health.min_distinct, None, smooth, too_few),
        Measured(
            "profile_similarity",
            kind,
            found.get((kind, "nearest_similarity")),
            None,
            health.max_similarity,
            smooth,
            why or f"Fewer than two profiles of a {kind} can be compared.",
        ),
        Measured(
            "profile_format",
            kind,
            well_formed,
            health.min_format,
            None,
            "Profiles break the grammar: raise profiles.retries or llm.max_profile_tokens, then run `reclm profile --full`.",
            too_few,
        ),
    ]


def _well_formed(profiles: Artifact, kind: str) -> float | None:
    """Share of the profiles that parse. One left empty because nothing is known of its entity is not written badly."""
    table = pq.read_table(profiles.path / f"{kind}_profiles.parquet", columns=["snapshot", "parse_status", "flag"])
    statuses = [
        row["parse_status"]
        for row in table.to_pylist()
        if row["snapshot"] == "final" and not (row["flag"] and row["parse_status"] == "empty")
    ]
    return sum(status == "ok" for status in statuses) / len(statuses) if statuses else None


def _reward(settings: Settings) -> list[Measured]:
    """By how much held-out ranking fell while the reward rose, in the state that was kept and in the last one seen."""
    refined = newest_refined(settings.paths)
    looks = _looks(refined) if refined else {}
    steps = (
        {"kept": int(refined.metrics.get("kept_step", 0)), "last": max(looks, default=0)} if refined else {"kept": 0}
    )
    why = "No model was refined; nothing to hold the reward against." if len(looks) < 2 else ""
    return [
        Measured(
            "reward_against_ranking",
            subject,
            None if why else _fall(looks[min(looks)], looks.get(step, {})),
            None,
            settings.health.max_ranking_drop,
            "The reward rose while ranking by the profiles fell: train the reward model again, or lower refine.steps.",
            why or "Held-out ranking could not be seen; raise refine.held_out_sample.",
        )
        for subject, step in steps.items()
    ]


def _looks(refined: Artifact) -> dict[int, dict[str, float]]:
    """{step: {metric: value}} of what was seen of held-out answers."""
    looks: dict[int, dict[str, Any]] = {}
    for row in pq.read_table(refined.path / "curve.parquet").to_pylist():
        if row["metric"].startswith("held_out/"):
            looks.setdefault(row["step"], {})[row["metric"].removeprefix("held_out/")] = row["value"]
    return looks


def _fall(first: dict[str, float], then: dict[str, float]) -> float | None:
    """How far ranking fell; 0 where the reward did not rise, None where either could not be seen."""
    values = [look.get(name, math.nan) for name in ("reward", "ranking") for look in (first, then)]
    if any(value is None or math.isnan(value) for value in values):
        return None
    reward, reward_then, ranking, ranking_then = values
    return ranking - ranking_then if reward_then > reward else 0.0
