"""Where profiles help: metrics by how much is known of a user, of an item, and of a user's neighbourhood.

In: the ranks of the truth pairs and the band of every user and item. Out: one row a band, and from those rows the gain of
augment over base in each band, the band where that gain crosses zero, and the gains of graph backbones beside those of
factor and neural ones (RecLM, arXiv 2412.19302, sections 4.3 and 4.5, splits its gains the same way).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import discounts, ideal_gains, metrics_per_user, truth_sizes
from reclm.dataset import EvaluationTask
from reclm.training.tasks import Bands

INTERACTION_BANDS = ("0", "1-3", "4-10", "11-50", "51+")
BANDS = {"activity": INTERACTION_BANDS, "coldness": INTERACTION_BANDS, "density": ("low", "mid", "high")}
BAND_METRICS = ("recall", "ndcg")
FAMILIES = {"graph": ("lightgcn", "sgl", "simgcl"), "factor": ("biasmf", "ncf")}

Row = dict[str, Any]


def band_rows(ranks: NDArray[np.int16], task: EvaluationTask, bands: Bands, ks: Sequence[int]) -> list[Row]:
    """Rows of (band_kind, band, metric, k, value, n): means over the n users that a band speaks of; empty bands are left out.

    In an item band, a user's truth is cut down to the items of that band; users without such an item do not count.
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
        wanted = np.bincount(pair_user[inside], minlength=len(sizes))
        asked = wanted > 0
        for k in ks if asked.any() else ():
            hits = (ranks[inside] > 0) & (ranks[inside] <= k)
            found = np.bincount(pair_user[inside], weights=hits, minlength=len(sizes))
            gain = np.bincount(pair_user[inside], weights=discounts(ranks[inside], k), minlength=len(sizes))
            rows.append(_row("coldness", band, "recall", k, found[asked] / wanted[asked]))
            rows.append(_row("coldness", band, "ndcg", k, gain[asked] / ideal_gains(wanted[asked], k)))
    return rows


def _row(kind: str, band: str, metric: str, k: int, values: NDArray[np.float64]) -> Row:
    return {"band_kind": kind, "band": band, "metric": metric, "k": k, "value": float(values.mean()), "n": len(values)}


def gains(rows: Iterable[Mapping[str, Any]], metric: str, k: int) -> list[Row]:
    """Augment minus base in each band, averaged over seeds.

    `rows` carry setting, model, variant, seed, band_kind, band, metric, k, value, n. The result has one row for each
    (setting, model, band_kind, band) that both variants have, in band order: base, augment, gain, n.
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
    return sorted(result, key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    order = BANDS.get(row["band_kind"], ())
    position = order.index(row["band"]) if row["band"] in order else len(order)
    return row["setting"], row["band_kind"], row["model"], position, row["band"]


def first_sign_change(band_gains: Sequence[tuple[str, float]]) -> str | None:
    """The first band, from sparse to dense, whose gain has another sign than the bands before it; None when it keeps its sign."""
    sign = 0.0
    for band, gain in band_gains:
        here = float(np.sign(gain))
        if sign and here and here != sign:
            return band
        sign = sign or here
    return None


def sign_changes(gain_rows: Sequence[Row]) -> list[Row]:
    """One row for each (setting, band_kind, model) of `gains`: of how many bands, and the one where the gain crosses zero."""
    grouped: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for row in gain_rows:
        grouped[row["setting"], row["band_kind"], row["model"]].append((row["band"], row["gain"]))
    return [
        {"setting": setting, "band_kind": kind, "model": model, "bands": len(series), "band": first_sign_change(series)}
        for (setting, kind, model), series in grouped.items()
    ]


def family_gains(results: Iterable[Mapping[str, Any]], metric: str, k: int) -> list[Row]:
    """The mean gain of profiles for graph backbones and for factor and neural ones (`FAMILIES`), per setting.

    `results` carry setting, model, variant, metric, k, value. Rows: setting, family, models, gain, relative_gain.
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
