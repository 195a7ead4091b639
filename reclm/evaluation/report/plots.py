"""Draw the plots of the report as inline SVG that follows the page's light or dark theme.

In: rows as dictionaries. Out: one small figure per question, so that a phone shows them one below the other. Text and
axes are drawn in a placeholder colour that becomes `currentColor` of CSS; labels are never parsed as mathematics.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from reclm.evaluation.bands import BANDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEME_COLOUR = "#010203"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#7a8b00", "#882255", "#44aa99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
VARIANT_COLOURS = {"baseline": "#8a8a8a", "base": PALETTE[0], "augment": PALETTE[4], "shuffled": PALETTE[3]}
SETTING_LINES = {"full_shot": "-", "zero_shot": "--", "mixed": ":"}
SETTING_NAMES = {"full_shot": "full-shot", "zero_shot": "zero-shot", "mixed": "mixed"}
BAND_TITLES = {
    "activity": "known interactions of the user",
    "coldness": "known interactions of the item",
    "density": "density of the user's neighbourhood",
}
SIZE = (4.4, 3.1)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Plot:
    """A drawing and its title."""

    title: str
    svg: Markup


def draw(title: str, paint: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Plot:
    """Draw one figure; `paint` fills its axes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "font.size": 8,
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), THEME_COLOUR
        ),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
        paint(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(title, _inline(stream.getvalue(), title))


def _inline(svg: str, title: str) -> Markup:
    """The <svg> element without prologue and fixed size, in the text colour of the theme."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = body.replace(THEME_COLOUR, "currentColor")
    return Markup(body.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(title), 1))


def add_legend(axes: Axes, columns: int = 4) -> None:
    """Add a legend below the figure, if any line has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure = axes.figure
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=7)


def _styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name."""
    return {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(dict.fromkeys(names))}


def gain_by_severity(gain_rows: Sequence[Row], label: str) -> list[Plot]:
    """Draw the gain of profiles by band, one plot per setting and kind of band. `gain_rows` come from `bands.gains`."""
    styles = _styles(row["model"] for row in gain_rows)
    grouped: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in gain_rows:
        grouped[row["setting"], row["band_kind"]][row["model"]][row["band"]] = row["gain"]
    plots = []
    for (setting, kind), models in grouped.items():
        present = {band for series in models.values() for band in series}
        order = [band for band in BANDS.get(kind, ()) if band in present]
        if len(order) < 2:
            continue

        def paint(axes: Axes, models: Any = models, order: list[str] = order, kind: str = kind) -> None:
            for model, series in models.items():
                colour, marker = styles[model]
                positions = [position for position, band in enumerate(order) if band in series]
                values = [series[order[position]] for position in positions]
                axes.plot(positions, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=model)
            axes.axhline(0, color=THEME_COLOUR, linewidth=0.8)
            axes.set_xticks(range(len(order)), order)
            axes.set_xlabel(BAND_TITLES[kind])
            axes.set_ylabel(f"augment − base, {label}")
            add_legend(axes)

        plots.append(draw(f"Gain of profiles, {SETTING_NAMES[setting]}, by {BAND_TITLES[kind]}", paint))
    return plots


def training_curves(curves: Sequence[Row], metric: str) -> list[Plot]:
    """Draw `metric` on validation by epoch, one plot per model (colour: variant; dashes: zero-shot), and losses."""
    points: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    for row in curves:
        if row["snapshot"] == "select" and row["metric"] == metric and _finite(row["value"]):
            points[row["model"]][row["variant"], row["setting"]].append((row["epoch"], row["value"]))
        if row["variant"] == "augment" and _finite(row["loss"]) and row["loss"] > 0:
            losses[row["model"]].setdefault(row["epoch"], row["loss"])
    plots = []
    for model, lines in points.items():

        def paint(axes: Axes, lines: Any = lines) -> None:
            for (variant, setting), series in lines.items():
                epochs, values = np.array(sorted(series)).T
                axes.plot(
                    epochs,
                    values,
                    color=VARIANT_COLOURS.get(variant, "#8a8a8a"),
                    linestyle=SETTING_LINES.get(setting, ":"),
                    linewidth=1.2,
                    marker="." if len(epochs) < 3 else None,
                    label=f"{variant}, {SETTING_NAMES.get(setting, setting)}",
                )
            axes.set_xlabel("epoch")
            axes.set_ylabel(f"{metric} on validation")
            add_legend(axes, 2)

        plots.append(draw(f"Training of {model}", paint))
    moving = {model: series for model, series in losses.items() if len(series) > 1}
    if moving:
        plots.append(draw("Training loss (augment), relative to its first value", _losses(moving)))
    return plots


def _losses(losses: Mapping[str, Mapping[int, float]]) -> Callable[[Axes], None]:
    styles = _styles(losses)

    def paint(axes: Axes) -> None:
        for model, series in losses.items():
            epochs, values = np.array(sorted(series.items())).T
            axes.plot(epochs, values / values[0], color=styles[model][0], linewidth=1.2, label=model)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss / first loss")
        add_legend(axes)

    return paint


def profile_quality(quality: Sequence[Row]) -> list[Plot]:
    """Draw profile quality by the number of known interactions, one plot per metric, for snapshot `serve`."""
    metrics: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in quality:
        if row["snapshot"] == "serve" and _finite(row["value"]):
            metrics[row["metric"]][row["kind"]][row["severity"]] = row["value"]
    plots = []
    for metric, kinds in metrics.items():

        def paint(axes: Axes, kinds: Any = kinds, metric: str = metric) -> None:
            order = list(BANDS["activity"])
            for (kind, series), colour, marker in zip(sorted(kinds.items()), PALETTE, MARKERS, strict=False):
                positions = [position for position, band in enumerate(order) if band in series]
                overall = f" (all: {series['all']:.2f})" if "all" in series else ""
                values = [series[order[position]] for position in positions]
                axes.plot(
                    positions, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=kind + overall
                )
            axes.set_xticks(range(len(order)), order)
            axes.set_xlabel("known interactions of the user or item")
            axes.set_ylabel(metric.replace("_", " "))
            add_legend(axes)

        plots.append(draw(f"Profile quality: {metric.replace('_', ' ')}", paint))
    return plots


def popularity_bias(results: Sequence[Row], k: int) -> list[Plot]:
    """Draw coverage, novelty and average popularity of the lists of every model, one plot per setting and metric."""
    cells: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in results:
        if row["metric"] in ("coverage", "novelty", "average_popularity") and row["k"] == k and _finite(row["value"]):
            cells[row["setting"], row["metric"]][row["model"]][row["variant"]].append(row["value"])
    plots = []
    for (setting, metric), models in cells.items():
        if setting == "zero_shot" and metric != "coverage":
            continue  # a zero-shot item has no interactions, so these two are the same for every model

        def paint(axes: Axes, models: Any = models) -> None:
            names = list(models)
            for variant, colour in VARIANT_COLOURS.items():
                found = [(row, models[name][variant]) for row, name in enumerate(names) if variant in models[name]]
                if found:
                    rows, values = zip(*((row, float(np.mean(seeds))) for row, seeds in found), strict=True)
                    axes.plot(values, rows, "o", color=colour, markersize=5, alpha=0.85, label=variant)
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            add_legend(axes)

        title = f"{metric.replace('_', ' ').capitalize()}@{k}, {SETTING_NAMES[setting]}"
        plots.append(draw(title, paint, (SIZE[0], 1.2 + 0.18 * len(models))))
    return plots


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
