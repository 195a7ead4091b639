"""Solve the closed forms that baselines and linear backbones share: cosines, ridge weights, and what they need.

In: sparse histories (n_users, n_items) or dense Gram matrices. Out: dense item-item weights. A score is then history x
weights. Where a closed form cannot be solved on a data set, `why_not` says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from reclm.errors import ModelError

MAX_DENSE_ITEMS = 20_000  # an item-item matrix of this width takes 1.6 GB in float32, its inverse in float64 3.2 GB
BLOCK_ROWS = 2048
NEEDS_TEXT = ("predicted_popularity", "content_cosine", "content_knn", "ridge", "kernel")
NEEDS_ITEM_MATRIX = ("itemknn", "ease", "content_cosine", "content_knn", "ridge", "kernel")

Dense = NDArray[np.float64]


def why_not(name: str, n_items: int, has_texts: bool) -> str | None:
    """Return why the baseline or backbone `name` cannot be fitted, as text to print; None when it can."""
    if name in NEEDS_TEXT and not has_texts:
        return "needs item texts, and this data set has none"
    if name in NEEDS_ITEM_MATRIX and n_items > MAX_DENSE_ITEMS:
        return (
            f"needs an item-item matrix, and {n_items:,} items are more than the {MAX_DENSE_ITEMS:,} that fit in memory"
        )
    return None


def dense_product(left: sparse.csr_matrix, right: sparse.csr_matrix, dtype: type = np.float64) -> NDArray[Any]:
    """Return left @ right as a dense array, in blocks of rows so that the sparse intermediate stays small."""
    result: NDArray[Any] = np.empty((left.shape[0], right.shape[1]), dtype)
    for start in range(0, left.shape[0], BLOCK_ROWS):
        result[start : start + BLOCK_ROWS] = (left[start : start + BLOCK_ROWS] @ right).toarray()
    return result


def cosines(history: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the cosines of the columns of `history` (n_users, n): (n, n), the diagonal 0 (Sarwar et al. 2001)."""
    norms = np.sqrt(np.asarray(history.multiply(history).sum(axis=0)).ravel())
    unit = history @ sparse.diags(1 / np.where(norms == 0, 1, norms))
    similarity = dense_product(unit.T.tocsr(), unit.tocsr(), np.float32)
    np.fill_diagonal(similarity, 0)
    return similarity


def keep_largest(weights: NDArray[np.float32], number: float) -> None:
    """Set all but the `number` largest entries of each column of `weights` (n, m) to 0, in place.

    With equal entries more than `number` may stay.
    """
    if number < len(weights):
        top = np.partition(weights, len(weights) - int(number), axis=0)[len(weights) - int(number)]
        weights[weights < top] = 0


def leave_one_out_weights(gram: Dense, penalty: float) -> NDArray[np.float32]:
    """Predict each item from all others by ridge regression: weights (n, n) with a zero diagonal. Overwrites `gram`.

    `gram` (n, n) holds the inner products of the items. With P = (gram + penalty I)^-1, column t is -P_t / P_tt, which
    is EASE where the products are those of the interactions (Steck 2019, arXiv 1905.03375, eq. 8), and in general the
    closed form of leaving item t out of kernel ridge regression. Raises ModelError when the matrix is singular.
    """
    gram[np.diag_indices_from(gram)] += penalty
    inverse = _inverse(gram)
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def ridge_weights(kernel: Dense, between: Dense, penalty: float) -> NDArray[np.float32]:
    """Predict further items by kernel ridge regression: (kernel + penalty I)^-1 between. Overwrites both.

    `kernel` (n, n) holds the kernel of the n known items, `between` (n, m) theirs with the items to predict; the result
    is (n, m).
    """
    kernel[np.diag_indices_from(kernel)] += penalty
    return linalg.cho_solve(cholesky(kernel), between, overwrite_b=True, check_finite=False).astype(np.float32)


def cholesky(system: Dense) -> tuple[Dense, bool]:
    """Factorise a symmetric positive definite matrix in place, for `scipy.linalg.cho_solve`."""
    try:
        return linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        raise ModelError("the item-item matrix is singular; its penalty must be above 0") from None


def _inverse(system: Dense) -> Dense:
    """The inverse of a symmetric positive definite matrix, in the memory of one."""
    factor, _ = cholesky(np.asfortranarray(system))
    inverse, info = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info:
        raise ModelError("the item-item matrix is singular; its penalty must be above 0")
    for start in range(0, len(inverse), BLOCK_ROWS):  # LAPACK fills the lower triangle alone
        stop = start + BLOCK_ROWS
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        corner = np.tril(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] = corner + np.tril(corner, -1).T
    return inverse
