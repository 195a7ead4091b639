"""Batches of token ids: their order, their padding and the positions of their tokens."""

from __future__ import annotations

import pytest

from reclm.llm.models.batches import batches_by_length, pad


class TestBatchesByLength:
    def test_shorter_rows_come_first_and_equal_lengths_keep_their_order(self) -> None:
        assert batches_by_length([3, 1, 2, 1, 3], 2) == [[1, 3], [2, 0], [4]]

    def test_without_rows_there_are_none(self) -> None:
        assert batches_by_length([], 4) == []


class TestPad:
    @pytest.mark.parametrize(
        ("side", "ids", "mask", "positions"),
        [
            ("left", [[0, 0, 5], [6, 7, 8]], [[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 1, 2]]),
            ("right", [[5, 0, 0], [6, 7, 8]], [[1, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 2]]),
        ],
    )
    def test_fills_rows_up_to_the_longest(
        self, side: str, ids: list[list[int]], mask: list[list[int]], positions: list[list[int]]
    ) -> None:
        batch = pad([[5], [6, 7, 8]], 0, side=side, device="cpu")  # type: ignore[arg-type]
        assert batch.input_ids.tolist() == ids
        assert batch.attention_mask.tolist() == mask
        assert batch.position_ids().tolist() == positions
        assert set(batch.inputs()) == {"input_ids", "attention_mask"}
