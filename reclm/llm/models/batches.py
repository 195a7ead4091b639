"""Make batches for a language model.

In: rows of token ids. Out: padded tensors of rows of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class PaddedBatch(NamedTuple):
    """`input_ids` and `attention_mask`, both (batch, width), int64; the mask is 0 where a row is padding."""

    input_ids: Tensor
    attention_mask: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return both tensors under the names that a model takes them by."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def position_ids(self) -> Tensor:
        """Return the place of each token in its row, (batch, width), which padding on the left does not change."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Sort row numbers by length, equal lengths in their old order, and cut them into batches of `batch_size`."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def pad(
    rows: Sequence[Sequence[int]], pad_token: int | None, *, side: Literal["left", "right"], device: Any
) -> PaddedBatch:
    """Pad rows of token ids to the longest of them, on one side, as tensors on `device`."""
    import torch

    width = max(map(len, rows))

    def padded(row: Sequence[int], filler: int | None) -> list[int | None]:
        missing = [filler] * (width - len(row))
        return [*missing, *row] if side == "left" else [*row, *missing]

    ids = torch.tensor([padded(row, pad_token) for row in rows], device=device)
    mask = torch.tensor([padded([1] * len(row), 0) for row in rows], device=device)
    return PaddedBatch(ids, mask)
