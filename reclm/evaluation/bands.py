"""Split metrics by how much is known of a user, of an item, and of a user's neighbourhood, to show where profiles help.

In: the ranks of the truth pairs, and the band of every user and item. Out: one row per band; from these rows the gain
of augment over base in each band, the band where the gain changes its sign, and the mean gains of graph backbones and
of factor and neural ones. RecLM (arXiv 2412.19302, sections 4.3 and 4.5) splits its gains in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.metrics import discounts, ideal_gains, metrics_per_user, truth_sizes
from reclm.dataset import EvaluationTask
from reclm.training.tasks import Bands

INTERACTION_BANDS = ("0", "1-3", "4-10", "11-50", "51+")
BANDS = {"activity": INTERACTION_BANDS, "coldness": INTERACTION_BANDS, "density": ("low", "mid", "high")}
BAND_METRICS = ("recall", "ndcg")
FAMILIES = {"graph": ("lightgcn", "sgl", "simgcl"), "factor": ("biasmf", "ncf")}

Row = dict[str, Any]


def band_rows(ranks: NDArray[np.int16], task: EvaluationTask, bands: Bands, ks: Sequence[int]) -> list[Row]:
    """Return the mean metrics of each band as rows of (band_kind, band, metric, k, value, n users); no rows for empty
    bands.

    In an item band, only the truth items of that band count; users without such an item are left out.
    """
    per_user = metrics_per_user(ranks, task, ks)
    rows: list[Row] = []
    for kind, labels in (("activity", bands.activity[task.users]), ("density", bands.density[task.users])):
        for band in BANDS[kind]:
            inside = labels == band
            if inside.any():
                rows += [
                    _row(kind, band, metric, k, per_user[metric, k][inside]) for metric in BAND_METRICS for k in ks
                ]
    return rows + _item_band_rows(ranks, task, bands.coldness, ks)


def _item_band_rows(
    ranks: NDArray[np.int16], task: EvaluationTask, coldness: NDArray[np.str_], ks: Sequence[int]
) -> list[Row]:
    sizes = truth_sizes(task)
    pair_user, pair_band = np.repeat(np.arange(len(sizes)), sizes), coldness[task.truth.indices]
    rows: list[Row] = []
    for band in BANDS["coldness"]:
        inside = pair_band == band
        n_truth = np.bincount(pair_user[inside], minlength=len(sizes))
        has_truth = n_truth > 0
        for k in ks if has_truth.any() else ():
            hits = (ranks[inside] > 0) & (ranks[inside] <= k)
            found = np.bincount(pair_user[inside], weights=hits, minlength=len(sizes))
            gain = np.bincount(pair_user[inside], weights=discounts(ranks[inside], k), minlength=len(sizes))
            rows.append(_row("coldness", band, "recall", k, found[has_truth] / n_truth[has_truth]))
            rows.append(_row("coldness", band, "ndcg", k, gain[has_truth] / ideal_gains(n_truth[has_truth], k)))
    return rows


def _row(kind: str, band: str, metric: str, k: int, values: NDArray[np.float64]) -> Row:
    return {"band_kind": kind, "band": band, "metric": metric, "k": k, "value": float(values.mean()), "n": len(values)}


def gains(rows: Iterable[Mapping[str, Any]], metric: str, k: int) -> list[Row]:
    """Compute augment minus base in each band, averaged over seeds.

    `rows` have setting, model, variant, seed, band_kind, band, metric, k, value, n. Returns one row for each
    (setting, model, band_kind, band) that both variants have, in band order, with base, augment, gain and n.
    """
    values: dict[tuple[str, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sizes: dict[tuple[str, str, str, str], int] = {}
    for row in rows:
        if row["metric"] == metric and row["k"] == k:
            key = (row["setting"], row["model"], row["band_kind"], row["band"])
            values[key][row["variant"]].append(row["value"])
            sizes[key] = row["n"]
    result = []
    for key, variants in values.items():
        if "base" in variants and "augment" in variants:
            setting, model, kind, band = key
            base, augment = float(np.mean(variants["base"])), float(np.mean(variants["augment"]))
            result.append(
                {"setting": setting, "model": model, "band_kind": kind, "band": band, "n": sizes[key]}
                | {"base": base, "augment": augment, "gain": augment - base}
            )
    return sorted(result, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    bands = BANDS.get(row["band_kind"], ())
    position = bands.index(row["band"]) if row["band"] in bands else len(bands)
    return row["setting"], row["band_kind"], row["model"], position, row["band"]


def first_sign_change(band_gains: Sequence[tuple[str, float]]) -> str | None:
    """Return the first band, from sparse to dense, whose gain has another sign than before; None if there is none."""
    sign = 0.0
    for band, gain in band_gains:
        sign_here = float(np.sign(gain))
        if sign and sign_here and sign_here != sign:
            return band
        sign = sign or sign_here
    return None


def sign_changes(gain_rows: Sequence[Row]) -> list[Row]:
    """Return a row for each (setting, band_kind, model) of `gains`: the number of bands and the first sign change."""
    grouped: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for row in gain_rows:
        grouped[row["setting"], row["band_kind"], row["model"]].append((row["band"], row["gain"]))
    return [
        {"setting": setting, "band_kind": kind, "model": model, "bands": len(series), "band": first_sign_change(series)}
        for (setting, kind, model), series in grouped.items()
    ]


def family_gains(results: Iterable[Mapping[str, Any]], metric: str, k: int) -> list[Row]:
    """Compute the mean gain of profiles for graph backbones and for factor and neural ones (`FAMILIES`), per setting.

    `results` have setting, model, variant, metric, k, value. Rows: setting, family, models, gain, relative_gain.
    """
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in results:
        if row["metric"] == metric and row["k"] == k:
            values[row["setting"], row["model"], row["variant"]].append(row["value"])
    rows = []
    for setting in dict.fromkeys(key[0] for key in values):
        for family, members in FAMILIES.items():
            pairs = [
                (float(np.mean(values[setting, m, "base"])), float(np.mean(values[setting, m, "augment"])))
                for m in members
                if (setting, m, "base") in values and (setting, m, "augment") in values
            ]
            if pairs:
                base, augment = np.mean(pairs, axis=0)
                relative = float((augment - base) / base) if base > 0 else None
                rows.append(
                    {"setting": setting, "family": family, "models": len(pairs)}
                    | {"gain": float(augment - base), "relative_gain": relative}
                )
    return rows
