"""Give a network's cold items their vectors: partly from kernel ridge regression, the rest from the network's towers.

In: the final vectors of a trained network. Out: item vectors in which cold items have been moved. A tower is trained
with the whole network, so it knows how cold items compare with warm ones: their mean, and how far they spread. The
kernel knows which items are nearest. It learns only from warm items, so its own mean and spread are wrong for cold
ones; both are therefore taken from the tower. Validation chooses how much of each, and whether the kernel compares
profiles beside texts: both depend on the data set. Where warm and cold items are ranked together, it also chooses how
far all cold items are raised or lowered, so that the list neither buries them nor is flooded with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.features import Matrix
from reclm.backbones.fitted import ColdStart, Vectors
from reclm.backbones.kernel_ridge import (
    MAX_CACHED_CELLS,
    KernelRidge,
    Rows,
    Sources,
    embedding_sources,
    item_sources,
    rows_without_source,
)
from reclm.dataset import SERVED, EvaluationTask, TrainingData

KERNEL_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of the kernel's prediction in a cold item's vector that validation tries; the rest is the tower's."""
LEVEL_SHIFTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
"""Levels of cold items beside warm ones that validation tries besides 0; the unit is that of `level_spread`."""
MAX_STRETCH = 2.0
"""How many times cold items may be moved apart at most, to restore the spread that mixing took away."""


class ColdStartKernel:
    """Kernel ridge regression over the items of one snapshot, for the cold ones among them.

    `choices` are the values that `ColdStart.reads_profiles` may have, in the order in which they are tried: False where
    there are both texts and profiles, True for everything that is known. Empty where no item is warm, or every one.
    """

    def __init__(self, data: TrainingData, item_profile: Matrix | None) -> None:
        self.warm = data.warm_items
        self._sources: dict[bool, Sources] = {}
        self._ridges: dict[bool, KernelRidge] = {}
        if self.warm.any() and not self.warm.all():
            texts, profiles = item_sources(data, None), embedding_sources([item_profile])
            if texts and profiles:
                self._sources[False] = texts
            if texts or profiles:
                self._sources[True] = texts + profiles
        self.choices = tuple(self._sources)

    def predictable_items(self, reads_profiles: bool) -> Rows:
        """Return the cold items that have a text or profile which the kernel can compare."""
        return np.flatnonzero(~self.warm & ~rows_without_source(self._sources[reads_profiles]))

    def ridge(self, reads_profiles: bool) -> KernelRidge:
        """Return the regression that compares profiles too, or texts alone."""
        if reads_profiles not in self._ridges:
            evidence = self.warm.astype(np.int64)
            self._ridges[reads_profiles] = KernelRidge(self._sources[reads_profiles], evidence, linear=True)
        return self._ridges[reads_profiles]

    def apply(self, vectors: Vectors, cold_start: ColdStart) -> Matrix:
        """Return the item vectors (n_items, width) with every cold item moved as `cold_start` says."""
        return raised(self._mixed(vectors, cold_start), self.warm, level_shift(vectors, self.warm, cold_start))

    def _mixed(self, vectors: Vectors, cold_start: ColdStart) -> Matrix:
        items = vectors.items
        if not cold_start.kernel_share or not self.choices:
            return items
        reads_profiles = cold_start.reads_profiles or False not in self.choices
        rows = self.predictable_items(reads_profiles)
        if not len(rows):
            return items
        moved = items.copy()
        predicted = self.ridge(reads_profiles).predict(shifted_to_unseen(vectors, self.warm), rows)
        moved[rows] = mix_keeping_spread(items[rows], predicted, cold_start.kernel_share)
        return moved


class _Prediction(NamedTuple):
    """One regression's view of a task: the `cold` items it can predict, its cached kernel, and which are candidates.

    Item `cold[rows[i]]` is the candidate `columns[i]`.
    """

    reads_profiles: bool
    ridge: KernelRidge
    cold: Rows
    kernel: Matrix | None
    columns: Rows
    rows: Rows

    def mixed(self, vectors: Vectors, own: Matrix, predicted: Matrix, share: float) -> Matrix:
        """Return the `own` vectors of the candidates, cold ones mixed with what is `predicted` for all of `cold`."""
        moved = own.copy()
        moved[self.columns] = mix_keeping_spread(vectors.items[self.cold], predicted, share)[self.rows]
        return moved


class ColdStartTask:
    """A validation task cut down to its candidates, which offers the item vectors of every cold start worth trying."""

    def __init__(self, task: EvaluationTask, kernel: ColdStartKernel | None) -> None:
        self.columns = np.flatnonzero(task.candidates)
        self.task = replace(
            task,
            truth=task.truth[:, self.columns],
            mask=task.mask[:, self.columns],
            candidates=np.ones(len(self.columns), dtype=np.bool_),
        )
        self.setting = task.setting
        self._kernel = kernel
        self._predictions: list[_Prediction] = []
        if kernel is not None and task.setting != "full_shot":
            for reads_profiles in kernel.choices:
                cold, ridge = kernel.predictable_items(reads_profiles), kernel.ridge(reads_profiles)
                both, columns, rows = np.intersect1d(self.columns, cold, assume_unique=True, return_indices=True)
                if len(both):
                    cached = ridge.cached_kernel(cold, MAX_CACHED_CELLS // len(kernel.choices))
                    self._predictions.append(_Prediction(reads_profiles, ridge, cold, cached, columns, rows))

    def items(self, vectors: Vectors, cold_start: ColdStart) -> Matrix:
        """Return the vectors (n_candidates, width) that the mix of one cold start gives."""
        own = vectors.items[self.columns]
        if self._kernel is None or not cold_start.kernel_share:
            return own
        targets = shifted_to_unseen(vectors, self._kernel.warm)
        for one in self._predictions:
            if one.reads_profiles == cold_start.reads_profiles:
                return one.mixed(
                    vectors, own, one.ridge.predict(targets, one.cold, one.kernel), cold_start.kernel_share
                )
        return own

    def levels(self, vectors: Vectors, cold_start: ColdStart) -> Iterator[tuple[ColdStart, Matrix]]:
        """Yield a cold start with each other level of the cold items, and the vectors it gives.

        Nothing where all candidates are warm, or all are cold: one level is then as good as another.
        """
        if self._kernel is None or self.setting != SERVED:
            return
        warm = self._kernel.warm
        if warm[self.columns].all() or not warm[self.columns].any():
            return
        items = self.items(vectors, cold_start)
        for shift in LEVEL_SHIFTS:
            option = cold_start._replace(shift=shift)
            yield option, raised(items, warm[self.columns], level_shift(vectors, warm, option))

    def options(self, vectors: Vectors) -> Iterator[tuple[ColdStart, Matrix]]:
        """Yield each mix worth trying with the vectors (n_candidates, width) it gives, the towers' own first."""
        own = vectors.items[self.columns]
        yield ColdStart(), own
        if self._kernel is None or not self._predictions:
            return
        targets = shifted_to_unseen(vectors, self._kernel.warm)
        for one in self._predictions:
            predicted = one.ridge.predict(targets, one.cold, one.kernel)
            for share in KERNEL_SHARES[1:]:
                yield ColdStart(share, one.reads_profiles), one.mixed(vectors, own, predicted, share)


def level_spread(vectors: Vectors, warm: NDArray[np.bool_]) -> float:
    """Return the standard deviation of the warm items' mean scores over all users: how far their levels lie apart."""
    return float((vectors.items[warm] @ vectors.users.mean(axis=0)).std()) if warm.any() else 0.0


def level_shift(vectors: Vectors, warm: NDArray[np.bool_], cold_start: ColdStart) -> Matrix:
    """Return what `cold_start.shift` adds to the vector (width,) of a cold item: something in its last column."""
    shift = np.zeros(vectors.items.shape[1], dtype=np.float32)
    if cold_start.shift:
        shift[-1] = cold_start.shift * level_spread(vectors, warm)
    return shift


def raised(items: Matrix, warm: NDArray[np.bool_], shift: Matrix) -> Matrix:
    """Return the items (n, width) with `shift` (width,) added to each that is not `warm` (n,)."""
    return np.where(warm[:, None], items, items + shift) if shift.any() else items


def shifted_to_unseen(vectors: Vectors, warm: NDArray[np.bool_]) -> Matrix:
    """Shift all items (n_items, width) so that the mean of the `warm` (n_items,) is that of their unseen vectors.

    These are the targets of the regression: what it predicts for a cold item must not contain the advantage that warm
    items have from their interactions. The items are returned unchanged where no unseen vectors are known.
    """
    if vectors.unseen is None or not warm.any():
        return vectors.items
    moved: Matrix = vectors.items + (vectors.unseen[warm] - vectors.items[warm]).mean(axis=0)
    return moved


def mix_keeping_spread(own: Matrix, predicted: Matrix, share: float) -> Matrix:
    """Mix rows (n, width) as `mix` does, then move them apart until they spread as their `own` rows do.

    Every row is moved from the common mean by the same factor, at most MAX_STRETCH, so that an inner product ranks the
    rows as it ranks the plain mix.
    """
    mixed = mix(own, predicted, share)
    spread, wanted = (float(np.linalg.norm(rows - rows.mean(axis=0))) for rows in (mixed, own))
    if spread < wanted:
        mixed += np.float32(min(wanted / max(spread, 1e-12), MAX_STRETCH) - 1) * (mixed - mixed.mean(axis=0))
    return mixed


def mix(own: Matrix, predicted: Matrix, share: float) -> Matrix:
    """Return (1 - share) * own + share * predicted."""
    mixed: Matrix = own + np.float32(share) * (predicted - own)
    return mixed
