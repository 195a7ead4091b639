"""Which epoch is kept: the best by a curve in which each value is averaged with its neighbours."""

from __future__ import annotations

import pytest

from reclm.backbones.best_epoch import BestEpoch


def best_of(values: list[float]) -> BestEpoch[str]:
    best: BestEpoch[str] = BestEpoch()
    for number, value in enumerate(values):
        best.add(2 * number, value, f"state {2 * number}")
    best.finish()
    return best


class TestTheBestEpoch:
    @pytest.mark.parametrize(
        ("values", "epoch"),
        [
            ([0.1, 0.9, 0.1, 0.6, 0.7, 0.5], 8),  # a peak between low neighbours is luck
            ([0.1, 0.2, 0.3, 0.4], 6),  # still rising
            ([0.4, 0.3, 0.2, 0.1], 0),
            ([0.2, 0.5, 0.5, 0.5, 0.5], 4),  # the first of a plateau
            ([0.3], 0),
        ],
    )
    def test_is_that_of_the_smoothed_curve(self, values: list[float], epoch: int) -> None:
        best = best_of(values)
        assert (best.epoch, best.kept) == (epoch, f"state {epoch}")

    def test_is_known_while_epochs_are_added(self) -> None:
        best: BestEpoch[str] = BestEpoch()
        best.add(0, 0.1, "a")
        assert (best.epoch, best.kept) == (0, "a")
        best.add(2, 0.5, "b")
        best.add(4, 0.3, "c")
        assert (best.epoch, best.kept) == (2, "b")
