"""Predict vectors from texts and profiles by kernel ridge regression.

In: item (or user) texts and embeddings, and the vectors of those rows that have interactions. Out: a vector for every
row, also for those without any interaction. The method is ridge regression in dual variables (Saunders, Gammerman &
Vovk, ICML 1998). The kernel is a sum with one term for each source: the squared cosine of TF-IDF texts, of whitened
text embeddings, of whitened profile embeddings; with `linear` the cosines themselves are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from reclm.backbones.features import EMBEDDING_WIDTH, Matrix, Whitening, landmarks, present, text_rows, unit_length
from reclm.dataset import TrainingData

PENALTY = 1.0
"""Ridge penalty. A larger one moves predictions towards the mean of the known vectors."""
MAX_LANDMARKS = 6000  # rows that the regression learns from at most: its cost grows with their cube
BLOCK = 1024  # rows of the kernel computed at once
MAX_CACHED_CELLS = 100_000_000  # entries of kernels kept in memory (float32) between calls; larger ones are recomputed

Rows = NDArray[np.int64]
Sources = list[NDArray[np.float64] | sparse.csr_matrix]


def item_sources(data: TrainingData, item_profile: Matrix | None) -> Sources:
    """Return row features whose inner products are the kernel's cosines: TF-IDF rows, then whitened embeddings.

    A row of zeros where an item has none.
    """
    texts: Sources = [text_rows(data.texts, data.warm_items)] if any(data.texts) else []
    return texts + embedding_sources([data.item_content, item_profile])


def embedding_sources(embeddings: Sequence[Matrix | None]) -> Sources:
    """Return each matrix of embeddings (n, d) that has any row, whitened, at unit length, zeros where missing."""
    sources: Sources = []
    for rows in embeddings:
        if rows is None or not present(rows).any():
            continue
        white = Whitening.fit(rows, EMBEDDING_WIDTH).apply(rows)
        sources.append(np.where(present(rows)[:, None], unit_length(white), 0).astype(np.float64))
    return sources


def rows_without_source(sources: Sources) -> NDArray[np.bool_]:
    """Mark the rows (n,) for which every source is empty."""
    empty = np.ones(sources[0].shape[0], dtype=np.bool_)
    for source in sources:
        filled = source.astype(bool) if sparse.issparse(source) else source != 0
        empty &= np.asarray(filled.sum(axis=1)).ravel() == 0
    return empty


class KernelRidge:
    """Kernel ridge regression that learns from at most MAX_LANDMARKS of the rows with `evidence` (n,) > 0.

    `evidence` is a count, such as a row's known interactions, or 0 and 1: a row with 0 has no known vector. There must
    be at least one source and one row to learn from.
    """

    def __init__(self, sources: Sources, evidence: NDArray[np.integer], *, linear: bool = False) -> None:
        self.sources, self.linear = sources, linear
        self.landmarks = landmarks(np.flatnonzero(evidence > 0).astype(np.int64), MAX_LANDMARKS)
        system = self.kernel(self.landmarks, np.float64)
        system[np.diag_indices_from(system)] += PENALTY
        self._factors = linalg.lu_factor(system, overwrite_a=True, check_finite=False)

    def kernel(self, rows: Rows, dtype: type[np.floating]) -> NDArray[Any]:
        """Return the kernel (len(rows), n_landmarks): squared positive cosines, with `linear` the cosines too."""
        total = np.zeros((len(rows), len(self.landmarks)), dtype)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            for source in self.sources:
                product = source[rows[block]] @ source[self.landmarks].T
                dense = product.toarray() if sparse.issparse(product) else np.asarray(product)
                total[block] += np.square(np.maximum(dense, 0))
                if self.linear:
                    total[block] += dense
        return total

    def cached_kernel(self, rows: Rows, cells: int) -> Matrix | None:
        """Return the kernel of `rows` for repeated use; None where it has more than `cells` entries."""
        return self.kernel(rows, np.float32) if len(rows) * len(self.landmarks) <= cells else None

    def predict(self, targets: Matrix, rows: Rows, kernel: Matrix | None = None) -> Matrix:
        """Learn from the `targets` of the landmarks (n, f) and predict those of `rows`: (len(rows), f).

        `kernel` is what `cached_kernel` returned for the rows. The mean target is taken off first, so that a row of
        which nothing is known gets the mean.
        """
        mean = targets[self.landmarks].mean(axis=0, dtype=np.float64)
        weights = linalg.lu_solve(self._factors, targets[self.landmarks] - mean, check_finite=False)
        if kernel is not None:
            found: Matrix = kernel @ weights.astype(np.float32) + mean.astype(np.float32)
            return found
        predicted = np.empty((len(rows), targets.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            predicted[block] = self.kernel(rows[block], np.float64) @ weights + mean
        return predicted


def predict_all(
    sources: Sources, evidence: NDArray[np.integer], targets: Matrix, *, linear: bool = False
) -> Matrix | None:
    """Predict every row of `targets` (n, f), learning from those with `evidence` > 0; None without a source."""
    if not sources or not (evidence > 0).any():
        return None
    return KernelRidge(sources, evidence, linear=linear).predict(targets, np.arange(len(targets)))
