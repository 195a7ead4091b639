"""Where a row belongs that has no evidence of its own, by kernel ridge regression from what is known of it (Saunders,
Gammerman & Vovk, "Ridge regression learning algorithm in dual variables", ICML 1998) to the vectors of the rows that have
some. The kernel is a sum, one a source: cosine² of the TF-IDF texts, cosine² of whitened text embeddings, cosine² of
whitened profile embeddings; with `linear` the cosines as well (better for networks and on dense logs, worse for implicit's
models on sparse ones, by Recall@20 of cold items on validation).

implicit's models and items that come after training are placed by it alone. A network's cold item has a tower, which is
trained with all the rest, and knows of the whole; the kernel knows of the nearest. `Placing` mixes the two. The tower alone
says how cold items stand beside warm ones, where their middle is and how far they lie apart: the kernel has learned from the
touched how the touched stand, and brings all nearer to the middle than they belong. Whether like
profiles make like items is a matter of the log (by the validation slices they do in the demo shop, and do not on sparse
anime), so a network's kernel reads them where validation says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from reclm.backbones.features import Matrix, Whitening, landmarks, present, tfidf, unit_length
from reclm.backbones.fitted import ColdStart, Vectors
from reclm.backbones.fusion.fusion import EMBEDDING_WIDTH
from reclm.dataset import TrainingData

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of a cold item's vector the kernel may have; the rest is the tower's. What a share is worth, validation says:
from nothing (ml-100k) to all (anime)."""
WIDEST = 2.0
"""Times that cold items are moved apart, at most: a kernel that says nearly the same of all knows no better."""
PENALTY = 1.0
MAX_LANDMARKS = 6000
BLOCK = 1024
KEPT_CELLS = 100_000_000
"""Entries of kernels that are kept in memory, in float32, from one use to the next; more are computed each time."""

Rows = NDArray[np.int64]
Kernel = list[NDArray[np.float64] | sparse.csr_matrix]


def item_kernels(data: TrainingData, item_profile: Matrix | None) -> Kernel:
    """Row features whose inner products are the kernels: TF-IDF rows, then whitened embeddings; zeros where missing."""
    texts: Kernel = [tfidf(data.texts, data.warm_items)] if any(data.texts) else []
    return texts + embedding_kernels([data.item_content, item_profile])


def embedding_kernels(sources: Sequence[Matrix | None]) -> Kernel:
    """The same of embeddings (n, d) alone."""
    rows: Kernel = []
    for source in sources:
        if source is None or not present(source).any():
            continue
        white = Whitening.fit(source, EMBEDDING_WIDTH).apply(source)
        rows.append(np.where(present(source)[:, None], unit_length(white), 0).astype(np.float64))
    return rows


def silent(sources: Kernel) -> NDArray[np.bool_]:
    """(n,) rows of which no source says anything."""
    nothing = np.ones(sources[0].shape[0], dtype=np.bool_)
    for source in sources:
        filled = source.astype(bool) if sparse.issparse(source) else source != 0
        nothing &= np.asarray(filled.sum(axis=1)).ravel() == 0
    return nothing


class KernelMap:
    """Kernel ridge on the rows with `evidence` (n,), at most MAX_LANDMARKS of them; there must be a source and such a row."""

    def __init__(self, sources: Kernel, evidence: NDArray[np.integer], *, linear: bool = False) -> None:
        self.sources, self.linear = sources, linear
        self.anchors = landmarks(np.flatnonzero(evidence > 0).astype(np.int64), MAX_LANDMARKS)
        system = self.kernel(self.anchors, np.float64)
        system[np.diag_indices_from(system)] += PENALTY
        self._factors = linalg.lu_factor(system, overwrite_a=True, check_finite=False)

    def kernel(self, rows: Rows, dtype: type[np.floating]) -> NDArray[Any]:
        """(len(rows), anchors): the positive part of the sources' cosines, squared, and with `linear` the cosines too."""
        total = np.zeros((len(rows), len(self.anchors)), dtype)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            for source in self.sources:
                product = source[rows[block]] @ source[self.anchors].T
                dense = product.toarray() if sparse.issparse(product) else np.asarray(product)
                total[block] += np.square(np.maximum(dense, 0))
                if self.linear:
                    total[block] += dense
        return total

    def kept(self, rows: Rows, cells: int) -> Matrix | None:
        """The kernel of `rows`, to be used again and again; None where it has more than `cells` (see KEPT_CELLS)."""
        return self.kernel(rows, np.float32) if len(rows) * len(self.anchors) <= cells else None

    def predict(self, targets: Matrix, rows: Rows, kernel: Matrix | None = None) -> Matrix:
        """What the anchors' `targets` (n, f) say of `rows`: (len(rows), f). `kernel` is what `kept` gave for them.

        The mean of the targets is taken off first, so that a row about which nothing is known gets the mean.
        """
        mean = targets[self.anchors].mean(axis=0, dtype=np.float64)
        weights = linalg.lu_solve(self._factors, targets[self.anchors] - mean, check_finite=False)
        if kernel is not None:
            found: Matrix = kernel @ weights.astype(np.float32) + mean.astype(np.float32)
            return found
        predicted = np.empty((len(rows), targets.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            predicted[block] = self.kernel(rows[block], np.float64) @ weights + mean
        return predicted


def mapped(sources: Kernel, evidence: NDArray[np.integer], targets: Matrix, *, linear: bool = False) -> Matrix | None:
    """What kernel ridge, learned on rows with evidence (n,), predicts for every row of targets (n, f); None without sources."""
    if not sources or not (evidence > 0).any():
        return None
    return KernelMap(sources, evidence, linear=linear).predict(targets, np.arange(len(targets)))


class Placing:
    """Cold items of a network: a share of the kernel's, the rest their tower's. `kernels` are the values that
    `Place.profiles` may have, in the order in which they are tried: False where there are texts besides profiles, True for
    all that is known; none where no item is warm, or all are."""

    def __init__(self, data: TrainingData, item_profile: Matrix | None) -> None:
        self.warm = data.warm_items
        self._sources: dict[bool, Kernel] = {}
        self._maps: dict[bool, KernelMap] = {}
        if self.warm.any() and not self.warm.all():
            texts, profiles = item_kernels(data, None), embedding_kernels([item_profile])
            if texts and profiles:
                self._sources[False] = texts
            if texts or profiles:
                self._sources[True] = texts + profiles
        self.kernels = tuple(self._sources)

    def cold(self, profiles: bool) -> Rows:
        """The items that the kernel can place: nobody touched them, and its sources say something of them."""
        return np.flatnonzero(~self.warm & ~silent(self._sources[profiles]))

    def map(self, profiles: bool) -> KernelMap:
        if profiles not in self._maps:
            self._maps[profiles] = KernelMap(self._sources[profiles], self.warm.astype(np.int64), linear=True)
        return self._maps[profiles]

    def placed(self, vectors: Vectors, place: ColdStart) -> Matrix:
        """The items (n_items, width) of `vectors` with every cold row moved by `place.share` to where the kernel puts it."""
        items = vectors.items
        if not place.share or not self.kernels:
            return items
        kernel = place.profiles or False not in self.kernels
        rows = self.cold(kernel)
        if not len(rows):
            return items
        moved = items.copy()
        told = self.map(kernel).predict(levelled(vectors, self.warm), rows)
        moved[rows] = between(items[rows], told, place.share)
        return moved


def levelled(vectors: Vectors, warm: NDArray[np.bool_]) -> Matrix:
    """What a kernel learns of final `vectors`: the items (n_items, width), all moved alike, so that the mean of the `warm`
    (n_items,) is the one that they would have if nobody had touched them. Where that is not known they stay."""
    if vectors.unseen is None or not warm.any():
        return vectors.items
    moved: Matrix = vectors.items + (vectors.unseen[warm] - vectors.items[warm]).mean(axis=0)
    return moved


def between(own: Matrix, told: Matrix, share: float) -> Matrix:
    """Rows (n, width) `blended`, and then as far from their mean, all together, as their `own` are, at most WIDEST times as
    far as the mix is. All move alike, so that an inner product ranks them as the mix does."""
    mixed = blended(own, told, share)
    apart, wanted = (float(np.linalg.norm(rows - rows.mean(axis=0))) for rows in (mixed, own))
    if apart < wanted:
        mixed += np.float32(min(wanted / max(apart, 1e-12), WIDEST) - 1) * (mixed - mixed.mean(axis=0))
    return mixed


def blended(own: Matrix, told: Matrix, share: float) -> Matrix:
    """(1 - share)·own + share·told."""
    mixed: Matrix = own + np.float32(share) * (told - own)
    return mixed
