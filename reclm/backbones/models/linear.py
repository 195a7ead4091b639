"""The part of `Backbone` that the three closed forms share: a score is a user's history times item-item weights.

A user's vector is the history itself, one number for each item, and an item's vector is its column of weights. So there
is nothing to learn about a user: folding in is exact, and a user who comes later is served as one who was there. Warm
items get their column from interactions (and content, see each model), cold ones from content alone, which also serves
items that come after the fit. `select` chooses the options of the warm columns on the full-shot task and those of the
cold columns on the zero-shot task, one option after another, each at the best values of those before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones import closed_form
from reclm.backbones.base import Backbone
from reclm.backbones.closed_form import dense_product
from reclm.backbones.content import ContentKernel, Rows
from reclm.backbones.features import Matrix
from reclm.backbones.fitted import CurveRow, Fitted, Options, Selection, Vectors
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.metrics import MAX_VALIDATION_USERS, recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, SERVED, EvaluationSetting, EvaluationTask, TrainingData, Variant
from reclm.errors import ModelError

Grid = Mapping[str, tuple[float, ...]]
"""The values of each option that validation tries. The first one is the default."""
RIDGE_GRID: Grid = {
    "penalty": (30.0, 3.0, 10.0, 100.0, 300.0),
    "text_weight": (0.3, 0.1, 1.0),
    "profile_weight": (0.3, 0.0, 1.0),
}
"""Options of a kernel ridge regression over `ContentKernel`."""
SIDE_KERNEL: Options = {"text_weight": 0.3, "profile_weight": 0.3}
"""The kernel that is added to what interactions say of warm items."""
COLD_SCALES: Grid = {"cold_scale": (1.0, 0.25, 0.5, 0.75, 1.5, 2.0, 4.0)}
"""What the scores of cold items are multiplied by where they compete with warm ones."""
TIE_BREAK = 1e-6
"""The score of the most popular item by its popularity: it orders what is equal, and all items without a history."""
SAMPLED_ITEMS = 200  # warm items that show how the scores of cold items compare with those of warm ones

Scores = Callable[[NDArray[np.int64]], Matrix]


@dataclass(frozen=True)
class Items:
    """What weights are made from: the `history` (n_users, n_warm) of the `warm` items (n_warm,), and the kernel."""

    history: sparse.csr_matrix
    warm: Rows
    kernel: ContentKernel

    @classmethod
    def of(cls, data: TrainingData, item_profile: Matrix | None) -> Items:
        """Return the items of a data set, with the profiles that a variant may read."""
        warm = data.warm_items
        kernel = ContentKernel(data.texts, data.item_content, item_profile, warm)
        positions = np.flatnonzero(warm)
        return cls(data.interactions[:, positions].astype(np.float32).tocsr(), positions, kernel)

    @cached_property
    def gram(self) -> Matrix:
        """In how many histories each pair of warm items is, (n_warm, n_warm)."""
        history = self.history
        return dense_product(history.T.tocsr(), history, np.float32)

    @property
    def cold(self) -> Rows:
        """The positions of the items without interactions of which a text or profile is known."""
        cold = self.kernel.known.copy()
        cold[self.warm] = False
        return np.flatnonzero(cold)


class LinearBackbone(Backbone):
    """A backbone with item-item weights. `warm_grid` and `cold_grid` are the options of its warm and cold columns."""

    inner_product: ClassVar[bool] = False  # it is one, but a history is too wide for a vector index
    publishes_vectors: ClassVar[bool] = False
    warm_grid: ClassVar[Grid]
    cold_grid: ClassVar[Grid]

    @property
    def folds_in(self) -> bool:
        return True

    @property
    def profile_width(self) -> int:
        return 0

    @abstractmethod
    def warm_weights(self, items: Items, options: Options) -> Matrix:
        """Return the columns of the warm items, (n_warm, n_warm), with a zero diagonal."""

    @abstractmethod
    def cold_weights(self, items: Items, rows: Rows, options: Options) -> Matrix:
        """Return the columns (n_warm, len(rows)) of the items at `rows`, as if they had no interactions."""

    def default_selection(self) -> Selection:
        return Selection.of_epochs(0)

    def select(self, data: TrainingData, variant: Variant, tasks: Sequence[EvaluationTask], seed: int) -> Selection:
        items = self._items(data, variant, seed)
        options: dict[EvaluationSetting, Options] = {}
        best_trials: dict[EvaluationSetting, int] = {}
        curve: list[CurveRow] = []
        for setting in EVALUATION_SETTINGS:
            options[setting] = {name: values[0] for name, values in self._grid(setting).items()}
            for task in tasks:
                if task.setting == setting:
                    options[setting], best_trials[setting] = self._search(items, task, options, curve)
        self._finish(data, variant, seed, options, items)
        epochs = {setting: best_trials.get(setting, 0) for setting in EVALUATION_SETTINGS}
        return Selection(epochs, options=options, curve=curve)

    def refit(self, data: TrainingData, variant: Variant, selection: Selection, seed: int) -> list[CurveRow]:
        self._finish(data, variant, seed, selection.options, self._items(data, variant, seed))
        return []

    def learn_to_fold_in(self, data: TrainingData, seed: int) -> None:
        """There is nothing to learn: a user's vector is the history."""

    def user_vectors(self, users: NDArray[np.int64], setting: EvaluationSetting = SERVED) -> Matrix:
        return self.fold_in(self.fitted.known[users])

    def fold_in(self, histories: sparse.csr_matrix, profiles: Matrix | None = None) -> Matrix:
        """Return the histories (n, n_items) as vectors (n, width); items that came after the fit say nothing."""
        width = self.fitted.vectors[SERVED].items.shape[1]
        vectors = np.ones((histories.shape[0], width), dtype=np.float32)
        vectors[:, :-1] = histories[:, : width - 1].toarray()
        return vectors

    def fold_in_one(self, history: NDArray[np.int64], profile: Matrix | None = None) -> Matrix:
        width = self.fitted.vectors[SERVED].items.shape[1]
        vector = np.zeros(width, dtype=np.float32)
        vector[history[history < width - 1]] = 1
        vector[-1] = 1
        return vector

    def score(self, users: NDArray[np.int64], setting: EvaluationSetting = SERVED) -> Matrix:
        history = self.fitted.known[users]
        return self._sums(history, np.ones((len(users), 1), dtype=np.float32), setting)

    def score_vectors(self, users: Matrix, setting: EvaluationSetting = SERVED) -> Matrix:
        return self._sums(sparse.csr_matrix(users[:, :-1]), users[:, -1:], setting)

    def _sums(self, history: sparse.csr_matrix, bias: Matrix, setting: EvaluationSetting) -> Matrix:
        """Add up the rows of weights of each history in the order of its items, so that a batch changes no digit."""
        by_source = self.fitted.vectors[setting].items.T
        history = history[:, : len(by_source) - 1]  # items that came after the fit say nothing
        history.sort_indices()
        scores: Matrix = np.asarray(history @ by_source[:-1], dtype=np.float32)
        return scores + bias * by_source[-1]

    def vectors_of_new_items(self, data: TrainingData) -> Matrix:
        """Return the columns of weights of the items of `data` that came after the fit; all other rows are NaN."""
        fitted = self.fitted
        position = np.array([fitted.item_position.get(item, -1) for item in data.item_ids.tolist()], dtype=np.int64)
        now = np.full(len(fitted.item_ids), -1)
        now[position[position >= 0]] = np.flatnonzero(position >= 0)
        known = fitted.known.tocoo()
        kept = now[known.col] >= 0
        entries = (known.data[kept], (known.row[kept], now[known.col[kept]]))
        history = sparse.csr_matrix(entries, shape=(len(fitted.user_ids), len(position)))
        profiles = None if fitted.description["variant"] == "base" else data.item_profile
        seen = TrainingData(data.snapshot, fitted.user_ids, data.item_ids, history, data.texts, data.item_content)
        items = Items.of(seen, profiles)
        new = items.cold[position[items.cold] < 0]
        vectors = np.full((len(position), fitted.vectors[SERVED].items.shape[1]), np.nan, dtype=np.float32)
        vectors[new] = 0
        if len(new):
            columns = self.cold_weights(items, new, self._with_defaults("zero_shot", fitted.description["options"]))
            vectors[np.ix_(new, position[items.warm])] = columns.T * np.float32(fitted.description["cold_factor"])
        return vectors

    def _items(self, data: TrainingData, variant: Variant, seed: int) -> Items:
        reason = closed_form.why_not(self.name, len(data.item_ids), any(data.texts))
        if reason is not None:
            raise ModelError(f"{self.name} {reason}; leave it out of train.models")
        return Items.of(data, profiles_of(data, variant, seed)[1])

    def _grid(self, setting: EvaluationSetting) -> Grid:
        return {"full_shot": self.warm_grid, "zero_shot": self.cold_grid}.get(setting, COLD_SCALES)

    def _with_defaults(
        self, setting: EvaluationSetting, options: Mapping[EvaluationSetting, Options]
    ) -> dict[str, float]:
        return {name: values[0] for name, values in self._grid(setting).items()} | dict(options.get(setting, {}))

    def _search(
        self,
        items: Items,
        task: EvaluationTask,
        options: Mapping[EvaluationSetting, Options],
        curve: list[CurveRow],
    ) -> tuple[Options, int]:
        """Try the options of the task's setting, one after the other; return the best ones and their trial's number."""
        scores = self._scores_by_options(items, task, options)
        useless = {"text_weight", "profile_weight"} - items.kernel.weights
        best = dict(options[task.setting])
        trials: list[tuple[float, dict[str, float]]] = []

        def attempt(trial: dict[str, float]) -> None:
            metrics = recall_and_ndcg(scores(trial), task)
            row = {"epoch": len(trials), "loss": float("nan"), "setting": task.setting}
            curve.extend(row | {"metric": metric, "value": value} for metric, value in metrics.items())
            trials.append((sum(metrics.values()), trial))

        attempt(best)
        for name, values in self._grid(task.setting).items():
            for value in values[1:] if name not in useless else ():
                attempt(best | {name: value})
            best = max(trials, key=lambda one: one[0])[1]
        return best, [trial for _, trial in trials].index(best)

    def _scores_by_options(
        self, items: Items, task: EvaluationTask, options: Mapping[EvaluationSetting, Options]
    ) -> Callable[[dict[str, float]], Scores]:
        """Return the function that makes a scorer of the task's candidates from options of the task's setting."""
        candidates = np.intersect1d(items.cold, np.flatnonzero(task.candidates))
        n_items = len(task.candidates)
        if task.setting == "full_shot":
            return lambda trial: _scorer(items.history, n_items, (items.warm, self.warm_weights(items, trial)))
        if task.setting == "zero_shot":
            return lambda trial: _scorer(
                items.history, n_items, (candidates, self.cold_weights(items, candidates, trial))
            )
        warm, cold = self._with_defaults("full_shot", options), self._with_defaults("zero_shot", options)
        known = self.warm_weights(items, warm)
        unknown = self.cold_weights(items, candidates, cold) * self._spread_factor(items, known, cold)
        return lambda trial: _scorer(
            items.history, n_items, (items.warm, known), (candidates, unknown * np.float32(trial["cold_scale"]))
        )

    def _spread_factor(self, items: Items, warm_weights: Matrix, cold: Options) -> np.float32:
        """What cold columns are multiplied by, so that their scores spread as those of warm columns do.

        A sample of warm items shows it: they are scored once by their own columns, once as if they were cold.
        """
        sample = np.flatnonzero(items.kernel.known[items.warm])
        sample = sample[np.linspace(0, len(sample) - 1, min(len(sample), SAMPLED_ITEMS)).astype(np.int64)]
        if not len(sample):
            return np.float32(1)
        as_cold = self.cold_weights(items, items.warm[sample], cold)
        as_cold[sample, np.arange(len(sample))] = 0
        users = np.linspace(0, items.history.shape[0] - 1, min(items.history.shape[0], MAX_VALIDATION_USERS))
        history = items.history[users.astype(np.int64)]
        spreads = [float(np.std(history @ weights)) for weights in (warm_weights[:, sample], as_cold)]
        return np.float32(spreads[0] / spreads[1]) if all(spreads) else np.float32(1)

    def _finish(
        self,
        data: TrainingData,
        variant: Variant,
        seed: int,
        options: Mapping[EvaluationSetting, Options],
        items: Items,
    ) -> None:
        """Make the columns of all items and take over the fitted model."""
        complete = {setting: self._with_defaults(setting, options) for setting in EVALUATION_SETTINGS}
        n_items, counts = len(data.item_ids), data.interactions.getnnz(axis=0)
        by_source = np.zeros((n_items + 1, n_items), dtype=np.float32)
        factor = 1.0
        if len(items.warm):
            warm_weights = self.warm_weights(items, complete["full_shot"])
            by_source[np.ix_(items.warm, items.warm)] = warm_weights
            scale = complete[SERVED]["cold_scale"]
            factor = float(self._spread_factor(items, warm_weights, complete["zero_shot"])) * scale
            if len(items.cold):
                cold_weights = self.cold_weights(items, items.cold, complete["zero_shot"])
                by_source[np.ix_(items.warm, items.cold)] = cold_weights * np.float32(factor)
            by_source[-1] = TIE_BREAK * counts / counts.max()
        users = np.ones((len(data.user_ids), 1), dtype=np.float32)
        vectors = Vectors(users, by_source.T)
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors=dict.fromkeys(EVALUATION_SETTINGS, vectors),
                user_id_vectors=np.full_like(users, np.nan),
                item_id_vectors=np.where(counts > 0, 1, np.nan).astype(np.float32)[:, None],
                description={
                    "variant": variant,
                    "seed": seed,
                    "options": complete,
                    "cold_factor": factor,
                    "snapshot": data.snapshot,
                },
            )
        )


def _scorer(history: sparse.csr_matrix, n_items: int, *parts: tuple[Rows, Matrix]) -> Scores:
    """Return a scorer of all items from (targets (n,), weights (n_warm, n)); other items score 0."""

    def score(users: NDArray[np.int64]) -> Matrix:
        scores = np.zeros((len(users), n_items), dtype=np.float32)
        for targets, weights in parts:
            scores[:, targets] = history[users] @ weights
        return scores

    return score
