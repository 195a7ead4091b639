"""Hold the champion in memory and find the best items for a user.

In: a user's vector. Out: the best items. All items are scored exactly, as in evaluation, and ties go to the lower
position. Above `serve.ann_above` items an approximate index (HNSW, Malkov & Yashunin 2018, arXiv 1603.09320, by faiss)
is used; its recall against the exact ranking is measured when it is built. An index is immutable: `reloading.py`
replaces it as a whole.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import NO_ITEM, top_k
from reclm.dataset import SERVED
from reclm.errors import ArtifactError, WorkspaceError
from reclm.promotion import champion
from reclm.promotion.new_items import with_new_items
from reclm.serving.availability import HiddenItems
from reclm.serving.item_catalogue import ItemCatalogue, load_catalogue
from reclm.serving.user_items import UserItems, load_dislikes, load_newer
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.settings.tree import Settings

SAMPLE_USERS, SAMPLE_K = 200, 20
TIMED_RUNS = 5
POINTER_FIELDS = {"version", "measured", "model", "variant", "as_of", "promoted_at"}
EXAMPLES_EACH = 3
HNSW_LINKS, HNSW_BUILD_WIDTH, HNSW_SEARCH_WIDTH = 32, 80, 256
Positions = NDArray[np.int64]
Vector = NDArray[np.float32]


class TrainedModel(NamedTuple):
    """Hold the champion as training left it, and what tells whether its files are still the same."""

    backbone: Backbone
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class CandidateIndex:
    """Rank items with one champion.

    `pointer` is the content of `champion.json`; `seconds` is the time that one ranking takes on this machine.
    """

    settings: Settings
    pointer: dict[str, Any]
    backbone: Backbone
    catalogue: ItemCatalogue
    trained: TrainedModel
    ann: Any = None
    ann_recall: float | None = None
    seconds: float = 0.0

    @property
    def version(self) -> str:
        return str(self.pointer["version"])

    @property
    def trained_items(self) -> int:
        """Return the number of items that the champion was trained with; items at later positions were added."""
        return len(self.trained.backbone.fitted.item_ids)

    @property
    def item_ids(self) -> NDArray[np.str_]:
        return self.backbone.fitted.item_ids

    def item_position(self, item_id: str) -> int | None:
        """Return the item's position; None when it is not a candidate."""
        return self.backbone.fitted.item_position.get(item_id)

    def user_position(self, user_id: str) -> int | None:
        """Return the user's position; None when the champion was not fitted on the user."""
        return self.backbone.fitted.user_position.get(user_id)

    def vector(self, user: int) -> Vector:
        """Return the trained vector (width,) of a user."""
        vector: Vector = self.backbone.user_vectors(np.array([user]))[0]
        return vector

    def known(self, user: int) -> Positions:
        """Return the positions of the user's known items, ascending."""
        known = self.backbone.fitted.known
        return known.indices[known.indptr[user] : known.indptr[user + 1]].astype(np.int64)

    def folded_in(self, history: Positions, profile: Vector | None) -> Vector:
        """Return a vector (width,) for a user that the champion does not know, from history and profile embedding."""
        vector: Vector = self.backbone.fold_in_one(history, profile)
        return vector

    def best(
        self, vector: Vector, k: int, excluded: Positions, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Positions, Vector]:
        """Return (positions, scores) of the best `k` items, best first.

        Items in `excluded` and hidden ones are left out; `allowed` (n_items,) restricts the candidates.
        """
        excluded = np.concatenate([excluded, self.hidden.positions()])
        if self.ann is not None and allowed is None:
            found = self._approximate(vector, k, excluded)
            if len(found[0]) == min(k, len(self.item_ids) - len(np.unique(excluded))):
                return found
        scores = self.scores(vector)
        scores[excluded] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf
        return self.top(scores, k)

    def most_popular(
        self, k: int, excluded: Positions, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Positions, Vector]:
        """Return the items with the most users; their numbers of users are the scores."""
        counts = self.scores(None)
        counts[excluded] = -np.inf
        counts[self.hidden.positions()] = -np.inf
        if allowed is not None:
            counts[~allowed] = -np.inf
        return self.top(counts, k)

    def scores(self, vector: Vector | None) -> Vector:
        """Return the score of every item (n_items,) for a user; without a vector, the items' numbers of users.

        The caller may write into the array.
        """
        if vector is None:
            return self.counts.astype(np.float32)
        return np.require(self.backbone.score_vectors(vector[None], SERVED), np.float32, ["C", "W"])[0]

    def similar(self, item: int, k: int) -> tuple[Positions, Vector]:
        """Return the `k` items with the highest cosine to this one, without biases."""
        scores = self.directions @ self.directions[item]
        scores[item] = -np.inf
        scores[self.hidden.positions()] = -np.inf
        return self.top(scores, k)

    def most_like(self, items: Positions, history: Positions) -> Positions | None:
        """Return for each of `items` (n,) the most similar item of `history`; None without a history."""
        if not len(history):
            return None
        nearest: Positions = history[np.argmax(self.directions[items] @ self.directions[history].T, axis=1)]
        return nearest

    @cached_property
    def hidden(self) -> HiddenItems:
        """Return the reader of the items that are hidden at the moment."""
        # not `self.item_position`: an index that holds itself would stay in memory when another replaces it
        return HiddenItems(self.settings.paths, self.backbone.fitted.item_position.get)

    @cached_property
    def dislikes(self) -> UserItems:
        """Load what users disliked by the published build."""
        return load_dislikes(self.settings, self.item_ids)

    @cached_property
    def newer(self) -> UserItems:
        """Load what the published build knows of users, and the champion does not."""
        return load_newer(self.settings, self.version, self.backbone.fitted)

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Return the item vectors at unit length, without biases (n_items, width - 1)."""
        vectors = self.backbone.fitted.vectors[SERVED].items[:, :-1]
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.ascontiguousarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Count the known users of each item (n_items,)."""
        return np.asarray(self.backbone.fitted.known.getnnz(axis=0)).ravel().astype(np.int64)

    @cached_property
    def counterpart(self) -> Backbone | None:
        """Load the champion's measured model without profiles, of the same seed; None when it was not trained.

        It was fitted on the snapshot `final`, so it does not know the newest interactions.
        """
        about = artifacts.load(self.settings.paths, "backbone", self.pointer["measured"])
        mine = about.manifest["parameters"] | {"layout": about.manifest["layout"]}
        for other in artifacts.all_of(self.settings.paths, "backbone"):
            its = other.manifest["parameters"] | {"layout": other.manifest["layout"]}
            same = all(its[key] == mine[key] for key in ("model", "seed", "layout")) and its["variant"] == "base"
            if same and other.version != about.version and other.manifest["parents"] == about.manifest["parents"]:
                from reclm.backbones.loading import load_backbone

                return load_backbone(other.path)
        return None

    @cached_property
    def without_profiles(self) -> CandidateIndex | None:
        """Return an index of the counterpart, with the champion's known items; None when their ids differ."""
        other, known = self.counterpart, self.backbone.fitted.known
        if other is None or not np.array_equal(other.fitted.user_ids, self.backbone.fitted.user_ids):
            return None
        n_items = len(other.fitted.item_ids)
        if not np.array_equal(other.fitted.item_ids, self.item_ids[:n_items]):
            return None
        other.restore(replace(other.fitted, known=known[:, :n_items].tocsr()))
        return replace(self, backbone=other, ann=None)

    @cached_property
    def sorted_user_ids(self) -> list[str]:
        """Return all user ids, sorted, for search by prefix."""
        return sorted(self.backbone.fitted.user_ids.tolist())

    @cached_property
    def examples(self) -> tuple[list[int], list[int]]:
        """Return positions of example (users, items): the most and least active users, popular and cold items."""
        activity = np.diff(self.backbone.fitted.known.indptr)
        users = np.argsort(-activity, kind="stable")
        some = [*users[:EXAMPLES_EACH].tolist(), *users[activity[users] > 0][-EXAMPLES_EACH:].tolist()]
        popular = np.argsort(-self.counts, kind="stable")[: EXAMPLES_EACH + 1].tolist()
        cold = np.flatnonzero(self.counts == 0)[: EXAMPLES_EACH + 1].tolist()
        return list(dict.fromkeys(some)), list(dict.fromkeys([*popular, *cold]))

    @property
    def profile_width(self) -> int:
        """Return the width of the profile embedding that folding in reads; 0 when the champion uses no profiles."""
        return self.backbone.profile_width

    def top(self, scores: Vector, k: int) -> tuple[Positions, Vector]:
        """Return (positions, scores) of the `k` largest of `scores` (n_items,), without those of -inf."""
        best = top_k(scores[None], k)[0]
        best = best[best != NO_ITEM].astype(np.int64)
        return best, scores[best]

    def _approximate(self, vector: Vector, k: int, excluded: Positions) -> tuple[Positions, Vector]:
        scores, found = self.ann.search(vector[None], min(k + len(excluded), len(self.item_ids)))
        kept = (found[0] >= 0) & ~np.isin(found[0], excluded)
        return found[0][kept][:k], scores[0][kept][:k]


def load_index(
    settings: Settings, previous: CandidateIndex | None = None, pointer: dict[str, Any] | None = None
) -> CandidateIndex:
    """Load the index of the champion, or of the model of another `pointer`.

    What has not changed since the `previous` index is taken from it: the trained model while its files are the same,
    and the words of items whose texts are the same. Raises ReclmError when there is no such model or it cannot be read.
    """
    pointer = champion.current(settings) if pointer is None else pointer
    missing = sorted(POINTER_FIELDS - pointer.keys())
    if missing:
        raise WorkspaceError(
            f"{settings.paths.champion} lacks {', '.join(missing)}; run `reclm promote` to write it again"
        )
    datetime.fromisoformat(pointer["as_of"])
    trained = _trained(artifacts.load(settings.paths, "served", pointer["version"]).path, previous)
    if not trained.backbone.folds_in:
        raise ArtifactError(
            f"model {pointer['version']} was trained by an earlier version of reclm and has no fold-in for new users; "
            "run `reclm train` and `reclm promote`"
        )
    backbone = with_new_items(settings, trained.backbone, pointer["version"])
    backbone.fitted.known.sort_indices()
    about = load_catalogue(settings, backbone.fitted.item_ids.tolist())
    if previous is not None and np.array_equal(previous.item_ids, backbone.fitted.item_ids[: len(previous.item_ids)]):
        about.take_words_of(previous.catalogue)
    ann, recall = None, None
    if len(backbone.fitted.item_ids) > settings.serve.ann_above and backbone.inner_product:
        ann, recall = _approximate_index(settings, backbone)
    index = CandidateIndex(settings, pointer, backbone, about, trained, ann, recall)
    index = replace(index, seconds=_ranking_seconds(index))
    index.directions, index.counts, index.catalogue.by_category  # noqa: B018  (compute them now, not during a request)
    index.dislikes, index.newer  # noqa: B018
    return index


def _trained(folder: Path, previous: CandidateIndex | None) -> TrainedModel:
    """Load a model, or take that of the `previous` index when the folder's files are the same."""
    from reclm.backbones.loading import load_backbone

    about = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    files = tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in about)
    if previous is not None and previous.trained.files == files:
        return previous.trained
    return TrainedModel(load_backbone(folder), files)


def _ranking_seconds(index: CandidateIndex) -> float:
    """Measure the time of ranking for one user: the shortest of several runs."""
    no_items = np.zeros(0, dtype=np.int64)
    vector = index.vector(int(np.argmax(np.diff(index.backbone.fitted.known.indptr))))  # the longest history
    seconds = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        index.best(vector, SAMPLE_K, no_items)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _approximate_index(settings: Settings, backbone: Backbone) -> tuple[Any, float]:
    """Build (faiss index over the item vectors, its recall of the exact top 20 on a sample of users)."""
    import faiss

    vectors = backbone.fitted.vectors[SERVED]
    ann = faiss.IndexHNSWFlat(vectors.items.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    ann.hnsw.efConstruction, ann.hnsw.efSearch = HNSW_BUILD_WIDTH, HNSW_SEARCH_WIDTH
    ann.add(np.ascontiguousarray(vectors.items))
    random = np.random.default_rng([settings.seed, 13])
    users = random.choice(len(vectors.users), min(SAMPLE_USERS, len(vectors.users)), replace=False)
    k = min(SAMPLE_K, len(vectors.items))
    exact = top_k(backbone.score(users), k)
    _, found = ann.search(np.ascontiguousarray(vectors.users[users]), k)
    hits = sum(len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True))
    return ann, hits / max(exact.size, 1)
