"""Reward pairs: dialogues and their teacher's profiles come in, (request, chosen, rejected) goes out.

Chosen is the entity's own teacher profile; rejected is, at the set rates, one of RecLM's negatives (arXiv 2412.19302,
section 3.3): the profile of the nearest neighbour that has a different one, the own one with phrases of somebody else
mixed in, cut off, with phrases repeated, or saying nothing. The neighbour kind is what tells over-smoothing. A pair is of
the fold of its dialogue, and no pair of the train fold shows a word the teacher said of a held-out entity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reclm.llm.prompts.corpus import ProfileSource
from reclm.llm.prompts.dialogues import Dialogue, Fold
from reclm.llm.prompts.messages import Kind, Message, fitted, is_silent
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
HELD_OUT_SHARE = 3
_TRIES = 8
_SAYS_NOTHING = ("", f"{IDENTITY_LABEL} ; {INTERESTS_LABEL} ")


@dataclass(frozen=True)
class Pair:
    """Turn 1 of a dialogue, the better answer, the worse one, and in which way (one of NEGATIVES) it is worse.

    `known` are the lines of all that is known of the entity.
    """

    messages: list[Message]
    chosen: str
    rejected: str
    negative: str
    kind: Kind
    entity_id: str
    fold: Fold
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Known:
    """An entity with its own profile, those of its neighbours that differ, nearest first, and those of anybody."""

    dialogue: Dialogue
    own: Profile
    around: tuple[Profile, ...]
    anybody: Sequence[Profile]


def make_pairs(
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    settings: Settings,
    *,
    count: Callable[[list[Message]], int] | None = None,
) -> list[Pair]:
    """At most `reward.pairs` pairs of the fold `train`, and a third as many held-out ones; the same for the same settings.

    `count` counts the tokens of a prompt, whose budget is `llm.max_prompt_tokens`; without it words are counted. Every
    dialogue has its turn up to ROUNDS times, with another negative each time. An entity whose neighbours all have its
    own profile gives no pair of the kind `neighbour`.
    """
    count = count or _words
    held_out = {(d.kind, d.entity_id) for d in dialogues if d.fold == "held_out"}
    pairs: list[Pair] = []
    folds: tuple[tuple[Fold, int], ...] = (
        ("train", settings.reward.pairs),
        ("held_out", max(1, settings.reward.pairs // HELD_OUT_SHARE)),
    )
    for stream, (fold, limit) in enumerate(folds):
        known = _known([d for d in dialogues if d.fold == fold], teacher, held_out if fold == "train" else set())
        rng = np.random.default_rng([settings.seed, stream])
        pairs += _draw(known, settings, count, limit, rng)
    return pairs


def fingerprint(dialogues: Sequence[Dialogue], teacher: ProfileSource) -> str:
    """A short hash of the dialogues, in order, and of what the teacher says of their entities and neighbours."""
    ids = [(repr(d), [teacher.of(d.kind, i) for i in (d.entity_id, *d.neighbour_ids)]) for d in dialogues]
    return content_hash(ids)


def _words(messages: list[Message]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def _known(dialogues: Sequence[Dialogue], teacher: ProfileSource, unspeakable: set[tuple[Kind, str]]) -> list[_Known]:
    """The dialogues that can be learned from; no profile of an `unspeakable` entity is among the others' profiles."""
    own: dict[tuple[Kind, str], Profile] = {}
    for dialogue in dialogues:
        profile = grammar.parse(teacher.of(dialogue.kind, dialogue.entity_id)).profile
        if profile is not None:
            own[dialogue.kind, dialogue.entity_id] = profile
    anybody: dict[Kind, list[Profile]] = {"user": [], "item": []}
    for (kind, _), profile in own.items():
        anybody[kind].append(profile)
    found = []
    for dialogue in dialogues:
        profile = own.get((dialogue.kind, dialogue.entity_id))
        if profile is None or is_silent(dialogue.facts):
            continue
        near = (n for n in dialogue.neighbour_ids if (dialogue.kind, n) not in unspeakable)
        parsed = (grammar.parse(teacher.of(dialogue.kind, n)).profile for n in near)
        around = tuple(p for p in parsed if p is not None and not says_the_same(p, profile))
        found.append(_Known(dialogue, profile, around, anybody[dialogue.kind]))
    return found


def phrases_of(profile: Profile) -> set[str]:
    return {phrase.casefold() for phrase in (*profile.identity, *profile.interests)}


def says_the_same(one: Profile, other: Profile) -> bool:
    a, b = phrases_of(one), phrases_of(other)
    return len(a & b) > SAME * len(a | b)


def _draw(
    known: Sequence[_Known],
    settings: Settings,
    count: Callable[[list[Message]], int],
    limit: int,
    rng: np.random.Generator,
) -> list[Pair]:
    rates = np.array([getattr(settings.reward, name) for name in NEGATIVES], dtype=np.float64)
    if not rates.sum() or not known:
        return []
    shape, prompts = shape_of(settings), dict[str, list[Message]]()
    pairs: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    for turn in range(ROUNDS):
        negatives = rng.choice(len(NEGATIVES), size=len(known), p=rates / rates.sum())
        for row in rng.permutation(len(known)).tolist():
            if len(pairs) == limit:
                return pairs
            entity, name = known[row], NEGATIVES[negatives[row]]
            rejected = _MAKERS[name](entity, turn, rng)
            key = entity.dialogue.dialogue_id
            if rejected is None or (key, rejected) in seen:
                continue
            seen.add((key, rejected))
            if key not in prompts:
                prompts[key] = fitted(entity.dialogue.facts, shape, count)[0]
            chosen = grammar.render(entity.own)
            about = entity.dialogue
            pairs.append(
                Pair(prompts[key], chosen, rejected, name, about.kind, about.entity_id, about.fold, about.known)
            )
    return pairs


def _neighbour(entity: _Known, turn: int, rng: np.random.Generator) -> str | None:
    return grammar.render(entity.around[turn % len(entity.around)]) if entity.around else None


def _mixed(entity: _Known, turn: int, rng: np.random.Generator) -> str | None:
    """A third to two thirds of the interests, and sometimes an identity, are somebody else's."""
    own = phrases_of(entity.own)
    for _ in range(_TRIES):
        other = entity.anybody[int(rng.integers(len(entity.anybody)))]
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
    wanted = min(len(foreign), round(share * len(own)))
    places = rng.permutation(len(own))[:wanted].tolist()
    news = rng.permutation(len(foreign))[:wanted].tolist()
    phrases = list(own)
    for place, new in zip(places, news, strict=True):
        phrases[place] = foreign[new]
    return tuple(phrases)


def _truncated(entity: _Known, turn: int, rng: np.random.Generator) -> str | None:
    text = grammar.render(entity.own)
    return text[: round(rng.uniform(0.25, 0.85) * len(text))].rstrip(" ,")


def _duplicated(entity: _Known, turn: int, rng: np.random.Generator) -> str | None:
    """An interest takes the place of others, follows them again, or stands among the identities too."""
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


def _empty(entity: _Known, turn: int, rng: np.random.Generator) -> str | None:
    return _SAYS_NOTHING[int(rng.integers(len(_SAYS_NOTHING)))]


_MAKERS: Mapping[str, Callable[[_Known, int, np.random.Generator], str | None]] = {
    "neighbour": _neighbour,
    "mixed": _mixed,
    "truncated": _truncated,
    "duplicated": _duplicated,
    "empty": _empty,
}
