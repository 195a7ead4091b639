"""Make reward pairs.

In: dialogues and their teacher's profiles. Out: pairs of a better and a worse profile. The better one is the entity's
own teacher profile. The worse one is, at the rates of the settings, one of RecLM's negatives (arXiv 2412.19302, section
3.3): the profile of the nearest neighbour whose profile differs, or the own profile with phrases of another entity
mixed in, cut off, with repeated phrases, or empty. The neighbour negatives teach to recognise over-smoothing. A pair is
of the fold of its dialogue; no pair of the train fold shows what the teacher wrote about a held-out entity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reclm.dataset import EntityKind
from reclm.llm.prompts.corpus import ProfileSource
from reclm.llm.prompts.dialogues import Dialogue, Fold
from reclm.llm.prompts.messages import Message, fit_to_budget, has_no_facts
from reclm.llm.prompts.shape import shape_of
from reclm.profiles import grammar
from reclm.profiles.grammar import IDENTITY_LABEL, INTERESTS_LABEL, Profile
from reclm.storage.artifacts import content_hash

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

NEGATIVES = ("neighbour", "mixed", "truncated", "duplicated", "empty")
SAME = 0.6
"""Jaccard similarity of phrases above which two profiles say the same, so that neither is a negative of the other."""
ROUNDS = 4
"""Pairs that one dialogue gives at most."""
TRAIN_PER_HELD_OUT = 3
"""Train pairs for each held-out pair."""
_TRIES = 8
_EMPTY_PROFILES = ("", f"{IDENTITY_LABEL} ; {INTERESTS_LABEL} ")


@dataclass(frozen=True)
class Pair:
    """Turn 1 of a dialogue with a better and a worse answer.

    `negative` is the kind of the worse answer, one of NEGATIVES; `known` is everything known of the
    entity, as lines.
    """

    messages: list[Message]
    chosen: str
    rejected: str
    negative: str
    kind: EntityKind
    entity_id: str
    fold: Fold
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A dialogue with its entity's profile, its neighbours' different profiles, nearest first, and all profiles."""

    dialogue: Dialogue
    own: Profile
    neighbours: tuple[Profile, ...]
    all_profiles: Sequence[Profile]


def make_pairs(
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    settings: Settings,
    *,
    count: Callable[[list[Message]], int] | None = None,
) -> list[Pair]:
    """Make at most `reward.pairs` train pairs and a third as many held-out pairs; deterministic for the same settings.

    `count` counts the tokens of a prompt, whose budget is `llm.max_prompt_tokens`; without it words are counted. Every
    dialogue is used up to ROUNDS times, with another negative each time. An entity whose neighbours all have its own
    profile gives no pair of the kind `neighbour`.
    """
    count = count or _words
    held_out = {(d.kind, d.entity_id) for d in dialogues if d.fold == "held_out"}
    pairs: list[Pair] = []
    folds: tuple[tuple[Fold, int], ...] = (
        ("train", settings.reward.pairs),
        ("held_out", max(1, settings.reward.pairs // TRAIN_PER_HELD_OUT)),
    )
    for stream, (fold, limit) in enumerate(folds):
        candidates = _candidates(
            [d for d in dialogues if d.fold == fold], teacher, held_out if fold == "train" else set()
        )
        rng = np.random.default_rng([settings.seed, stream])
        pairs += _draw(candidates, settings, count, limit, rng)
    return pairs


def dialogues_fingerprint(dialogues: Sequence[Dialogue], teacher: ProfileSource) -> str:
    """Return a short hash of the dialogues, in order, and of their entities' and neighbours' teacher profiles."""
    ids = [(repr(d), [teacher.of(d.kind, i) for i in (d.entity_id, *d.neighbour_ids)]) for d in dialogues]
    return content_hash(ids)


def _words(messages: list[Message]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def _candidates(
    dialogues: Sequence[Dialogue], teacher: ProfileSource, excluded: set[tuple[EntityKind, str]]
) -> list[_Candidate]:
    """The dialogues that pairs can be made of; no profile of an `excluded` entity is among the neighbours' profiles."""
    own: dict[tuple[EntityKind, str], Profile] = {}
    for dialogue in dialogues:
        profile = grammar.parse(teacher.of(dialogue.kind, dialogue.entity_id)).profile
        if profile is not None:
            own[dialogue.kind, dialogue.entity_id] = profile
    all_profiles: dict[EntityKind, list[Profile]] = {"user": [], "item": []}
    for (kind, _), profile in own.items():
        all_profiles[kind].append(profile)
    found = []
    for dialogue in dialogues:
        profile = own.get((dialogue.kind, dialogue.entity_id))
        if profile is None or has_no_facts(dialogue.facts):
            continue
        near = (n for n in dialogue.neighbour_ids if (dialogue.kind, n) not in excluded)
        parsed = (grammar.parse(teacher.of(dialogue.kind, n)).profile for n in near)
        neighbours = tuple(p for p in parsed if p is not None and not says_the_same(p, profile))
        found.append(_Candidate(dialogue, profile, neighbours, all_profiles[dialogue.kind]))
    return found


def phrases_of(profile: Profile) -> set[str]:
    """Return the phrases of a profile, case-folded."""
    return {phrase.casefold() for phrase in (*profile.identity, *profile.interests)}


def says_the_same(one: Profile, other: Profile) -> bool:
    """Tell whether two profiles share most of their phrases, more than SAME of all."""
    a, b = phrases_of(one), phrases_of(other)
    return len(a & b) > SAME * len(a | b)


def _draw(
    candidates: Sequence[_Candidate],
    settings: Settings,
    count: Callable[[list[Message]], int],
    limit: int,
    rng: np.random.Generator,
) -> list[Pair]:
    rates = np.array([getattr(settings.reward, name) for name in NEGATIVES], dtype=np.float64)
    if not rates.sum() or not candidates:
        return []
    shape, prompts = shape_of(settings), dict[str, list[Message]]()
    pairs: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    for round_number in range(ROUNDS):
        negatives = rng.choice(len(NEGATIVES), size=len(candidates), p=rates / rates.sum())
        for row in rng.permutation(len(candidates)).tolist():
            if len(pairs) == limit:
                return pairs
            entity, name = candidates[row], NEGATIVES[negatives[row]]
            rejected = _MAKERS[name](entity, round_number, rng)
            key = entity.dialogue.dialogue_id
            if rejected is None or (key, rejected) in seen:
                continue
            seen.add((key, rejected))
            if key not in prompts:
                prompts[key] = fit_to_budget(entity.dialogue.facts, shape, count)[0]
            chosen = grammar.render(entity.own)
            about = entity.dialogue
            pairs.append(
                Pair(prompts[key], chosen, rejected, name, about.kind, about.entity_id, about.fold, about.known)
            )
    return pairs


def _neighbour(entity: _Candidate, round_number: int, rng: np.random.Generator) -> str | None:
    return grammar.render(entity.neighbours[round_number % len(entity.neighbours)]) if entity.neighbours else None


def _mixed(entity: _Candidate, round_number: int, rng: np.random.Generator) -> str | None:
    """Replace a third to two thirds of the interests, and sometimes an identity, by another entity's."""
    own = phrases_of(entity.own)
    for _ in range(_TRIES):
        other = entity.all_profiles[int(rng.integers(len(entity.all_profiles)))]
        identity = _swapped(entity.own.identity, other.identity, own, rng.uniform(0, 0.5), rng)
        interests = _swapped(entity.own.interests, other.interests, own, rng.uniform(1 / 3, 2 / 3), rng)
        if interests != entity.own.interests:
            mixed = Profile(identity, interests)
            return grammar.render(mixed) if not grammar.validate(mixed) else None
    return None


def _swapped(
    own: tuple[str, ...], other: tuple[str, ...], taken: set[str], share: float, rng: np.random.Generator
) -> tuple[str, ...]:
    foreign = [phrase for phrase in other if phrase.casefold() not in taken]
    count = min(len(foreign), round(share * len(own)))
    positions = rng.permutation(len(own))[:count].tolist()
    replacements = rng.permutation(len(foreign))[:count].tolist()
    phrases = list(own)
    for position, replacement in zip(positions, replacements, strict=True):
        phrases[position] = foreign[replacement]
    return tuple(phrases)


def _truncated(entity: _Candidate, round_number: int, rng: np.random.Generator) -> str | None:
    text = grammar.render(entity.own)
    return text[: round(rng.uniform(0.25, 0.85) * len(text))].rstrip(" ,")


def _duplicated(entity: _Candidate, round_number: int, rng: np.random.Generator) -> str | None:
    """Write one interest in place of others, again after them, or among the identities."""
    identity, interests = list(entity.own.identity), list(entity.own.interests)
    repeated = interests[int(rng.integers(len(interests)))]
    way = int(rng.integers(3))
    if way == 0 and len(interests) > 1:
        interests = [p if p == repeated or rng.random() < 0.5 else repeated for p in interests]
        interests[0] = interests[1] = repeated
    elif way == 1:
        interests += [repeated] * int(rng.integers(1, 4))
    else:
        identity[int(rng.integers(len(identity)))] = repeated
    return f"{IDENTITY_LABEL} {', '.join(identity)}; {INTERESTS_LABEL} {', '.join(interests)}"


def _empty(entity: _Candidate, round_number: int, rng: np.random.Generator) -> str | None:
    return _EMPTY_PROFILES[int(rng.integers(len(_EMPTY_PROFILES)))]


_MAKERS: Mapping[str, Callable[[_Candidate, int, np.random.Generator], str | None]] = {
    "neighbour": _neighbour,
    "mixed": _mixed,
    "truncated": _truncated,
    "duplicated": _duplicated,
    "empty": _empty,
}
