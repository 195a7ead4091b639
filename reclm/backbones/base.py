"""The interface of every backbone, in the manner of the library implicit: select, refit, score, recommend, save.

A fitted backbone is two tables of vectors for each evaluation setting (training may stop at different epochs for warm
and for cold items) and the items that each user is known to have interacted with. Subclasses say how the vectors are
found and, where an inner product is not their score, how two vectors are scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones import storage
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import ColdStart, CurveRow, Fitted, Selection, Vectors
from reclm.backbones.fold_in import FoldIn, learn
from reclm.backbones.new_items import predicted_vectors
from reclm.dataset import SERVED, EvaluationSetting, EvaluationTask, TrainingData, Variant
from reclm.errors import ModelError
from reclm.settings.operations import RuntimeSettings
from reclm.settings.recommenders import FusionSettings, TrainSettings


class Backbone(ABC):
    """One recommender. `name` is what `settings.train.models` calls it."""

    name: ClassVar[str]
    inner_product: ClassVar[bool] = True
    """Whether the score is the inner product of a user's and an item's vector, so that a vector index can search it."""
    publishes_vectors: ClassVar[bool] = True
    """Whether vectors of users and fitted items are narrow enough to be published in the feature store."""

    def __init__(self, train: TrainSettings, fusion: FusionSettings, runtime: RuntimeSettings) -> None:
        self.train, self.fusion, self.runtime = train, fusion, runtime
        self._fitted: Fitted | None = None

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"{type(self).__name__}(not fitted)"
        users, items = len(self._fitted.user_ids), len(self._fitted.item_ids)
        return f"{type(self).__name__}({self._fitted.description['variant']}, {users} users, {items} items)"

    @abstractmethod
    def select(self, data: TrainingData, variant: Variant, tasks: Sequence[EvaluationTask], seed: int) -> Selection:
        """Fit on `data` and choose what validates best on `tasks`: epochs and cold start for each evaluation setting.

        The backbone is fitted afterwards, with the vectors that were best. Without tasks nothing is chosen: the result
        is that of `default_selection`.
        """

    @abstractmethod
    def refit(self, data: TrainingData, variant: Variant, selection: Selection, seed: int) -> list[CurveRow]:
        """Fit on `data` with what an earlier `select` chose. Returns the loss of each epoch, a row each."""

    @abstractmethod
    def default_selection(self) -> Selection:
        """Return the selection to use where there is nothing to validate on."""

    @property
    def cold_start(self) -> dict[str, ColdStart]:
        """How cold items got their vectors in each evaluation setting; {} where a model has no such choice."""
        chosen = self.fitted.description.get("cold_start", {})
        return {setting: ColdStart(**cold_start) for setting, cold_start in chosen.items()}

    @property
    def fitted(self) -> Fitted:
        """What fitting left behind. Raises ModelError before `select`, `refit` or loading."""
        if self._fitted is None:
            raise ModelError(
                f"{self.name} is not fitted yet; call select(…) or refit(…) first, or load a saved one with "
                "load_backbone(path)"
            )
        return self._fitted

    def score(self, users: NDArray[np.int64], setting: EvaluationSetting = SERVED) -> Matrix:
        """Score every item for `users` (b,), positions in `fitted.user_ids`: (b, n_items). Nothing is masked."""
        return self.score_vectors(self.user_vectors(users, setting), setting)

    def user_vectors(self, users: NDArray[np.int64], setting: EvaluationSetting = SERVED) -> Matrix:
        """Return the vectors (b, width) of `users` (b,), positions in `fitted.user_ids`."""
        vectors: Matrix = self.fitted.vectors[setting].users[users]
        return vectors

    def score_vectors(self, users: Matrix, setting: EvaluationSetting = SERVED) -> Matrix:
        """Score every item for users given by their vectors (b, width), fitted or folded in: (b, n_items)."""
        return self._score(users, self.fitted.vectors[setting].items, setting)

    def _score(self, users: Matrix, items: Matrix, setting: EvaluationSetting) -> Matrix:
        return users @ items.T

    def recommend(
        self,
        user_ids: Sequence[str | int] | str | int,
        k: int = 10,
        filter: Sequence[str | int] | None = None,
        *,
        items: Sequence[str | int] | None = None,
        include_known: bool = False,
        setting: EvaluationSetting = SERVED,
    ) -> tuple[NDArray[np.str_], Matrix]:
        """Return the best `k` items for each user, best first: ids (n_users, k) and scores (n_users, k).

        Items that a user is known to have interacted with are left out unless `include_known`; so are the item ids in
        `filter`. `items` restricts the answer to these. Where fewer than k remain the rest is '' with a score of -inf.
        Ties go to the lower item position. Raises ModelError for an unknown id or k < 1.
        """
        users = self._positions(user_ids, self.fitted.user_position, "user")
        top = _checked_k(k)
        scores = self.score(users, setting)
        allowed = np.ones(len(self.fitted.item_ids), dtype=bool)
        if items is not None:
            allowed[:] = False
            allowed[self._positions(items, self.fitted.item_position, "item")] = True
        if filter is not None:
            allowed[self._positions(filter, self.fitted.item_position, "item")] = False
        scores[:, ~allowed] = -np.inf
        if not include_known:
            known = self.fitted.known[users].tocoo()
            scores[known.row, known.col] = -np.inf
        return self._best(scores, top)

    def similar_items(
        self, item_ids: Sequence[str | int] | str | int, k: int = 10, *, setting: EvaluationSetting = SERVED
    ) -> tuple[NDArray[np.str_], Matrix]:
        """Return the `k` most similar items to each, by cosine of their vectors without biases: ids and scores (n, k).

        An item is never similar to itself. Raises ModelError for an unknown id or k < 1.
        """
        rows = self._positions(item_ids, self.fitted.item_position, "item")
        top = _checked_k(k)
        vectors = self.fitted.vectors[setting].items[:, :-1]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths == 0, 1, lengths)
        scores = unit[rows] @ unit.T
        scores[np.arange(len(rows)), rows] = -np.inf
        return self._best(scores, top)

    def learn_to_fold_in(self, data: TrainingData, seed: int) -> None:
        """Learn to give vectors to later users, from the users in `data`, on which it was fitted; see `fold_in.py`."""
        vectors = self.fitted.vectors[SERVED]
        profiles = None if self.fitted.description["variant"] == "base" else data.user_profile
        self.fitted.fold_in = learn(vectors.users, vectors.items, self.fitted.known, profiles, seed)

    @property
    def folds_in(self) -> bool:
        """Whether users on whom the backbone was not fitted can be given vectors."""
        return self.fitted.fold_in is not None

    @property
    def profile_width(self) -> int:
        """The width of the profile embeddings that folding in reads; 0 where it reads none."""
        return 0 if self.fitted.fold_in is None else len(self.fitted.fold_in.centre)

    def fold_in(self, histories: sparse.csr_matrix, profiles: Matrix | None = None) -> Matrix:
        """Return vectors (n, width) of users on whom the backbone was not fitted.

        `histories` (n, n_items) has a column for each of `fitted.item_ids`; `profiles` (n, dim) are read where the
        variant uses them. Raises ModelError where `learn_to_fold_in` was not called.
        """
        fold_in = self._learned_fold_in()
        read = profiles if len(fold_in.centre) else None
        return fold_in.vectors(self.fitted.vectors[SERVED].items, histories, read)

    def fold_in_one(self, history: NDArray[np.int64], profile: Matrix | None = None) -> Matrix:
        """Return the vector (width,) of one such user, from positions in `fitted.item_ids` and a profile (dim,)."""
        fold_in = self._learned_fold_in()
        return fold_in.vector(self.fitted.vectors[SERVED].items, history, profile if len(fold_in.centre) else None)

    def _learned_fold_in(self) -> FoldIn:
        if self.fitted.fold_in is None:
            raise ModelError(f"{self.name} has not learned to fold in; call learn_to_fold_in(data, seed) after refit")
        return self.fitted.fold_in

    def vectors_of_new_items(self, data: TrainingData) -> Matrix:
        """Predict a vector for each item of `data` from its text and profile: (n_items, width), NaN where it cannot.

        Only the rows of items that the backbone was not fitted on are meant to be used.
        """
        return predicted_vectors(self.fitted, self.cold_start.get(SERVED, ColdStart()), data)

    def _best(self, scores: Matrix, k: int) -> tuple[NDArray[np.str_], Matrix]:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, axis=1)
        ids = np.where(np.isneginf(best), "", self.fitted.item_ids[order])
        missing = k - ids.shape[1]
        if missing > 0:
            ids = np.pad(ids, ((0, 0), (0, missing)), constant_values="")
            best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
        return ids, best

    def _positions(
        self, ids: Sequence[str | int] | str | int, position: dict[str, int], kind: str
    ) -> NDArray[np.int64]:
        listed = [ids] if isinstance(ids, str | int) else ids
        try:
            return np.fromiter((position[str(one)] for one in listed), dtype=np.int64)
        except KeyError as error:
            raise ModelError(
                f"{self.name} does not know {kind} {error.args[0]!r}: it was fitted on {len(position)} other {kind}s; "
                f"check the id, or ingest the {kind} and train again"
            ) from None

    def save(self, path: Path) -> None:
        """Write the fitted backbone into the folder `path`; see `storage.py` for the files."""
        storage.write(self.fitted, self.name, self.train, self.fusion, path)

    def extended(self, item_ids: NDArray[np.str_], vectors: Matrix) -> Backbone:
        """Return a copy of the backbone that knows further items (n,), by their final vectors (n, width).

        No user has interacted with them yet. The vectors count for every evaluation setting.
        """
        fitted, n_new = self.fitted, len(item_ids)
        once = {id(v): v for v in fitted.vectors.values()}  # settings may share their vectors
        longer = {
            key: Vectors(
                v.users,
                np.asfortranarray(np.vstack([v.items, vectors])),
                None if v.unseen is None else np.vstack([v.unseen, vectors]),
            )
            for key, v in once.items()
        }
        no_interactions = sparse.csr_matrix((len(fitted.user_ids), n_new), dtype=fitted.known.dtype)
        no_ids = np.full((n_new, fitted.item_id_vectors.shape[1]), np.nan, dtype=np.float32)
        other = type(self)(self.train, self.fusion, self.runtime)
        other.restore(
            replace(
                fitted,
                item_ids=np.concatenate([fitted.item_ids, item_ids]),
                known=sparse.hstack([fitted.known, no_interactions], format="csr"),
                vectors={setting: longer[id(v)] for setting, v in fitted.vectors.items()},
                item_id_vectors=np.vstack([fitted.item_id_vectors, no_ids]),
            )
        )
        return other

    def restore(self, fitted: Fitted) -> None:
        """Take over what an earlier fit left behind; the backbone is fitted afterwards."""
        self._fitted = fitted


def _checked_k(k: int) -> int:
    if k < 1:
        raise ModelError(f"k must be at least 1, not {k}: it is the number of items to recommend")
    return k
