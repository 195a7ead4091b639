"""Compare items by their texts and profiles: the kernel of the closed-form backbones.

In: item texts, text embeddings and profile embeddings. Out: kernel values between items. The kernel is a plain sum of
cosines: of the centred text embeddings, of TF-IDF rows times `text_weight`, and of the centred profile embeddings times
`profile_weight`. Centring takes away the direction that all embeddings of a sentence encoder share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.closed_form import Dense, dense_product
from reclm.backbones.features import Matrix, present, text_rows, unit_length
from reclm.backbones.fitted import Options

Rows = NDArray[np.int64]


class ContentKernel:
    """The kernel over the items of one data set.

    `texts` (n_items), `item_content` and `item_profile` (n_items, dim) are as in `TrainingData`; word weights and means
    are those of the items in `fit_rows` (n_items,).
    """

    def __init__(
        self, texts: list[str], item_content: Matrix | None, item_profile: Matrix | None, fit_rows: NDArray[np.bool_]
    ) -> None:
        self.texts = text_rows(texts, fit_rows) if any(texts) else None
        self.content, self.profiles = (_directions(rows, fit_rows) for rows in (item_content, item_profile))
        self.known = np.zeros(len(texts), dtype=np.bool_)
        """Marks the items (n_items,) of which a text or profile is known."""
        for embeddings in (self.content, self.profiles):
            if embeddings is not None:
                self.known |= embeddings.any(axis=1)
        if self.texts is not None:
            self.known |= self.texts.getnnz(axis=1) > 0

    @property
    def weights(self) -> set[str]:
        """Return the names of the options that change the kernel of this data set."""
        names = {"text_weight": self.texts, "profile_weight": self.profiles}
        return {name for name, source in names.items() if source is not None}

    def between(self, some: Rows, others: Rows, options: Options) -> Dense:
        """Return the kernel (len(some), len(others)) with the `text_weight` and `profile_weight` of `options`."""
        total = np.zeros((len(some), len(others)))
        if self.texts is not None:
            total += dense_product(self.texts[some], self.texts[others].T.tocsr())
            total *= options["text_weight"]
        for embeddings, weight in ((self.content, 1.0), (self.profiles, options["profile_weight"])):
            if embeddings is not None and weight:
                total += weight * (embeddings[some] @ embeddings[others].T)
        return total


def _directions(rows: Matrix | None, fit_rows: NDArray[np.bool_]) -> Dense | None:
    """Unit rows minus their mean over `fit_rows`, at unit length again; zeros where missing."""
    if rows is None or not (there := present(rows)).any():
        return None
    unit = unit_length(rows).astype(np.float64)
    fitted = fit_rows & there
    centred = unit - unit[fitted if fitted.any() else there].mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(there[:, None] & (lengths > 1e-6), centred / np.maximum(lengths, 1e-6), 0.0)
