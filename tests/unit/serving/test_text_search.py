"""Items are found by meaning, also where a language model has read their texts and the query has no such columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from reclm.serving.item_catalogue import _added, _unit_in
from reclm.serving.text_search import TextSearch
from reclm.settings.tree import Settings

QUERY = np.array([1, 0], dtype=np.float32)
SENTENCE = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.0, 0.0]], dtype=np.float32)


def found(meaning: NDArray[np.float32], width: int = 2) -> tuple[list[int], list[float]]:
    search = TextSearch(Settings())
    search._encode = lambda texts: QUERY[None]
    hidden = SimpleNamespace(positions=lambda: np.zeros(0, dtype=np.int64))
    index: Any = SimpleNamespace(catalogue=SimpleNamespace(meaning=meaning, sentence_width=width), hidden=hidden)
    positions, cosines = search.find(index, "tea", 10)
    return positions.tolist(), cosines.tolist()


@pytest.mark.parametrize("reading", [[], [[0.3], [0.9], [-0.5], [0.0]]])
def test_the_nearest_come_first_and_items_without_any_vector_are_left_out(reading: list[list[float]]) -> None:
    further = np.array(reading, dtype=np.float32).reshape(len(SENTENCE), -1)
    positions, cosines = found(np.concatenate([SENTENCE, further], axis=1))
    assert positions == [2, 0, 1]
    assert cosines == pytest.approx([0.8, 0.6, 0.0], abs=1e-6)


@pytest.mark.parametrize("width", [0, 1, 4])
def test_vectors_of_another_encoder_find_nothing(width: int) -> None:
    wider = np.concatenate([SENTENCE, SENTENCE], axis=1)
    assert found(wider[:, : max(width, 1)], width) == ([], [])


def test_beside_a_reading_the_sentence_vector_of_a_text_counts_as_much_as_a_profile() -> None:
    rows = np.array([[0.3, 0.4, 0.9], [0, 0, 0]], dtype=np.float32)
    assert _unit_in(rows, 2) == pytest.approx(np.array([[0.6, 0.8, 1.8], [0, 0, 0]]))


@pytest.mark.parametrize("widths", [(2, 3), (3, 2), (2, 2)])
def test_the_vectors_of_text_and_profile_add_up_over_the_columns_that_both_have(widths: tuple[int, int]) -> None:
    sums = np.zeros((2, 0), dtype=np.float32)
    for width in widths:
        batch = pa.record_batch({"embedding": pa.array([[1.0] * width, None], pa.list_(pa.float32()))})
        sums = _added(sums, batch, np.array([1, 0]))
    expected = [2.0] * min(widths) + [1.0] * (max(widths) - min(widths))
    assert sums.tolist() == [[0.0] * max(widths), expected]
