"""One answer: a request for recommendations comes in, ranked items with reasons go out.

A user's vector is the trained one, as the feature store has it; of somebody the champion was not fitted on it is folded in
from the request's history and the published profile (`backbones/fold_in.py`); of somebody of whom nothing is known there is
none, and the answer is what most people touched, and says so. Where a known user brings a history along, their vector moves
by as much as that history would move a stranger's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.profiles import grammar
from reclm.profiles.terms import words_of
from reclm.serving.feature_client import FeatureClient, StoreUnavailableError
from reclm.serving.metrics import ANSWERS

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.serving.candidate_index import CandidateIndex, Positions, Vector
    from reclm.serving.reloading import IndexReloader

MOST_PHRASES = 3
OTHER_WIDTH = "profiles are published in another embedding than the champion was trained on"
QUICK = 0.003  # seconds: what takes less is done at once; handing it to another thread would take as long
TRAINED, FOLDED_IN, PROFILE, POPULARITY = "trained", "folded_in", "profile", "popularity"


@dataclass(frozen=True)
class RankingRequest:
    """What a request asks for; the lists are item ids, except `categories`."""

    user_id: str | None = None
    history: Sequence[str] = ()
    k: int = 10
    categories: Sequence[str] = ()
    created_after: datetime | None = None
    items: Sequence[str] = ()
    exclude: Sequence[str] = ()
    exclude_seen: bool = True


@dataclass(frozen=True)
class ResolvedUser:
    """Somebody as an index sees them: `vector` (width,) or None, `seen` the positions of the items they are known to have had."""

    source: str
    vector: Vector | None
    seen: Positions
    interests: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    problem: str = ""


class Recommender:
    """Answers with what `reloader` holds and `lookup` finds."""

    def __init__(self, reloader: IndexReloader, feature_client: FeatureClient, threads: int) -> None:
        self.reloader, self.feature_client = reloader, feature_client
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="rank")

    async def recommend(self, wanted: RankingRequest) -> dict[str, Any]:
        """The answer as JSON has it; see `api.Recommendations` for its fields."""
        index = self.reloader.index
        features, away = await self.features(index, wanted.user_id)
        filtered = wanted.categories or wanted.items or wanted.created_after
        if index.seconds < QUICK and (index.ann is None or not filtered):
            return rank_and_explain(index, wanted, features, away)
        return await asyncio.get_running_loop().run_in_executor(
            self.pool, rank_and_explain, index, wanted, features, away
        )

    async def features(self, index: CandidateIndex, user_id: str | None) -> tuple[UserFeatures | None, str]:
        """(what the feature store says of the user, '' or why it said nothing)."""
        if user_id is None:
            return None, ""
        try:
            return await self.feature_client.user(user_id, index.version), ""
        except StoreUnavailableError as error:
            return None, f"feature store: {error}"


def rank_and_explain(
    index: CandidateIndex, wanted: RankingRequest, features: UserFeatures | None, away: str
) -> dict[str, Any]:
    """Ranks and explains; no waiting."""
    person = resolve_user(index, wanted, features)
    banned = positions_of(index, wanted.exclude)[0]
    if wanted.exclude_seen:
        banned = np.concatenate([banned, person.seen])
    allowed = _allowed(index, wanted)
    if person.vector is None:
        best, scores = index.most_popular(wanted.k, banned, allowed)
    else:
        best, scores = index.best(person.vector, wanted.k, banned, allowed)
    problem = away or person.problem
    ANSWERS.labels(person.source, str(bool(problem)).lower()).inc()
    return {
        "user_id": wanted.user_id,
        "source": person.source,
        "degraded": problem or None,
        "model": describe_model(index),
        "features": feature_ages(features),
        "unknown_items": list(person.unknown),
        "items": [
            {**describe_item(index, position), "score": score, "reasons": why}
            for position, score, why in zip(best.tolist(), scores.tolist(), reasons(index, best, person), strict=True)
        ],
    }


def resolve_user(index: CandidateIndex, wanted: RankingRequest, features: UserFeatures | None) -> ResolvedUser:
    """The person that a request speaks of, in the index's space."""
    given, unknown = positions_of(index, wanted.history)
    user = None if wanted.user_id is None else index.user(wanted.user_id)
    known = np.zeros(0, dtype=np.int64) if user is None else index.known(user)
    seen = np.union1d(known, given) if len(given) else known
    profile = features.profile if features else None
    interests = interests_of(profile.text) if profile else ()
    trained = None
    if user is not None:
        trained = index.vector(user) if features is None or features.vector is None else features.vector
        if len(seen) == len(known):
            return ResolvedUser(TRAINED, trained, seen, interests, unknown)
    embedding, problem = profile.embedding if profile and index.profile_width else None, ""
    if embedding is not None and len(embedding) != index.profile_width:
        embedding, problem = None, OTHER_WIDTH
    if trained is not None:
        moved = index.folded_in(seen, embedding) - index.folded_in(known, embedding)
        return ResolvedUser(FOLDED_IN, trained + moved, seen, interests, unknown, problem)
    if len(given) or embedding is not None:
        source = FOLDED_IN if len(given) else PROFILE
        return ResolvedUser(source, index.folded_in(given, embedding), seen, interests, unknown, problem)
    return ResolvedUser(POPULARITY, None, seen, interests, unknown, problem)


def positions_of(index: CandidateIndex, item_ids: Sequence[str]) -> tuple[Positions, tuple[str, ...]]:
    """(positions of those among the candidates, ascending and once each; the ids that are not)."""
    found = {item: index.item(item) for item in item_ids}
    there = sorted({position for position in found.values() if position is not None})
    return np.array(there, dtype=np.int64), tuple(item for item, position in found.items() if position is None)


def _allowed(index: CandidateIndex, wanted: RankingRequest) -> NDArray[np.bool_] | None:
    masks = []
    if wanted.categories:
        mask = np.zeros(len(index.item_ids), dtype=bool)
        for name in wanted.categories:
            mask[index.catalogue.by_category.get(name.casefold(), [])] = True
        masks.append(mask)
    if wanted.created_after is not None:
        after = np.datetime64(wanted.created_after.astimezone(UTC).replace(tzinfo=None), "us")
        masks.append(index.catalogue.created > after)  # not a time: not after anything
    if wanted.items:
        mask = np.zeros(len(index.item_ids), dtype=bool)
        mask[positions_of(index, wanted.items)[0]] = True
        masks.append(mask)
    return np.logical_and.reduce(masks) if masks else None


@lru_cache(maxsize=4096)
def interests_of(text: str) -> tuple[str, ...]:
    """The interest phrases of a profile's text; () where it has none."""
    profile = grammar.parse(text).profile
    return profile.interests if profile else ()


@lru_cache(maxsize=16_384)
def _words(phrase: str) -> frozenset[str]:
    return frozenset(words_of(phrase.casefold()))


def reasons(index: CandidateIndex, items: Positions, person: ResolvedUser) -> list[dict[str, Any]]:
    """For each item the phrases of the person's profile that it answers to, and the item of theirs that it is most like."""
    nearest = None if person.vector is None else index.most_like(items, person.seen)
    likes: list[dict[str, str] | None] = [None] * len(items)
    if nearest is not None:
        likes = [_named(index, position) for position in nearest.tolist()]
    return [
        {"phrases": _matched(index, item, person.interests), "like": like}
        for item, like in zip(items.tolist(), likes, strict=True)
    ]


def _named(index: CandidateIndex, position: int) -> dict[str, str]:
    return {"item_id": str(index.item_ids[position]), "title": index.catalogue.titles[position]}


def _matched(index: CandidateIndex, item: int, interests: Sequence[str]) -> list[str]:
    if not interests:
        return []
    phrases, words = index.catalogue.words(item)
    matched = [
        phrase for phrase in interests if phrase.casefold() in phrases or (_words(phrase) and _words(phrase) <= words)
    ]
    return matched[:MOST_PHRASES]


def describe_item(index: CandidateIndex, position: int) -> dict[str, Any]:
    """What an answer says of an item. `cold`: nobody was known to have touched it when the champion was fitted."""
    return {
        "item_id": str(index.item_ids[position]),
        "title": index.catalogue.titles[position],
        "categories": list(index.catalogue.categories[position]),
        "cold": bool(index.counts[position] == 0),
    }


def describe_model(index: CandidateIndex) -> dict[str, Any]:
    """Which model answered."""
    about = index.pointer
    return {key: about[key] for key in ("version", "model", "variant", "as_of", "promoted_at")}


def feature_ages(features: UserFeatures | None) -> dict[str, Any]:
    """As of when each feature of the user is, and how many seconds ago the newest was."""
    found = {
        "profile_as_of": features.profile.as_of if features and features.profile else None,
        "activity_as_of": features.activity_as_of if features else None,
        "vector_as_of": features.vector_as_of if features else None,
    }
    times = [moment for moment in found.values() if moment is not None]
    age = (datetime.now(UTC) - max(times)).total_seconds() if times else None
    return {**{key: None if at is None else at.isoformat() for key, at in found.items()}, "age_seconds": age}
