"""The champion in memory: a user's vector comes in, the best items go out.

All items are scored exactly, as evaluation does, and ties go to the lower position; above `serve.ann_above` items an
approximate index (HNSW, Malkov & Yashunin 2018, arXiv 1603.09320, by faiss) finds them instead, whose recall against the
exact answer is measured when it is built. An index never changes: another takes its place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import NO_ITEM, top_k
from reclm.errors import ArtifactError, WorkspaceError
from reclm.promotion import champion
from reclm.promotion.new_items import with_new_items
from reclm.serving import item_catalogue as catalogue
from reclm.serving.item_catalogue import ItemCatalogue
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.backbones.base import Backbone
    from reclm.settings.tree import Settings

SAMPLE, SAMPLE_K = 200, 20
TRIALS = 5
POINTER = {"version", "model", "variant", "as_of", "promoted_at"}
EXAMPLES = 3
LINKS, WIDTH_BUILDING, WIDTH_ASKING = 32, 80, 256
Positions = NDArray[np.int64]
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class CandidateIndex:
    """One champion, ready to answer. `pointer` is the content of `champion.json`; `seconds` is how long ranking takes here."""

    settings: Settings
    pointer: dict[str, Any]
    backbone: Backbone
    catalogue: ItemCatalogue
    trained_items: int
    ann: Any = None
    ann_recall: float | None = None
    seconds: float = 0.0

    @property
    def version(self) -> str:
        return str(self.pointer["version"])

    @property
    def item_ids(self) -> NDArray[np.str_]:
        return self.backbone.fitted.item_ids

    def item(self, item_id: str) -> int | None:
        """The item's position; None when it is not among the candidates."""
        return self.backbone.fitted.item_position.get(item_id)

    def user(self, user_id: str) -> int | None:
        """The user's position; None when the champion was not fitted on them."""
        return self.backbone.fitted.user_position.get(user_id)

    def vector(self, user: int) -> Vector:
        """(width,), as trained."""
        vector: Vector = self.backbone.fitted.vectors["full_shot"].users[user]
        return vector

    def known(self, user: int) -> Positions:
        """Positions of the items that the user is known to have touched, ascending."""
        known = self.backbone.fitted.known
        return known.indices[known.indptr[user] : known.indptr[user + 1]].astype(np.int64)

    def folded_in(self, history: Positions, profile: Vector | None) -> Vector:
        """(width,) of somebody with this history and profile embedding."""
        vector: Vector = self.backbone.fold_in_one(history, profile)
        return vector

    def best(
        self, vector: Vector, k: int, banned: Positions, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Positions, Vector]:
        """(positions, scores) of the best `k` items, best first, none of them `banned`; `allowed` (n_items,) restricts them."""
        if self.ann is not None and allowed is None:
            found = self._approximate(vector, k, banned)
            if len(found[0]) == min(k, len(self.item_ids) - len(np.unique(banned))):
                return found
        scores = np.require(self.backbone.score_vectors(vector[None], "full_shot"), np.float32, ["C", "W"])
        scores[0, banned] = -np.inf
        if allowed is not None:
            scores[0, ~allowed] = -np.inf
        return self._chosen(scores[0], k)

    def most_popular(
        self, k: int, banned: Positions, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Positions, Vector]:
        """The items that most people touched, with how many did as scores."""
        counts = self.counts.astype(np.float32)
        counts[banned] = -np.inf
        if allowed is not None:
            counts[~allowed] = -np.inf
        return self._chosen(counts, k)

    def similar(self, item: int, k: int) -> tuple[Positions, Vector]:
        """The `k` items whose vectors point most nearly the same way, biases aside, with cosines."""
        scores = self.directions @ self.directions[item]
        scores[item] = -np.inf
        return self._chosen(scores, k)

    def most_like(self, items: Positions, history: Positions) -> Positions | None:
        """For each of `items` (n,) the position in `history` of the one nearest to it; None without a history."""
        if not len(history):
            return None
        nearest: Positions = history[np.argmax(self.directions[items] @ self.directions[history].T, axis=1)]
        return nearest

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Item vectors at unit length, biases aside (n_items, width - 1)."""
        vectors = self.backbone.fitted.vectors["full_shot"].items[:, :-1]
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.ascontiguousarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many users are known to have touched each item (n_items,)."""
        return np.asarray(self.backbone.fitted.known.getnnz(axis=0)).ravel().astype(np.int64)

    @cached_property
    def counterpart(self) -> Backbone | None:
        """The same model without profiles, of the same data and seed, for comparison; None where none was trained."""
        about = artifacts.load(self.settings.paths, "backbone", self.version)
        mine = about.manifest["parameters"]
        for other in artifacts.all_of(self.settings.paths, "backbone"):
            its = other.manifest["parameters"]
            same = (
                all(its.get(key) == mine.get(key) for key in ("model", "seed", "layout")) and its["variant"] == "base"
            )
            if same and other.version != self.version and other.manifest["parents"] == about.manifest["parents"]:
                from reclm.backbones.loading import load_backbone

                return load_backbone(other.path)
        return None

    @cached_property
    def without_profiles(self) -> CandidateIndex | None:
        """An index of the counterpart; None where there is none, or it knows other items."""
        other = self.counterpart
        if other is None or not np.array_equal(other.fitted.item_ids, self.item_ids[: len(other.fitted.item_ids)]):
            return None
        return replace(self, backbone=other, ann=None)

    @cached_property
    def sorted_user_ids(self) -> list[str]:
        """For finding users by how their ids begin."""
        return sorted(self.backbone.fitted.user_ids.tolist())

    @cached_property
    def examples(self) -> tuple[list[int], list[int]]:
        """(users, items) to begin with: the most and the least active users that have a history, popular and cold items."""
        activity = np.diff(self.backbone.fitted.known.indptr)
        users = np.argsort(-activity, kind="stable")
        some = [*users[:EXAMPLES].tolist(), *users[activity[users] > 0][-EXAMPLES:].tolist()]
        popular = np.argsort(-self.counts, kind="stable")[: EXAMPLES + 1].tolist()
        cold = np.flatnonzero(self.counts == 0)[: EXAMPLES + 1].tolist()
        return list(dict.fromkeys(some)), list(dict.fromkeys([*popular, *cold]))

    @property
    def profile_width(self) -> int:
        """Numbers of a profile's embedding that folding in reads; 0: the champion was trained without profiles."""
        fold_in = self.backbone.fitted.fold_in
        return 0 if fold_in is None else len(fold_in.centre)

    def _chosen(self, scores: Vector, k: int) -> tuple[Positions, Vector]:
        best = top_k(scores[None], k)[0]
        best = best[best != NO_ITEM].astype(np.int64)
        return best, scores[best]

    def _approximate(self, vector: Vector, k: int, banned: Positions) -> tuple[Positions, Vector]:
        scores, found = self.ann.search(vector[None], min(k + len(banned), len(self.item_ids)))
        kept = (found[0] >= 0) & ~np.isin(found[0], banned)
        return found[0][kept][:k], scores[0][kept][:k]


def load(settings: Settings) -> CandidateIndex:
    """The index of the champion that stands now. Raises ReclmError when there is none or it cannot be read."""
    from reclm.backbones.loading import load_backbone

    pointer = champion.current(settings)
    lacking = sorted(POINTER - pointer.keys())
    if lacking:
        raise WorkspaceError(f"{settings.paths.champion} lacks {', '.join(lacking)}; `reclm promote` writes it anew")
    datetime.fromisoformat(pointer["as_of"])
    trained = load_backbone(artifacts.load(settings.paths, "backbone", pointer["version"]).path)
    if trained.fitted.fold_in is None:
        raise ArtifactError(
            f"model {pointer['version']} was trained by an earlier reclm and cannot place new people; run `reclm train` and promote"
        )
    backbone = with_new_items(settings, trained, pointer["version"])
    backbone.fitted.known.sort_indices()
    about = catalogue.load(settings, backbone.fitted.item_ids.tolist())
    ann, recall = None, None
    if len(backbone.fitted.item_ids) > settings.serve.ann_above and backbone.inner_product:
        ann, recall = _approximate_index(settings, backbone)
    index = CandidateIndex(settings, pointer, backbone, about, len(trained.fitted.item_ids), ann, recall)
    index = replace(index, seconds=_seconds_of(index))
    index.directions, index.counts, index.catalogue.by_category  # noqa: B018  (made here, not in somebody's request)
    return index


def _seconds_of(index: CandidateIndex) -> float:
    """How long ranking for one user takes, the shortest of some."""
    nobody = np.zeros(0, dtype=np.int64)
    vector = index.backbone.fitted.vectors["full_shot"].users.mean(axis=0)
    took = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        index.best(vector, SAMPLE_K, nobody)
        took.append(time.perf_counter() - started)
    return min(took)


def _approximate_index(settings: Settings, backbone: Backbone) -> tuple[Any, float]:
    """(faiss index over the item vectors, its recall of the exact 20 best over a sample of users)."""
    import faiss

    vectors = backbone.fitted.vectors["full_shot"]
    ann = faiss.IndexHNSWFlat(vectors.items.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    ann.hnsw.efConstruction, ann.hnsw.efSearch = WIDTH_BUILDING, WIDTH_ASKING
    ann.add(np.ascontiguousarray(vectors.items))
    random = np.random.default_rng([settings.seed, 13])
    users = random.choice(len(vectors.users), min(SAMPLE, len(vectors.users)), replace=False)
    k = min(SAMPLE_K, len(vectors.items))
    exact = top_k(backbone.score(users), k)
    _, found = ann.search(np.ascontiguousarray(vectors.users[users]), k)
    hits = sum(len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True))
    return ann, hits / max(exact.size, 1)
