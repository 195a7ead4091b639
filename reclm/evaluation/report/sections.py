"""Prepare the tables of the report: results beside published figures, paired comparisons, gains by band.

In: `Sources`. Out: plain dictionaries that the template prints. No number is computed in the template, and no markup
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reclm.evaluation import bands
from reclm.evaluation.console import Values, shown_columns, values_by_model
from reclm.evaluation.report import reference
from reclm.evaluation.report.sources import Sources
from reclm.evaluation.verdicts import verdict

SETTING_TITLES = {
    "full_shot": "Full-shot: warm items",
    "zero_shot": "Zero-shot: items without interactions",
    "mixed": "Mixed: warm and cold items together, as they are served",
}
HEADLINE_K = 20
HEADLINE_METRICS = ("recall", "ndcg")

Row = dict[str, Any]


def comparison_tables(sources: Sources) -> list[Row]:
    """Return one table per setting; a cell has our value, its interval, and the published figure where there is one."""
    columns = shown_columns(sources.results)
    tables = []
    for setting, title in SETTING_TITLES.items():
        rows = [row for row in sources.results if row["setting"] == setting]
        if not rows:
            continue
        known = reference.baseline_rows(rows[0]["dataset"], rows[0]["regime"], setting)
        values = values_by_model(rows)
        intervals = {
            (r["model"], r["variant"], r["metric"], r["k"]): (r["lo"], r["hi"]) for r in rows if _one_seed(values, r)
        }
        best = {c: max(float(np.mean(cells[c])) for cells in values.values()) for c in columns}
        lines = [
            {
                "model": model,
                "variant": "" if variant == "baseline" else variant,
                "cells": [
                    _cell(cells[c], intervals.get((model, variant, *c)), best[c])
                    | {"published": _published(known, model, c) if variant == "baseline" else ""}
                    for c in columns
                ],
            }
            for (model, variant), cells in values.items()
        ]
        lines += _missing(known, values, columns)
        regime = rows[0]["regime"]
        tables.append(
            {
                "setting": setting,
                "title": title,
                "n_users": rows[0]["n_users"],
                "columns": [
                    f"{metric.upper() if metric == 'ndcg' else metric.capitalize()}@{k}" for metric, k in columns
                ],
                "lines": lines,
                "aims": _aims(rows[0]["dataset"], regime, setting, values),
                "orientation": [
                    row
                    for row in reference.figures_of(rows[0]["dataset"]).get("orientation", {}).get(regime, [])
                    if row["setting"] == setting
                ],
            }
        )
    return tables


def _one_seed(values: Values, row: Mapping[str, Any]) -> bool:
    return len(values[row["model"], row["variant"]][row["metric"], row["k"]]) == 1


def _cell(seeds: Sequence[float], interval: tuple[float, float] | None, best: float) -> Row:
    """The mean; the 95 % interval over users of one seed, or the standard deviation over several."""
    mean = float(np.mean(seeds))
    spread = "" if len(seeds) < 2 else f"± {np.std(seeds, ddof=1):.4f}"
    if interval is not None and interval[0] is not None:
        spread = f"{interval[0]:.4f}–{interval[1]:.4f}"
    return {"value": f"{mean:.4f}", "spread": spread, "best": mean == best}


def _published(known: Mapping[str, Sequence[float]], name: str, column: tuple[str, int]) -> str:
    figures = dict(zip((("recall", 20), ("ndcg", 20), ("recall", 40), ("ndcg", 40)), known.get(name, ()), strict=False))
    return f"{figures[column]:.4f}" if column in figures else ""


def _missing(known: Mapping[str, Sequence[float]], values: Values, columns: Sequence[tuple[str, int]]) -> list[Row]:
    """Baselines that were published for this data set and did not run here."""
    return [
        {
            "model": name,
            "variant": "",
            "cells": [
                {"value": "", "spread": "", "best": False, "published": _published(known, name, c)} for c in columns
            ],
        }
        for name in known
        if (name, "baseline") not in values
    ]


def _aims(dataset: str, regime: str, setting: str, values: Values) -> Row | None:
    """The target for this data set and the distance of our best model with profiles to it."""
    aim = reference.figures_of(dataset).get("aims", {}).get(regime, {}).get(setting)
    with_profiles = [
        (pair, model)
        for model, variant in values
        if variant == "augment" and (pair := reference.our_recall_and_ndcg(values, model, variant))
    ]
    if aim is None or not with_profiles:
        return None
    (recall, ndcg), model = max(with_profiles)
    return {
        "aim": [f"{figure:.4f}" for figure in aim],
        "model": model,
        "ours": [f"{recall:.4f}", f"{ndcg:.4f}"],
        "difference": [f"{recall - aim[0]:+.4f}", f"{ndcg - aim[1]:+.4f}"],
    }


def published_table(sources: Sources) -> Row | None:
    """Return the published table of this data set beside our values, None where there is none."""
    if not sources.results:
        return None
    dataset = sources.results[0]["dataset"]
    known = reference.published_models(dataset)
    if known is None:
        return None
    blocks = []
    for setting, models in known["models"].items():
        values = values_by_model(row for row in sources.results if row["setting"] == setting)
        lines = [
            {
                "model": model,
                "published": [_pair(variants["base"]), _pair(variants["augment"])],
                "ours": [
                    _pair(reference.our_recall_and_ndcg(values, model, v)) for v in ("base", "augment", "shuffled")
                ],
            }
            for model, variants in models.items()
        ]
        popularity = reference.our_recall_and_ndcg(values, "popularity", "baseline")
        blocks.append(
            {"title": SETTING_TITLES[setting], "lines": lines, "popularity": _pair(popularity) if popularity else ""}
        )
    return {
        "source": known["source"],
        "note": known["note"],
        "caution": reference.figures_of(dataset).get("caution", ""),
        "blocks": blocks,
    }


def _pair(values: Sequence[float] | None) -> str:
    return "not run" if values is None else " / ".join(f"{value:.4f}" for value in values)


def random_lists(sources: Sources) -> list[Row]:
    """Return the metrics of random lists that are the same for every user, per setting."""
    if sources.evaluation is None:
        return []
    return [
        {"title": SETTING_TITLES[s]} | band for s, band in sources.evaluation.metrics.get("random_list", {}).items()
    ]


def foretold(sources: Sources) -> list[Row]:
    """Return how well the validation slice foretold the test slice, a row per setting."""
    if sources.evaluation is None:
        return []
    figures = sources.evaluation.metrics.get("foretold", {})
    return [{"title": SETTING_TITLES[setting]} | one for setting, one in figures.items()]


def headline(sources: Sources) -> Row | None:
    """Return the paper's headline beside the relative gain of augment over base of each of our models.

    None unless this is a benchmark data set.
    """
    if not sources.results or not reference.is_benchmark(sources.results[0]["dataset"]):
        return None
    claimed = reference.all_figures()["headline"]
    lines = []
    for setting in SETTING_TITLES:
        values = values_by_model(row for row in sources.results if row["setting"] == setting)
        for model in dict.fromkeys(model for model, variant in values if variant == "augment"):
            base, augment = (
                reference.our_recall_and_ndcg(values, model, "base"),
                reference.our_recall_and_ndcg(values, model, "augment"),
            )
            if base and augment:
                ratios = [_relative_gain(a, b) for a, b in zip(augment, base, strict=True)]
                lines.append(
                    {
                        "setting": setting,
                        "model": model,
                        "gains": [_percent(ratio) for ratio in ratios],
                        "distances": [
                            _points(ratio, claimed[f"{metric}@{HEADLINE_K}"])
                            for ratio, metric in zip(ratios, HEADLINE_METRICS, strict=True)
                        ],
                    }
                )
    return {
        "source": claimed["source"],
        "claimed": [_percent(claimed[f"{metric}@{HEADLINE_K}"]) for metric in HEADLINE_METRICS],
        "lines": lines,
    }


def _relative_gain(augment: float, base: float) -> float | None:
    return augment / base - 1 if base > 0 else None


def _percent(ratio: float | None) -> str:
    return "base is 0" if ratio is None else f"{100 * ratio:+.1f} %"


def _points(ratio: float | None, claimed: float) -> str:
    return "–" if ratio is None else f"{100 * (ratio - claimed):+.1f} points"


def verdicts(sources: Sources) -> list[Row]:
    """Compare augment with base, shuffled and the strongest baseline: a row per setting, model, seed and metric."""
    best = _strongest_baselines(sources.results)
    lines = []
    for row in sources.comparisons:
        if row["metric"] not in HEADLINE_METRICS or row["k"] != HEADLINE_K:
            continue
        other = row["other_model"] if row["other_variant"] == "baseline" else row["other_variant"]
        if row["other_variant"] == "baseline" and best.get((row["setting"], row["metric"])) != row["other_model"]:
            continue
        lines.append(
            {key: row[key] for key in ("setting", "model", "seed")}
            | {
                "metric": f"{row['metric']}@{row['k']}",
                "other": other if row["other_variant"] != "baseline" else f"{other} (strongest baseline)",
                "difference": f"{row['diff']:+.4f}",
                "users": _interval(row["lo_users"], row["hi_users"]),
                "items": _interval(row["lo_items"], row["hi_items"]),
                "verdict": verdict(row),
            }
        )
    return sorted(lines, key=lambda line: (line["setting"], line["model"], line["seed"], line["metric"], line["other"]))


def _strongest_baselines(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for row in results:
        if row["variant"] == "baseline" and row["k"] == HEADLINE_K and row["value"] is not None:
            where = (row["setting"], row["metric"])
            best[where] = max(best.get(where, (-1.0, "")), (row["value"], row["model"]))
    return {where: name for where, (_, name) in best.items()}


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.4f} … {high:+.4f}"


def severity(sources: Sources) -> Row:
    """Return the gains by band, their sign changes, and the gains of graph backbones beside factor and neural ones."""
    ks = {row["k"] for row in sources.bands}
    k = HEADLINE_K if HEADLINE_K in ks else max(ks, default=HEADLINE_K)
    rows = bands.gains(sources.bands, "recall", k)
    families = bands.family_gains(sources.results, "recall", k)
    return {
        "k": k,
        "gains": rows,
        "sign_changes": [row for row in bands.sign_changes(rows) if row["bands"] > 1],
        "families": [
            row | {"gain": f"{row['gain']:+.4f}", "relative": _percent(row["relative_gain"])} for row in families
        ],
    }
