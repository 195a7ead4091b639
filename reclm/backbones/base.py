"""What every backbone is to its callers, in implicit's manner: fit, score, recommend, similar_items, save, load. A fitted
backbone is two tables of vectors per evaluation setting (the training may stop at different epochs for warm and for
cold items) and the items each user is known to have touched; subclasses say how the vectors are found, and, when an
inner product is not their score, how two vectors are scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones import storage
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import ColdStart, Fitted, Vectors
from reclm.backbones.fold_in import FoldIn, learn
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData, Variant
from reclm.errors import ModelError
from reclm.settings.tree import Settings

Epochs = int | Mapping[str, int]


class Backbone(ABC):
    """One recommender. `name` is what `settings.train.models` calls it."""

    name: ClassVar[str]
    inner_product: ClassVar[bool] = True
    """Whether a user's and an item's vector score by their inner product, so that an index of vectors can find the best."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.curve: list[dict[str, Any]] = []
        self._fitted: Fitted | None = None

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"{type(self).__name__}(not fitted)"
        users, items = len(self._fitted.user_ids), len(self._fitted.item_ids)
        return f"{type(self).__name__}({self._fitted.description['variant']}, {users} users, {items} items)"

    @abstractmethod
    def fit(
        self,
        data: TrainingData,
        variant: Variant,
        *,
        seed: int,
        tasks: Sequence[EvaluationTask] = (),
        epochs: Epochs | None = None,
        placing: Mapping[str, ColdStart] | None = None,
    ) -> dict[EvaluationSetting, int]:
        """Learns from `data` and returns the epoch whose vectors serve each setting.

        With `tasks` training stops early and keeps the epoch best for each task's setting; with `epochs` (one number,
        or one a setting) it runs that long and looks at no task; with neither it runs `settings.train.epochs`. The
        implicit models have no epochs to choose: for them the number is a position on their path of blends (`als.py`).
        `curve` then holds a row a validation: epoch, loss, setting, metric, value.

        `placing` belongs to `epochs`: for each setting where cold items stand between their tower and kernel ridge
        (`placing.py`), with the tower when it is not said. A fit with `tasks` chooses it; see the property `placing`.
        """

    @property
    def placing(self) -> dict[str, ColdStart]:
        """For each setting where cold items stand; {} where a model has no such choice."""
        kept = self.fitted.description.get("placing", {}).items()
        return {
            setting: ColdStart(*place) if isinstance(place, list | tuple) else ColdStart(place)
            for setting, place in kept
        }

    @property
    def fitted(self) -> Fitted:
        """What fitting left behind. Raises ModelError before `fit` or `load`."""
        if self._fitted is None:
            raise ModelError(f"{self.name} is not fitted yet; call fit(data, variant, seed=…) or load(path) first")
        return self._fitted

    def score(self, users: NDArray[np.int64], setting: EvaluationSetting = "full_shot") -> Matrix:
        """Scores (b, n_items) of every item for `users` (b,), positions in `fitted.user_ids`; nothing is masked."""
        return self.score_vectors(self.fitted.vectors[setting].users[users], setting)

    def score_vectors(self, users: Matrix, setting: EvaluationSetting = "full_shot") -> Matrix:
        """Scores (b, n_items) of every item for users given by their vectors (b, width), fitted or folded in."""
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
        setting: EvaluationSetting = "full_shot",
    ) -> tuple[NDArray[np.str_], Matrix]:
        """The best `k` items for each user, best first: ids (n_users, k) and scores (n_users, k).

        Items a user is known to have touched are left out unless `include_known`; so are the item ids in `filter`.
        `items` restricts the answer to these. Where fewer than k remain the rest is '' with a score of -inf. Ties go to
        the lower item position. Raises ModelError for an unknown id or k < 1.
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
        self, item_ids: Sequence[str | int] | str | int, k: int = 10, *, setting: EvaluationSetting = "full_shot"
    ) -> tuple[NDArray[np.str_], Matrix]:
        """The `k` items nearest to each by cosine of their vectors, biases aside, without itself: ids and scores (n, k)."""
        rows = self._positions(item_ids, self.fitted.item_position, "item")
        top = _checked_k(k)
        vectors = self.fitted.vectors[setting].items[:, :-1]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths == 0, 1, lengths)
        scores = unit[rows] @ unit.T
        scores[np.arange(len(rows)), rows] = -np.inf
        return self._best(scores, top)

    def learn_to_fold_in(self, data: TrainingData, seed: int) -> None:
        """Learns where people belong whom it was not fitted on, from those in `data`, which it was; see `fold_in.py`."""
        vectors = self.fitted.vectors["full_shot"]
        profiles = None if self.fitted.description["variant"] == "base" else data.user_profile
        self.fitted.fold_in = learn(vectors.users, vectors.items, self.fitted.known, profiles, seed)

    def fold_in(self, histories: sparse.csr_matrix, profiles: Matrix | None = None) -> Matrix:
        """Vectors (n, width) of people it was not fitted on, by their `histories` (n, n_items), positions in
        `fitted.item_ids`, and `profiles` (n, dim) where the variant uses them. Raises ModelError where it never learned to."""
        fold_in = self._learned_fold_in()
        given = profiles if len(fold_in.centre) else None
        return fold_in.vectors(self.fitted.vectors["full_shot"].items, histories, given)

    def fold_in_one(self, history: NDArray[np.int64], profile: Matrix | None = None) -> Matrix:
        """The same of one person, (width,), from positions in `fitted.item_ids` and a profile (dim,)."""
        fold_in = self._learned_fold_in()
        return fold_in.vector(self.fitted.vectors["full_shot"].items, history, profile if len(fold_in.centre) else None)

    def _learned_fold_in(self) -> FoldIn:
        if self.fitted.fold_in is None:
            raise ModelError(f"{self.name} has not learned to fold in; call learn_to_fold_in(data, seed) after fit")
        return self.fitted.fold_in

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
                f"{self.name} does not know {kind} {error.args[0]!r}: it was fitted on {len(position)} {kind}s without it; "
                f"check the id, or ingest the {kind} and train again"
            ) from None

    def save(self, path: Path) -> None:
        """Write the fitted backbone into the folder `path`; see `storage.py` for the files."""
        storage.write(self.fitted, self.settings, self.name, path)

    def extended(self, item_ids: NDArray[np.str_], vectors: Matrix) -> Backbone:
        """Another backbone that knows further items (n,), nobody's yet, by their final vectors (n, width); these count for
        every setting, since items that came after fitting belong to none."""
        fitted, n_new = self.fitted, len(item_ids)
        nobody = sparse.csr_matrix((len(fitted.user_ids), n_new), dtype=fitted.known.dtype)
        no_ids = np.full((n_new, fitted.item_id_vectors.shape[1]), np.nan, dtype=np.float32)
        other = type(self)(self.settings)
        other.restore(
            replace(
                fitted,
                item_ids=np.concatenate([fitted.item_ids, item_ids]),
                known=sparse.hstack([fitted.known, nobody], format="csr"),
                vectors={
                    s: Vectors(
                        v.users,
                        np.asfortranarray(np.vstack([v.items, vectors])),
                        None if v.unseen is None else np.vstack([v.unseen, vectors]),
                    )
                    for s, v in fitted.vectors.items()
                },
                item_id_vectors=np.vstack([fitted.item_id_vectors, no_ids]),
            )
        )
        return other

    def restore(self, fitted: Fitted) -> None:
        self._fitted = fitted


def epoch_of_each_setting(epochs: Epochs) -> dict[EvaluationSetting, int]:
    """{setting: epoch} from one number or a mapping; a setting the mapping lacks takes its largest."""
    if isinstance(epochs, int):
        return dict.fromkeys(EVALUATION_SETTINGS, epochs)
    return {setting: epochs.get(setting, max(epochs.values())) for setting in EVALUATION_SETTINGS}


def _checked_k(k: int) -> int:
    if k < 1:
        raise ModelError(f"k must be at least 1, not {k}: it is the number of items asked for")
    return k
