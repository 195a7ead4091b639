"""Turn raw texts and embeddings into well-conditioned input features.

Texts become TF-IDF rows, and these the leading coordinates of the squared-cosine kernel (kernel PCA, Schölkopf et al.
1998, by landmarks as in Williams & Seeger, "Using the Nyström method", NIPS 2000): two shared words count more than
twice as much as one. Embeddings are brought to unit length, centred and whitened with shrinkage, because sentence
encoders put most of their variance into a few shared directions (Su et al., "Whitening sentence representations",
2021). Everything is computed on the rows that a model is fitted on and applied to all, in float64, without randomness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.text.tfidf import tfidf

Matrix = NDArray[np.float32]

MAX_LANDMARKS = 4096
EMBEDDING_WIDTH = 128  # columns that whitened embeddings keep: more tell rarer themes apart, and cost time
SHRINKAGE = 0.1  # of the mean variance, added to each: directions of little variance are not blown up to noise
NEGLIGIBLE = 1e-9  # share of the leading variance under which a direction is rounding error


def text_rows(texts: list[str], fit_rows: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Return the TF-IDF rows of the texts, fitted on `fit_rows`, words stored in order.

    The order decides in which order products are summed, and so their last digit.
    """
    return tfidf(texts, fit_rows).sorted_indices()


def landmarks(rows: NDArray[np.int64], limit: int = MAX_LANDMARKS) -> NDArray[np.int64]:
    """Return at most `limit` of `rows`, evenly spread over them."""
    return rows if len(rows) <= limit else rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]


def text_features(texts: list[str], fit_rows: NDArray[np.bool_], width: int) -> Matrix:
    """Return coordinates (n_texts, ≤ width) whose inner products approximate the squared cosines of the TF-IDF rows.

    Rows of empty texts are NaN.
    """
    rows = text_rows(texts, fit_rows)
    landmark_rows = rows[landmarks(np.flatnonzero(fit_rows & (rows.getnnz(axis=1) > 0)))]
    if landmark_rows.shape[0] == 0:
        return np.full((len(texts), 0), np.nan, dtype=np.float32)
    kernel = np.square((landmark_rows @ landmark_rows.T).toarray())
    values, vectors = _leading(kernel, width)
    projection = vectors / np.sqrt(values)
    features = np.empty((len(texts), len(values)), dtype=np.float32)
    for start in range(0, len(texts), MAX_LANDMARKS):
        block = (rows[start : start + MAX_LANDMARKS] @ landmark_rows.T).toarray()
        features[start : start + MAX_LANDMARKS] = np.square(block) @ projection
    features[rows.getnnz(axis=1) == 0] = np.nan
    return features


def _leading(kernel: NDArray[np.float64], width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `width` largest eigenvalues of a kernel matrix, descending, and their vectors, by subspace iteration."""
    n = len(kernel)
    start = np.random.default_rng(0).standard_normal((n, min(n, width + 32)))
    basis = np.linalg.qr(kernel @ start)[0]
    for _ in range(3):
        basis = np.linalg.qr(kernel @ basis)[0]
    values, inner = np.linalg.eigh(basis.T @ kernel @ basis)
    order = np.argsort(-values)[:width]
    order = order[values[order] > NEGLIGIBLE * values[order[0]]]
    return values[order], basis @ inner[:, order]


@dataclass(frozen=True)
class Whitening:
    """The map x ↦ (x/|x| − mean) · projection, which gives each kept direction unit variance, up to shrinkage.

    `mean` is (dim,), `projection` (dim, width) with width ≤ dim. NaN rows stay NaN.
    """

    mean: NDArray[np.float64]
    projection: NDArray[np.float64]

    @classmethod
    def fit(cls, rows: Matrix, width: int) -> Whitening:
        """Compute the map from the `rows` (n, dim) that are not missing; width 0 if there are none or all are equal."""
        unit = _unit(rows[present(rows)])
        dim = rows.shape[1]
        if len(unit) < 2:
            return cls(np.zeros(dim), np.zeros((dim, 0)))
        mean = unit.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((unit - mean).T).reshape(dim, dim))
        order = np.argsort(-values)[:width]
        order = order[values[order] > max(NEGLIGIBLE * values[order[0]], 1e-12)]
        scale = np.sqrt(values[order] + SHRINKAGE * values[order].sum() / max(len(order), 1))
        return cls(mean, vectors[:, order] / scale)

    def apply(self, rows: Matrix) -> Matrix:
        """Whiten rows, (n, dim) to (n, width)."""
        whitened = (_unit(rows) - self.mean) @ self.projection
        return whitened.astype(np.float32)


def unit_length(rows: Matrix) -> Matrix:
    """Scale each row to length one; a row of zeros stays zero, NaN rows stay NaN."""
    return _unit(rows).astype(np.float32)


def present(rows: Matrix) -> NDArray[np.bool_]:
    """Mark the rows (n,) that hold only finite numbers."""
    return np.asarray(np.isfinite(rows).all(axis=1), dtype=np.bool_)


def _unit(rows: Matrix) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths == 0, 1, lengths)
