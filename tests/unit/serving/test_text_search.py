"""Items are found by meaning, also where a language model has read their texts and the query has no such columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from reclm.serving.item_catalogue import _added
from reclm.serving.text_search import TextSearch
from reclm.settings.tree import Settings

QUERY = np.array([1, 0], dtype=np.float32)
SENTENCE = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.0, 0.0]], dtype=np.float32)


def index_of(meaning: NDArray[np.float32]) -> Any:
    hidden = SimpleNamespace(positions=lambda: np.zeros(0, dtype=np.int64))
    return SimpleNamespace(catalogue=SimpleNamespace(meaning=meaning), hidden=hidden)


def found(meaning: NDArray[np.float32]) -> tuple[list[int], list[float]]:
    search = TextSearch(Settings())
    search._encode = lambda texts: QUERY[None]
    positions, cosines = search.find(index_of(meaning), "tea", 10)
    return positions.tolist(), cosines.tolist()


@pytest.mark.parametrize("reading", [[], [[0.3], [0.9], [-0.5], [0.0]]])
def test_the_nearest_come_first_and_items_without_any_vector_are_left_out(reading: list[list[float]]) -> None:
    further = np.array(reading, dtype=np.float32).reshape(len(SENTENCE), -1)
    positions, cosines = found(np.concatenate([SENTENCE, further], axis=1))
    assert positions == [2, 0, 1]
    assert cosines == pytest.approx([0.8, 0.6, 0.0], abs=1e-6)


def test_vectors_of_another_encoder_find_nothing() -> None:
    assert found(SENTENCE[:, :1]) == ([], [])


@pytest.mark.parametrize("widths", [(2, 3), (3, 2), (2, 2)])
def test_the_vectors_of_text_and_profile_add_up_over_the_columns_that_both_have(widths: tuple[int, int]) -> None:
    sums = np.zeros((2, 0), dtype=np.float32)
    for width in widths:
        batch = pa.record_batch({"embedding": pa.array([[1.0] * width, None], pa.list_(pa.float32()))})
        sums = _added(sums, batch, np.array([1, 0]))
    expected = [2.0] * min(widths) + [1.0] * (max(widths) - min(widths))
    assert sums.tolist() == [[0.0] * max(widths), expected]
