"""Format the comparison of baselines and models as text for a terminal.

In: an `evaluation` artifact. Out: text, with the published figures for known data sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from reclm.evaluation.report import reference
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import EVALUATION

SHORT = {"recall": "R", "ndcg": "N"}
VARIANT_ORDER = ("baseline", "base", "augment", "shuffled")
NAME_WIDTH, VARIANT_WIDTH, CELL_WIDTH = 22, 10, 10

Values = dict[tuple[str, str], dict[tuple[str, int], list[float]]]


def shown_columns(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return Recall and NDCG at 20 and 40, or at the two largest K when neither was computed."""
    ks = sorted({int(row["k"]) for row in rows})
    shown = [k for k in (20, 40) if k in ks] or ks[-2:]
    return [(metric, k) for k in shown for metric in ("recall", "ndcg")]


def comparison_table(evaluation: Artifact) -> str:
    """Return the comparison, one block per evaluation setting and one row per model and variant.

    Seeds are averaged (± their standard deviation); the best value of a column has a star.
    """
    rows = pq.read_table(evaluation.path / "results.parquet", schema=EVALUATION["results"]).to_pylist()
    blocks = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        inside = [row for row in rows if row["setting"] == setting]
        blocks.append(_block(setting, inside, shown_columns(rows)))
    known = reference.published_models(rows[0]["dataset"]) if rows else None
    if known:
        blocks.append(_published(known, rows))
    blocks += _random_list(evaluation.metrics.get("random_list", {}))
    blocks += _foretold(evaluation.metrics.get("foretold", {}))
    blocks += _cold_starts(evaluation.metrics.get("cold_starts_tried", []))
    blocks += [f"left out: {name} {reason}" for name, reason in evaluation.metrics.get("skipped_baselines", {}).items()]
    return "\n\n".join(blocks)


def values_by_model(rows: Iterable[Mapping[str, Any]]) -> Values:
    """Group results as {(model, variant): {(metric, k): the value of each seed}}: baselines first, then models."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["model"], row["variant"]][row["metric"], int(row["k"])].append(row["value"])
    models = list(dict.fromkeys(model for model, _ in values))
    order = sorted(values, key=lambda key: (key[1] != "baseline", models.index(key[0]), VARIANT_ORDER.index(key[1])))
    return {key: values[key] for key in order}


def _block(setting: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, int]]) -> str:
    values = values_by_model(rows)
    means = {key: [float(np.mean(cells[column])) for column in columns] for key, cells in values.items()}
    best = [max(means.values(), key=lambda row: row[c])[c] for c in range(len(columns))]
    first = rows[0]
    head = f"{first['dataset']} ({first['regime']}), {setting.replace('_', '-')}, {first['n_users']:,} users"
    lines = [head.ljust(NAME_WIDTH + VARIANT_WIDTH) + "".join(_cell(f"{SHORT[m]}@{k} ") for m, k in columns)]
    if len(head) >= NAME_WIDTH + VARIANT_WIDTH:
        lines = [head, " " * (NAME_WIDTH + VARIANT_WIDTH) + "".join(_cell(f"{SHORT[m]}@{k} ") for m, k in columns)]
    previous = ""
    for (model, variant), row in means.items():
        name = "" if model == previous else model
        previous = model
        cells = [
            _cell(_number(values[model, variant][column]) + ("*" if row[c] == best[c] else " "))
            for c, column in enumerate(columns)
        ]
        shown = "" if variant == "baseline" else variant
        lines.append(f"  {name:<{NAME_WIDTH - 2}}{shown:<{VARIANT_WIDTH}}" + "".join(cells))
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.rjust(CELL_WIDTH)


def _number(seeds: Sequence[float]) -> str:
    mean = f"{np.mean(seeds):.4f}"
    return mean if len(seeds) < 2 else f" {mean}±{np.std(seeds, ddof=1):.4f}"


def _published(known: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The published figures beside ours: Recall@20/NDCG@20, base → augment."""
    ours = {
        setting: values_by_model(r for r in rows if r["setting"] == setting) for setting in ("full_shot", "zero_shot")
    }
    width = 2 * CELL_WIDTH + 12
    lines = [f"{known['source']}, Recall@20/NDCG@20, base → augment"]
    for setting, models in known["models"].items():
        lines.append(f"  {setting.replace('_', '-'):<{NAME_WIDTH - 2}}{'published':<{width}}ours")
        for model, variants in models.items():
            paper = " → ".join(_pair(variants[variant]) for variant in ("base", "augment"))
            our_pairs = [
                reference.our_recall_and_ndcg(ours[setting], model, variant) for variant in ("base", "augment")
            ]
            ours_shown = " → ".join("not run" if pair is None else _pair(pair) for pair in our_pairs)
            lines.append(f"  {model:<{NAME_WIDTH - 2}}{paper:<{width}}{ours_shown}")
        popularity = reference.our_recall_and_ndcg(ours[setting], "popularity", "baseline")
        if popularity:
            lines.append(f"  {'popularity':<{NAME_WIDTH - 2}}{'':<{width}}{_pair(popularity)}")
    return "\n".join(lines)


def _pair(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4f}" for value in values[:2])


def _foretold(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How well validation foretold the test, a line per setting."""
    return [
        f"{setting.replace('_', '-')}: validation promised NDCG@20 {one['promised']:.4f} over {one['models']} models, "
        f"the test gave {one['given']:.4f}; mean gap {one['gap']:.4f}, rank correlation "
        + ("not measurable" if one["rank_correlation"] is None else f"{one['rank_correlation']:.2f}")
        + f"; of {one['pairs']} pairs that the test tells apart, validation orders {one['ordered']} rightly"
        for setting, one in figures.items()
    ]


def _cold_starts(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each cold start gave where warm and cold items are ranked together, a line per choice."""
    lines = []
    for choice in dict.fromkeys(one["choice"] for one in tried):
        options = [one for one in tried if one["choice"] == choice]
        listed = ", ".join(f"{one['option']:g}: {one['ndcg']:.4f}" for one in options)
        lines.append(f"mixed, NDCG@20 on validation by {choice} of cold items (mean of models): {listed}")
    return lines


def _random_list(bands: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{setting.replace('_', '-')}: a fixed random list of {band['k']:.0f} items scores "
        f"Recall@{band['k']:.0f} {band['recall']:.4f} ± {band['recall_sd']:.4f}, "
        f"NDCG@{band['k']:.0f} {band['ndcg']:.4f} ± {band['ndcg_sd']:.4f} ({band['lists']:.0f} lists)"
        for setting, band in bands.items()
    ]
