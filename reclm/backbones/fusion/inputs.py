"""What a network may read of users and items besides their ids: texts, text embeddings and profiles, ready for a tower.

There are three variants: `base` reads ids, item texts and histories; `augment` adds user and item profiles (RecLM,
arXiv 2412.19302, section 3.1); `shuffled` is augment with the profiles permuted among the entities that have one. It is
the control that shows what the content of profiles is worth beyond the extra parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.features import EMBEDDING_WIDTH, Matrix, Whitening, present, text_features
from reclm.backbones.fusion.recipe import TEXT_WIDTH
from reclm.dataset import TrainingData, Variant


def profiles_of(data: TrainingData, variant: Variant, seed: int) -> tuple[Matrix | None, Matrix | None]:
    """Return the user and item profile vectors that a variant may read; `shuffled` permutes the rows that exist."""
    if variant == "base":
        return None, None
    if variant == "augment":
        return data.user_profile, data.item_profile
    random = np.random.default_rng([seed, 7])
    return _permuted(data.user_profile, random), _permuted(data.item_profile, random)


def _permuted(rows: Matrix | None, random: np.random.Generator) -> Matrix | None:
    if rows is None:
        return None
    existing = np.flatnonzero(present(rows))
    permuted = rows.copy()
    permuted[existing] = rows[random.permutation(existing)]
    return permuted


def content_features(data: TrainingData) -> list[Matrix]:
    """Return the text kernel coordinates and the whitened text embeddings of items, NaN where missing."""
    warm = data.warm_items
    texts = [_text_features(tuple(data.texts), warm.tobytes())] if any(data.texts) else []
    return texts + whitened(data.item_content, warm)


@lru_cache(maxsize=3)  # every model and variant of a run asks for one of the same snapshots, at seconds each
def _text_features(texts: tuple[str, ...], warm: bytes) -> Matrix:
    return text_features(list(texts), np.frombuffer(warm, dtype=np.bool_), TEXT_WIDTH)


def whitened(rows: Matrix | None, fit_rows: NDArray[np.bool_]) -> list[Matrix]:
    """Return [whitened rows], fitted on `fit_rows`; [] where the data set has none."""
    return [] if rows is None else [Whitening.fit(rows[fit_rows], EMBEDDING_WIDTH).apply(rows)]


@dataclass(frozen=True)
class TowerInput:
    """Input of a tower: `rows` (n, width), and `missing` (width,), the row of an entity of which nothing is known.

    `start` (width, dim) is the linear map that the tower starts with; None for a small random one.
    """

    rows: Matrix
    missing: Matrix
    start: Matrix | None = None


def with_flags(parts: list[Matrix]) -> TowerInput | None:
    """Join matrices (n, w) side by side, each at unit mean square with a flag column that is 1 where a row is missing.

    Missing rows become zeros. Returns None where no part has a column.
    """
    blocks, missing = [], []
    for part in (p for p in parts if p.shape[1]):
        exists = present(part)
        filled = np.where(exists[:, None], part, 0)
        mean_square = np.square(filled[exists]).mean() if exists.any() else 1.0
        blocks += [filled / np.sqrt(mean_square or 1.0), ~exists[:, None]]
        missing += [*[0.0] * part.shape[1], 1.0]
    return TowerInput(np.hstack(blocks).astype(np.float32), np.array(missing, dtype=np.float32)) if blocks else None


def existing(**inputs: TowerInput | None) -> dict[str, TowerInput]:
    """Return the inputs that are not None."""
    return {kind: part for kind, part in inputs.items() if part is not None}
