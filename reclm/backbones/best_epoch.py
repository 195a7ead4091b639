"""Choose an epoch by a smoothed validation curve.

In: the value of each validated epoch, and what is kept of it. Out: the epoch whose value is best after averaging it
with those of the validations before and after it; at either end its own value counts twice. One validation alone is
noisy, and the largest of many noisy values is a lucky one (Cawley & Talbot, "On over-fitting in model selection", JMLR
11, 2010), so a peak between low neighbours does not count for more than a plateau.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class BestEpoch(Generic[T]):
    """The best epoch of those added so far, with what was kept of it. Equal ones: the earlier.

    An epoch is judged when the one after it has been added; the last one by `finish`. Two are held in memory besides
    the best one.
    """

    kept: T

    def __init__(self) -> None:
        self.epoch = 0
        self._best = float("-inf")
        self._before = 0.0
        self._newest: tuple[int, float, T] | None = None

    def add(self, epoch: int, value: float, kept: T) -> None:
        """Add a validated epoch; epochs come in order."""
        if self._newest is None:
            self.epoch, self.kept, self._before = epoch, kept, value
        else:
            self._judge(self._newest, value)
        self._newest = epoch, value, kept

    def finish(self) -> None:
        """Judge the last epoch, by itself and the one before it."""
        if self._newest is not None:
            self._judge(self._newest, self._newest[1])

    def _judge(self, point: tuple[int, float, T], after: float) -> None:
        epoch, value, kept = point
        smoothed = (self._before + value + after) / 3
        if smoothed > self._best:
            self._best, self.epoch, self.kept = smoothed, epoch, kept
        self._before = value
