"""Find what the report's first screen is about: the model, the metric, and whether profiles help in each setting.

In: `Sources`, the rows of the newest evaluation. Out: `Findings`. `reclm.evaluation.verdicts` judges differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reclm.evaluation.report.sources import Sources
from reclm.evaluation.verdicts import Row, profiles_verdict
from reclm.settings.tree import Settings

WARM, COLD = "full_shot", "zero_shot"
METRIC_NAMES = {"recall": "Recall", "ndcg": "NDCG"}
K = 20


@dataclass(frozen=True)
class Subject:
    """The model that the answers are about: the champion, or the best model while there is no champion."""

    model: str
    variant: str
    seed: int
    is_champion: bool

    @property
    def label(self) -> str:
        """The model in words, such as `lightgcn with profiles`."""
        endings = {"augment": " with profiles", "base": " without profiles", "shuffled": " with shuffled profiles"}
        return self.model + endings.get(self.variant, "")


@dataclass
class Findings:
    """What the answers have in common: the metric, the subject, and whether profiles help, by evaluation setting."""

    metric: str
    k: int
    subject: Subject | None
    profiles: dict[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """The metric as it is printed, such as `NDCG@20`."""
        return f"{METRIC_NAMES[self.metric]}@{self.k}"


def findings(sources: Sources, settings: Settings) -> Findings:
    """Find the model and the metric that the answers are about, and the verdict on profiles in each setting."""
    ks = {row["k"] for row in sources.results}
    result = Findings(settings.promotion.metric, K if K in ks or not ks else max(ks), None)
    result.subject = _subject(sources, result)
    if result.subject is not None:
        model = model_with_profiles(sources, result)
        for setting in (WARM, COLD):
            rows = {row["other_variant"]: row for row in own_comparisons(sources, result, setting, model)}
            if "base" in rows:
                result.profiles[setting] = profiles_verdict(rows)
    return result


def _subject(sources: Sources, found: Findings) -> Subject | None:
    pointer = sources.champion
    evaluated = {(row["model"], row["variant"], row["seed"]) for row in sources.results}
    if pointer and (pointer["model"], pointer["variant"], pointer["seed"]) in evaluated:
        return Subject(pointer["model"], pointer["variant"], pointer["seed"], True)
    trained = [row for row in rows_of(sources, found, WARM) if row["variant"] in ("base", "augment")]
    if not trained:
        return None
    best = max(trained, key=lambda row: row["value"])
    return Subject(best["model"], best["variant"], best["seed"], False)


def difference(row: Row) -> str:
    """Return a paired difference with its intervals as text."""
    if row["lo_users"] is None or row["lo_items"] is None:
        return f"{row['diff']:+.4f}"
    return (
        f"{row['diff']:+.4f} (95 % interval {row['lo_users']:+.4f} to {row['hi_users']:+.4f} over users, "
        f"{row['lo_items']:+.4f} to {row['hi_items']:+.4f} over items)"
    )


def model_with_profiles(sources: Sources, found: Findings) -> tuple[str, int]:
    """Return the (model, seed) that shows what profiles are worth: the subject's, or the best that has profiles."""
    subject = found.subject
    assert subject is not None
    compared = {(row["model"], row["seed"]) for row in sources.comparisons}
    if (subject.model, subject.seed) in compared or not compared:
        return subject.model, subject.seed
    augment = [row for row in rows_of(sources, found, WARM) if row["variant"] == "augment"]
    if not augment:
        return subject.model, subject.seed
    best = max(augment, key=lambda row: row["value"])
    return best["model"], best["seed"]


def own_comparisons(sources: Sources, found: Findings, setting: str, model: tuple[str, int] | None) -> list[Row]:
    """Return the comparisons of augment with base and shuffled of `model`, or of every model when it is None."""
    return [
        row
        for row in sources.comparisons
        if row["setting"] == setting
        and (row["metric"], row["k"]) == (found.metric, found.k)
        and row["other_variant"] in ("base", "shuffled")
        and (model is None or (row["model"], row["seed"]) == model)
    ]


def rows_of(sources: Sources, found: Findings, setting: str) -> list[Row]:
    """Return the results of one setting in the metric of the answers."""
    return [
        row
        for row in sources.results
        if (row["setting"], row["metric"], row["k"]) == (setting, found.metric, found.k) and row["value"] is not None
    ]
