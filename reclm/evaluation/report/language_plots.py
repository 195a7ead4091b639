"""Draw the plots of the language model: curves of tuning, reward and refinement, and the gains of an ablation.

In: rows of curves and results. Out: plots in the style of `plots.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.evaluation.report.plots import MARKERS, PALETTE, SETTING_NAMES, THEME_COLOUR, Plot, add_legend, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Series = dict[str, list[tuple[int, float]]]


def series_of(curve: Sequence[Row], names: Sequence[str]) -> Series:
    """Return {metric: [(step, value)]} of the metrics in `names` that occur; finite values only."""
    found: Series = defaultdict(list)
    for row in curve:
        if row["metric"] in names and np.isfinite(row["value"]):
            found[row["metric"]].append((row["step"], row["value"]))
    return {name: sorted(found[name]) for name in names if found[name]}


def losses(title: str, curve: Sequence[Row], names: Sequence[str] = ("loss", "validation_loss")) -> list[Plot]:
    """Draw the losses of a training by step; no plot when nothing was logged."""
    lines = series_of(curve, names)
    if not lines:
        return []

    def paint(axes: Axes) -> None:
        for (name, points), colour in zip(lines.items(), PALETTE, strict=False):
            steps, values = np.array(points).T
            marker = "." if len(points) < 3 else None
            axes.plot(steps, values, color=colour, linewidth=1.2, marker=marker, label=name.replace("_", " "))
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        add_legend(axes)

    return [draw(title, paint)]


def refinement(curve: Sequence[Row], kept: int) -> list[Plot]:
    """Draw held-out reward ± standard error and divergence from the tuned model; a line marks the kept update."""
    held_out = series_of(curve, ("held_out/reward", "held_out/reward_error", "held_out/kl"))
    plots = []
    if "held_out/reward" in held_out:
        errors = dict(held_out.get("held_out/reward_error", []))

        def paint_reward(axes: Axes) -> None:
            steps, values = np.array(held_out["held_out/reward"]).T
            spread = [errors.get(int(at), 0.0) for at in steps]
            axes.errorbar(
                steps, values, yerr=spread, color=PALETTE[0], marker="o", markersize=4, capsize=2, linewidth=1.2
            )
            _mark(axes, kept)
            axes.set_ylabel("held-out reward ± standard error")

        plots.append(draw("Refinement: reward", paint_reward))
    if "held_out/kl" in held_out:

        def paint_kl(axes: Axes) -> None:
            steps, values = np.array(held_out["held_out/kl"]).T
            axes.plot(steps, values, color=PALETTE[4], marker="s", markersize=4, linewidth=1.2)
            _mark(axes, kept)
            axes.set_ylabel("KL to the tuned model, nats per answer")

        plots.append(draw("Refinement: divergence", paint_kl))
    return plots


def _mark(axes: Axes, kept: int) -> None:
    axes.axvline(kept, color=THEME_COLOUR, linewidth=0.8, linestyle=":", label=f"kept: update {kept}")
    axes.set_xlabel("update")
    add_legend(axes)


def ablation(rows: Sequence[Row]) -> list[Plot]:
    """Draw NDCG@20 over base with its interval, per setting, of each arm (filled) and of shuffled profiles (hollow)."""
    plots = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        inside = [
            row for row in rows if row["setting"] == setting and row["metric"] == "ndcg" and row["diff"] is not None
        ]
        arms = list(dict.fromkeys(row["arm"] for row in inside))
        models = list(dict.fromkeys(row["model"] for row in inside))

        def paint(axes: Axes, inside: Any = inside, arms: Any = arms, models: Any = models) -> None:
            for row in inside:
                at, shuffled = models.index(row["model"]), row["variant"] == "shuffled"
                position = arms.index(row["arm"]) + 0.14 * (2 * at - len(models) + 1) + (0.07 if shuffled else 0)
                colour, low, high = PALETTE[at % len(PALETTE)], row["diff_lo"], row["diff_hi"]
                axes.plot([low, high], [position, position], color=colour, linewidth=1.2, alpha=0.8)
                face = "none" if shuffled else colour
                label = f"{row['model']}{' shuffled' if shuffled else ''}"
                known = axes.get_legend_handles_labels()[1]
                axes.plot(
                    [row["diff"]], [position], MARKERS[at % len(MARKERS)], color=colour, markerfacecolor=face,
                    markersize=5, label="_" if label in known else label,
                )  # fmt: skip
            axes.axvline(0, color=THEME_COLOUR, linewidth=0.8)
            axes.set_yticks(range(len(arms)), arms)
            axes.invert_yaxis()
            axes.set_xlabel("NDCG@20 over base, 95 % interval")
            add_legend(axes, 2)

        title = f"Writers of profiles, {SETTING_NAMES.get(setting, setting)}"
        plots.append(draw(title, paint, (4.4, 1.4 + 0.4 * len(arms))))
    return plots
