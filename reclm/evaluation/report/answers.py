"""Write the first screen of the report: which model serves, how good it is, whether profiles help, what to do next.

In: `Sources`, the rows of the newest evaluation, and the `Findings` on them. Out: questions, each with an answer in a
few words, plain sentences with the figures, and bars to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reclm.dataset import SERVED
from reclm.evaluation.report.findings import (
    COLD,
    WARM,
    Findings,
    Row,
    Subject,
    difference,
    model_with_profiles,
    own_comparisons,
    rows_of,
)
from reclm.evaluation.report.sources import ZERO_SHOT_ITEMS, Sources
from reclm.evaluation.verdicts import verdict

ITEM_GROUPS = {WARM: "known items", COLD: "new items", SERVED: "items, known and new together,"}
COMPARED_BASELINES = {
    WARM: ("popularity", "ease"),
    COLD: ("predicted_popularity", "content_knn"),
    SERVED: ("popularity", "ease"),
}
BASELINE_NAMES = {
    "popularity": "popularity",
    "ease": "EASE",
    "predicted_popularity": "predicted popularity",
    "content_knn": "content k-nearest neighbours",
}
MAX_STEPS = 4


@dataclass(frozen=True)
class Bar:
    """One value of a bar chart; `share` is its length between 0 and 1."""

    label: str
    value: float
    share: float
    is_served: bool


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a few words, the sentences that explain it, and values to compare."""

    question: str
    answer: str
    sentences: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    measure: str = ""


@dataclass(frozen=True)
class Step:
    """Something to do next: a command or a setting, and why."""

    command: str
    why: str


def answers(sources: Sources, found: Findings) -> list[Answer]:
    """Answer the questions of the first screen, as far as the workspace has been evaluated."""
    result: list[Answer | None] = [_which_model(sources, found)]
    if found.subject is not None:
        result += [
            _how_good(sources, found, SERVED, "How good are its lists as served, known and new items together?"),
            _how_good(sources, found, WARM, "How good are its recommendations of known items?"),
            _how_good(sources, found, COLD, "How good are they for new items, without interactions?"),
            _are_profiles_worth_it(sources, found),
            _cold_items(sources, found),
        ]
    return [answer for answer in result if answer is not None]


def _which_model(sources: Sources, found: Findings) -> Answer:
    question, pointer = "Which model serves, and why?", sources.champion
    if pointer is None:
        newest = sources.promotions[-1] if sources.promotions else None
        why = f"The newest decision: {newest['reason']}." if newest else "No decision has been made yet."
        if found.subject is not None:
            why += f" The answers below are about the best trained model, {found.subject.label}."
        return Answer(question, "No model serves yet.", (why,))
    label = Subject(pointer["model"], pointer["variant"], pointer["seed"], True).label
    decision = next((row for row in sources.promotions if row["version"] == pointer.get("decision")), None)
    by = {"policy": "the promotion policy", "hand": "a person", "approval": "the policy, with a person's approval"}
    since = pointer["promoted_at"][:16].replace("T", " ")
    chosen = f"Version {pointer['version']}, chosen by {by.get(pointer['selected_by'], pointer['selected_by'])}"
    sentences = [f"{chosen} on {since} UTC, by values on the validation slice."]
    if decision is not None:
        sentences.append(f"The recorded reason: {decision['reason']}.")
    if found.subject is not None and not found.subject.is_champion:
        sentences.append(
            f"It is not part of the newest evaluation, so the answers below are about {found.subject.label}."
        )
    return Answer(question, f"The model {label}.", tuple(sentences))


def _how_good(sources: Sources, found: Findings, setting: str, question: str) -> Answer | None:
    subject = found.subject
    assert subject is not None
    rows = {
        (row["model"], row["variant"]): row for row in rows_of(sources, found, setting) if _comparable(row, subject)
    }
    own = rows.get((subject.model, subject.variant))
    if own is None:
        return None
    others = [(name, rows[name, "baseline"]) for name in COMPARED_BASELINES[setting] if (name, "baseline") in rows]
    twin = "base" if subject.variant == "augment" else "augment"
    bars = [(subject.label, own["value"], True)]
    if (subject.model, twin) in rows:
        label = f"{subject.model} {'without' if twin == 'base' else 'with'} profiles"
        bars.append((label, rows[subject.model, twin]["value"], False))
    bars += [(BASELINE_NAMES[name], row["value"], False) for name, row in others]
    verdicts = [(BASELINE_NAMES[name], *_against(sources, found, setting, own, row)) for name, row in others]
    groups: dict[str, list[str]] = {}
    for name, word, _ in verdicts:
        groups.setdefault(word, []).append(name)
    answer = _join(f"{word} {_join(names)}" for word, names in groups.items()) or "no baseline was evaluated beside it"
    interval = "" if own["lo"] is None else f" (95 % interval {own['lo']:.4f} to {own['hi']:.4f})"
    sentences = [
        f"{found.measure} is {own['value']:.4f}{interval}, the mean over {own['n_users']:,} users of the test slice; "
        "1 is perfect."
    ]
    recall = _recall(sources, found, setting)
    if recall is not None:
        sentences.append(
            f"Of the {ITEM_GROUPS[setting]} that a user went on to choose, {recall:.0%} are in a list of {found.k}."
        )
    sentences += [f"Difference to {name}: {detail}." for name, _, detail in verdicts]
    top = max(value for _, value, _ in bars) or 1.0
    return Answer(
        question,
        f"{answer[0].upper()}{answer[1:]}.",
        tuple(sentences),
        tuple(Bar(label, value, max(value, 0) / top, served) for label, value, served in bars),
        found.measure,
    )


def _comparable(row: Row, subject: Subject) -> bool:
    return row["variant"] == "baseline" or row["seed"] == subject.seed


def _recall(sources: Sources, found: Findings, setting: str) -> float | None:
    subject = found.subject
    assert subject is not None
    for row in sources.results:
        key = (row["setting"], row["model"], row["variant"], row["seed"], row["metric"], row["k"])
        if key == (setting, subject.model, subject.variant, subject.seed, "recall", found.k):
            return float(row["value"])
    return None


def _against(sources: Sources, found: Findings, setting: str, own: Row, other: Row) -> tuple[str, str]:
    """(better than, worse than, or about as good as; the difference in figures)."""
    paired = [
        row
        for row in sources.comparisons
        if (row["setting"], row["model"], row["variant"], row["seed"])
        == (setting, own["model"], own["variant"], own["seed"])
        and (row["other_model"], row["other_variant"]) == (other["model"], other["variant"])
        and (row["metric"], row["k"]) == (found.metric, found.k)
    ]
    if paired:
        words = {"better": "better than", "worse": "worse than", "open": "not clearly different from"}
        return words[verdict(paired[0])], difference(paired[0])
    apart = own["lo"] is not None and other["lo"] is not None
    if apart and own["lo"] > other["hi"]:
        word = "better than"
    elif apart and own["hi"] < other["lo"]:
        word = "worse than"
    else:
        word = "not clearly different from"
    return word, f"{own['value'] - other['value']:+.4f}"


def _are_profiles_worth_it(sources: Sources, found: Findings) -> Answer | None:
    question = "Are profiles worth keeping on this data?"
    if not found.profiles:
        return None
    model = model_with_profiles(sources, found)
    helped = [ITEM_GROUPS[setting] for setting, verdict_here in found.profiles.items() if verdict_here == "yes"]
    harmed = [ITEM_GROUPS[setting] for setting, verdict_here in found.profiles.items() if verdict_here == "worse"]
    if helped:
        answer = "Yes." if len(helped) == len(found.profiles) else f"Yes, for {helped[0]}."
        answer = answer if not harmed else f"For {helped[0]} yes, for {harmed[0]} no."
    else:
        answer = "No: they make it worse." if harmed else "No, this data does not show that they help."
    explained = {
        "yes": "profiles help, and what they say matters: shuffled profiles are worse",
        "not content": "the model with profiles is better, but not shown to be better than with shuffled profiles, "
        "so the gain is not shown to come from what the profiles say",
        "worse": "profiles make the recommendations worse",
        "unclear": "no clear difference",
    }
    sentences = []
    for setting, verdict_here in found.profiles.items():
        rows = {row["other_variant"]: row for row in own_comparisons(sources, found, setting, model)}
        parts = [
            f"{difference(rows[other])} against {meaning}"
            for other, meaning in (("base", "no profiles"), ("shuffled", "shuffled profiles"))
            if other in rows
        ]
        group = ITEM_GROUPS[setting]
        sentences.append(
            f"{group[0].upper()}{group[1:]}: {explained[verdict_here]}. {found.measure} of {model[0]} with profiles: "
            f"{'; '.join(parts)}."
        )
    sentences += [_over_all_models(sources, found, setting) for setting in found.profiles]
    return Answer(question, answer, tuple(sentence for sentence in sentences if sentence))


def _over_all_models(sources: Sources, found: Findings, setting: str) -> str:
    rows = [row for row in own_comparisons(sources, found, setting, None) if row["other_variant"] == "base"]
    if len(rows) < 2:
        return ""
    words = [verdict(row) for row in rows]
    return (
        f"Of {len(rows)} trainings with profiles, {words.count('better')} are better on {ITEM_GROUPS[setting]} than "
        f"the same model without, {words.count('worse')} worse, {words.count('open')} not clearly different."
    )


def _cold_items(sources: Sources, found: Findings) -> Answer | None:
    subject, sentences = found.subject, []
    assert subject is not None
    new = next((row["rows"] for row in sources.counts if row["what"] == ZERO_SHOT_ITEMS), 0)
    recall = _recall(sources, found, COLD)
    lists = (sources.evaluation.metrics.get("random_list", {}) if sources.evaluation else {}).get(COLD)
    if new and recall is not None:
        chance = ""
        if lists and lists["k"] == found.k:
            chance = f"; a random list, the same for all users, has {lists['recall']:.0%}"
        sentences.append(
            f"Among the {new:,} new items, {recall:.0%} of those that a user went on to choose are in a list of "
            f"{found.k}{chance}."
        )
    bands = {
        row["band"]: row
        for row in sources.bands
        if (row["setting"], row["model"], row["variant"], row["seed"])
        == (WARM, subject.model, subject.variant, subject.seed)
        and (row["band_kind"], row["metric"], row["k"]) == ("coldness", "recall", found.k)
    }
    order = [band for band in ("1-3", "4-10", "11-50", "51+") if band in bands]
    if len(order) > 1:
        few, many = bands[order[0]], bands[order[-1]]
        sentences.append(
            f"Ranked together with all known items, items with {order[0]} interactions are found in {few['value']:.0%} "
            f"of the cases, items with {order[-1]} in {many['value']:.0%}."
        )
    if not sentences:
        return None
    return Answer("How do cold items fare?", _cold_answer(recall, bands, order), tuple(sentences))


def _cold_answer(recall: float | None, bands: Mapping[str, Row], order: Sequence[str]) -> str:
    rare = bands[order[0]]["value"] if len(order) > 1 else None
    if rare is not None and bands[order[-1]]["value"] > 0 and rare < bands[order[-1]]["value"] / 4:
        return "Items with few interactions are hardly found beside items with many."
    if rare is not None:
        return "Items with few interactions are found beside items with many."
    return f"{recall:.0%} of the chosen new items are found." if recall is not None else "Not measured."


def next_steps(sources: Sources, found: Findings) -> list[Step]:
    """Propose two to four commands or settings that follow from the answers."""
    steps = []
    if not sources.results:
        steps.append(Step("reclm run", "nothing has been evaluated yet; this trains, evaluates and promotes"))
    elif sources.champion is None:
        steps.append(
            Step("reclm promote", "no model serves yet; this applies the promotion policy, and says what is missing")
        )
    if found.profiles and "yes" not in found.profiles.values():
        if sources.profile_engine == "extractive":
            why = "the profiles are keywords; a language model may write profiles that help"
            steps.append(Step("reclm run --set profiles.engine=transformers", why))
        else:
            steps.append(
                Step("reclm ablate", "compare other ways to write profiles on this data before relying on them")
            )
    if found.profiles and set(found.profiles.values()) - {"yes", "worse"}:
        why = "some differences are not clear; more seeds show whether they are chance"
        steps.append(Step("reclm train --set train.seeds=42,43,44", why))
    if sources.quarantine:
        rows = sum(row["rows"] for row in sources.quarantine)
        steps.append(
            Step("reclm ingest", f"{rows:,} rows of the log were set aside; the table “Set aside” has the remedies")
        )
    if sources.champion is not None:
        steps.append(Step("reclm recommend --sample 3", "look at recommendations of three users"))
        steps.append(Step("reclm serve", "serve recommendations over HTTP, with a page to explore them"))
    return steps[:MAX_STEPS]


def _join(parts: Iterable[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    words = list(parts)
    return words[0] if len(words) == 1 else " and ".join([", ".join(words[:-1]), words[-1]]) if words else ""
