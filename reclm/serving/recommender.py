"""Recommend items for one request.

In: user id, history and filters. Out: ranked items with reasons. The user's vector comes from the first source that has
one: the trained vector in the feature store; for a user that the champion was not fitted on, a vector folded in from
the request's history and the published profile (`backbones/fold_in.py`). When there is none of these, the most popular
items are returned, and the response says so. When a known user sends a history, or did something that the champion does
not know, their trained vector is moved by the difference that this makes to a folded-in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.profiles import grammar
from reclm.profiles.terms import words_of
from reclm.serving.feature_client import FeatureClient, StoreUnavailableError
from reclm.serving.filters import RankingRequest, allowed_items, positions_of, why_empty
from reclm.serving.metrics import ANSWERS
from reclm.serving.reranking import pinned_positions, pool_size, rerank
from reclm.serving.trial import answering, one_answer
from reclm.serving.user_items import lately
from reclm.trials.exploration import explore

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.serving.candidate_index import CandidateIndex, Positions, Vector
    from reclm.serving.item_lists import ItemLists
    from reclm.serving.reloading import IndexReloader

MAX_PHRASES = 3
WRONG_WIDTH = "the published profile embeddings have another width than those that the champion was trained on"
INLINE_SECONDS = 0.003  # faster requests run in the event loop; handing them to a thread would take as long
ITEM_SECONDS = 1e-5  # of one core, to describe a recommended item and find its reasons
PAIRS_PER_SECOND = 1e9  # numbers that one core multiplies when it compares recommended items with a history
TRAINED, FOLDED_IN, PROFILE, POPULARITY = "trained", "folded_in", "profile", "popularity"


@dataclass(frozen=True)
class ResolvedUser:
    """Hold what the index knows about the user of a request.

    `vector` is (width,) or None; `seen` are the positions of the items that the user took, and `disliked` of those that
    they refused; `source` says where the vector came from.
    """

    source: str
    vector: Vector | None
    seen: Positions
    interests: tuple[str, ...] = ()
    unknown_items: tuple[str, ...] = ()
    problem: str = ""
    disliked: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class Recommender:
    """Answer requests from the current index and the feature store."""

    def __init__(self, reloader: IndexReloader, feature_client: FeatureClient, lists: ItemLists, threads: int) -> None:
        self.reloader, self.feature_client, self.lists = reloader, feature_client, lists
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="rank")

    async def recommend(self, request: RankingRequest, request_id: str) -> dict[str, Any]:
        """Recommend items; returns the fields of `schemas.Recommendations`.

        Raises NoItemListError when the request names a list that does not exist.
        """
        tried = answering(self.reloader.index, self.reloader.challenger, request, request_id)
        explored = request_id if len(tried) == 1 else ""
        answers = {arm: await self._answer(index, request, explored) for arm, index in tried.items()}
        return {"request_id": request_id} | one_answer(answers, request.k, request_id)

    async def _answer(self, index: CandidateIndex, request: RankingRequest, explored: str) -> dict[str, Any]:
        features, unavailable = await self.features(index, request.user_id)
        listed = await self._listed(index, request)
        if seconds_of(index, request) < INLINE_SECONDS:
            return rank_and_explain(index, request, features, unavailable, listed, explored)
        return await asyncio.get_running_loop().run_in_executor(
            self.pool, rank_and_explain, index, request, features, unavailable, listed, explored
        )

    async def _listed(self, index: CandidateIndex, request: RankingRequest) -> list[NDArray[np.bool_]]:
        """Return the masks of the lists that the request names."""
        masks = []
        for name, wanted in ((request.items_list, True), (request.exclude_list, False)):
            if name is not None:
                mask = self.lists.known_mask(name, index)
                if mask is None:
                    mask = await asyncio.to_thread(self.lists.mask, name, index)
                masks.append(mask if wanted else ~mask)
        return masks

    async def features(self, index: CandidateIndex, user_id: str | None) -> tuple[UserFeatures | None, str]:
        """Read a user's features; returns (features or None, why the store did not answer or '')."""
        if user_id is None:
            return None, ""
        try:
            return await self.feature_client.user(user_id, index.version), ""
        except StoreUnavailableError as error:
            return None, f"feature store: {error}"


def seconds_of(index: CandidateIndex, request: RankingRequest) -> float:
    """Estimate the time that a request takes on one core: ranking, then describing and explaining `k` items.

    An approximate index can neither filter nor boost, so such a request scores all items; that is never called fast.
    """
    if index.ann is not None and (request.filtered or request.rules):
        return float("inf")
    position = None if request.user_id is None else index.user_position(request.user_id)
    history = len(request.history) + (0 if position is None else len(index.known(position)))
    history += len(index.newer.of(request.user_id))
    others = pool_size(request.k) if request.rules else 0
    compared = request.k * (history + others) * index.directions.shape[1]
    return index.seconds + request.k * ITEM_SECONDS + compared / PAIRS_PER_SECOND


def rank_and_explain(
    index: CandidateIndex,
    request: RankingRequest,
    features: UserFeatures | None,
    unavailable: str,
    listed: Sequence[NDArray[np.bool_]] = (),
    explored: str = "",
) -> dict[str, Any]:
    """Rank the candidates for one request and give reasons. Waits for nothing.

    `listed` are masks of named lists; `explored` is the id of a request that may get a random list
    (`serve.exploration`), '' for none.
    """
    user = resolve_user(index, request, features)
    unwanted = np.concatenate([positions_of(index, request.exclude)[0], index.hidden.positions()])
    excluded = np.concatenate([unwanted, user.seen, user.disliked]) if request.exclude_seen else unwanted
    allowed, unknown = allowed_items(index, request, listed)
    pinned, unknown_pins = pinned_positions(index, request.rules, allowed, unwanted)
    propensities: Sequence[float | None] = [None] * request.k
    if request.rules:
        left_out = np.zeros(len(index.item_ids), dtype=bool) if allowed is None else ~allowed
        left_out[excluded] = True
        best, scores = rerank(index, index.scores(user.vector), left_out, pinned, request.k, request.rules)
    elif user.vector is None:
        best, scores = index.most_popular(request.k, excluded, allowed)
    elif explored and index.settings.serve.exploration and request.is_plain:
        serve = index.settings.serve
        best, scores = index.best(user.vector, max(request.k, serve.exploration_pool), excluded, allowed)
        shown = explore(len(best), request.k, share=serve.exploration, pool=serve.exploration_pool, request_id=explored)
        best, scores, propensities = best[shown.order], scores[shown.order], shown.propensities.tolist()
    else:
        best, scores = index.best(user.vector, request.k, excluded, allowed)
    problem = unavailable or user.problem
    ANSWERS.labels(user.source, str(bool(problem)).lower()).inc()
    return {
        "user_id": request.user_id,
        "source": user.source,
        "degraded": problem or None,
        "model": describe_model(index),
        "features": feature_ages(features),
        "unknown_items": list(dict.fromkeys([*user.unknown_items, *unknown.items, *unknown_pins])),
        "unknown_categories": list(unknown.categories),
        "why_empty": None if len(best) else why_empty(allowed),
        "items": [
            {
                **describe_item(index, position),
                "score": score,
                "pinned": position in pinned,
                "propensity": propensity,
                "reasons": why,
            }
            for position, score, propensity, why in zip(
                best.tolist(), scores.tolist(), propensities[: len(best)], reasons(index, best, user), strict=True
            )
        ],
    }


def resolve_user(index: CandidateIndex, request: RankingRequest, features: UserFeatures | None) -> ResolvedUser:
    """Find the vector, the items and the interests of the user of a request."""
    observed, unknown_items = positions_of(index, request.history)
    position = None if request.user_id is None else index.user_position(request.user_id)
    known = np.zeros(0, dtype=np.int64) if position is None else index.known(position)
    if not len(known):
        position = None  # training learned nothing about somebody without interactions
    liked, disliked = lately(features, index.item_position)
    since = np.concatenate([observed, liked, index.newer.of(request.user_id)])
    seen = np.union1d(known, since) if len(since) else known
    if len(disliked):
        seen = np.setdiff1d(seen, np.setdiff1d(disliked, observed))
    profile = features.profile if features else None
    interests = interests_of(profile.text) if profile else ()
    embedding, problem = profile.embedding if profile and index.profile_width else None, ""
    if embedding is not None and len(embedding) != index.profile_width:
        embedding, problem = None, WRONG_WIDTH
    source, vector = POPULARITY, None
    if position is not None:
        source = TRAINED
        vector = index.vector(position) if features is None or features.vector is None else features.vector
        if np.array_equal(seen, known):
            problem = ""  # the profile is not read
        else:
            source = FOLDED_IN
            vector = vector + index.folded_in(seen, embedding) - index.folded_in(known, embedding)
    elif len(seen) or embedding is not None:
        source, vector = (FOLDED_IN if len(seen) else PROFILE), index.folded_in(seen, embedding)
    disliked = np.concatenate([disliked, index.dislikes.of(request.user_id)])
    return ResolvedUser(source, vector, seen, interests, unknown_items, problem, disliked)


@lru_cache(maxsize=4096)
def interests_of(text: str) -> tuple[str, ...]:
    """Return the interest phrases of a profile text; () when it has none."""
    profile = grammar.parse(text).profile
    return profile.interests if profile else ()


@lru_cache(maxsize=16_384)
def _words_of_phrase(phrase: str) -> frozenset[str]:
    return frozenset(words_of(phrase.casefold()))


def reasons(index: CandidateIndex, items: Positions, user: ResolvedUser) -> list[dict[str, Any]]:
    """Explain each item: the phrases of the user's profile that it matches, and the most similar known item."""
    nearest = None if user.vector is None else index.most_like(items, user.seen)
    likes: list[dict[str, str] | None] = [None] * len(items)
    if nearest is not None:
        likes = [_named(index, position) for position in nearest.tolist()]
    return [
        {"phrases": _matched(index, item, user.interests), "like": like}
        for item, like in zip(items.tolist(), likes, strict=True)
    ]


def _named(index: CandidateIndex, position: int) -> dict[str, str]:
    return {"item_id": str(index.item_ids[position]), "title": index.catalogue.titles[position]}


def _matched(index: CandidateIndex, item: int, interests: Sequence[str]) -> list[str]:
    if not interests:
        return []
    phrases, words = index.catalogue.words(item)
    matched = [
        phrase
        for phrase in interests
        if phrase.casefold() in phrases or (_words_of_phrase(phrase) and _words_of_phrase(phrase) <= words)
    ]
    return matched[:MAX_PHRASES]


def describe_item(index: CandidateIndex, position: int) -> dict[str, Any]:
    """Describe an item; `cold` is true when it had no known interaction when the champion was fitted."""
    return {
        "item_id": str(index.item_ids[position]),
        "title": index.catalogue.titles[position],
        "categories": list(index.catalogue.categories[position]),
        "cold": bool(index.counts[position] == 0),
    }


def describe_model(index: CandidateIndex) -> dict[str, Any]:
    """Name the model of an index."""
    about = index.pointer
    return {key: about[key] for key in ("version", "model", "variant", "as_of", "promoted_at")}


def feature_ages(features: UserFeatures | None) -> dict[str, Any]:
    """Return since which build each feature of a user is what it is, and the seconds since the newest of them."""
    found = {
        "profile_as_of": features.profile.as_of if features and features.profile else None,
        "activity_as_of": features.activity_as_of if features else None,
        "vector_as_of": features.vector_as_of if features else None,
    }
    times = [moment for moment in found.values() if moment is not None]
    age = _seconds_since(max(times)) if times else None
    return {**{key: None if at is None else at.isoformat() for key, at in found.items()}, "age_seconds": age}


def days_since(moment: datetime | None) -> float | None:
    """Return the days from a moment until now; None without one."""
    return None if moment is None else _seconds_since(moment) / 86_400


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
