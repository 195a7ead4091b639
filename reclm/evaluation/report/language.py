"""Prepare the report's parts on the language model: its artifacts, its measurements, and the newest ablation.

In: the artifacts of the workspace. Out: plain dictionaries and plots that the template prints; None where there is no
language model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.evaluation.report import language_plots as plots
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.warehouse.sources import current_profiles

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.workspace import Workspace

Row = dict[str, Any]
STAGES = {"base": "base", "sft": "tuned", "reward": "reward", "refine": "refined"}
SHOWN_METRICS = {
    "base": ("parameters", "vocabulary", "background", "dialogues"),
    "sft": ("dialogues", "trimmed", "longest"),
    "reward": ("pairs", "too_long"),
    "refine": ("method", "requests", "kept_step", "last_step", "stopped"),
}
COUNTED = ("prompts", "distinct_prompts", "generated", "trimmed", "malformed", "asked_again", "tokens")


def section(settings: Settings) -> Row | None:
    """Return what the page shows of the language model; None where there is none."""
    workspace = settings.paths
    chain = chain_of(workspace)
    if not chain:
        return None
    refined = chain.get("refine")
    curves = [*plots.losses("Tuning: loss", _rows(chain.get("sft"), "curve"))]
    curves += plots.losses("Reward model: loss", _rows(chain.get("reward"), "curve"))
    if refined is not None:
        curves += plots.refinement(_rows(refined, "curve"), int(refined.metrics.get("kept_step", 0)))
    return {
        "chain": [_link(kind, artifact) for kind, artifact in chain.items()],
        "held_out": _held_out(chain),
        "reward": [_shown(row) for row in _rows(chain.get("reward"), "held_out")],
        "plots": curves,
        "guard": _guard(refined),
        "written": _written(workspace),
        "quality": _quality(workspace),
    }


def chain_of(workspace: Workspace) -> dict[str, Artifact]:
    """Return {kind: artifact} of the models behind the current profiles, else behind the newest model, oldest first."""
    last = _writer(workspace)
    if last is None:
        newest = (artifacts.all_of(workspace, kind) for kind in ("refine", "sft", "base"))
        last = next((found[-1] for found in newest if found), None)
    chain: dict[str, Artifact] = {}
    unvisited = [last] if last is not None else []
    while unvisited:
        artifact = unvisited.pop()
        chain.setdefault(artifact.kind, artifact)
        unvisited += _parents(workspace, artifact)
    if "reward" not in chain and "sft" in chain:
        rewards = [
            reward
            for reward in artifacts.all_of(workspace, "reward")
            if reward.manifest["parents"].get("sft") == chain["sft"].version
        ]
        chain |= {"reward": rewards[-1]} if rewards else {}
    return {kind: chain[kind] for kind in STAGES if kind in chain}


def _parents(workspace: Workspace, artifact: Artifact) -> list[Artifact]:
    found = (artifacts.find(workspace, k, v) for k, v in artifact.manifest["parents"].items() if k in STAGES)
    return [parent for parent in found if parent is not None]


def _writer(workspace: Workspace) -> Artifact | None:
    if not artifacts.all_of(workspace, "profiles"):
        return None
    return next(iter(_parents(workspace, current_profiles(workspace)[0])), None)


def _rows(artifact: Artifact | None, name: str) -> list[Row]:
    file = None if artifact is None else artifact.path / f"{name}.parquet"
    return pq.read_table(file).to_pylist() if file is not None and file.exists() else []


def _link(kind: str, artifact: Artifact) -> Row:
    shown = {
        name: artifact.metrics[name] for name in SHOWN_METRICS[kind] if artifact.metrics.get(name) not in (None, "")
    }
    return {
        "stage": STAGES[kind],
        "version": artifact.version,
        "seconds": artifact.manifest["seconds"],
        "model": artifact.manifest["parameters"].get("base_model", ""),
        "metrics": ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in shown.items()),
    }


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shown(row: Row) -> Row:
    error = row["error"]
    return {
        "metric": row["metric"],
        "kind": row["kind"],
        "value": f"{row['value']:.3f}",
        "error": "" if error is None or math.isnan(error) else f"± {error:.3f}",
        "n": row["n"],
    }


def _held_out(chain: dict[str, Artifact]) -> Row | None:
    """One line per metric, one column per model and kind (user or item)."""
    columns, cells = [], {}
    for kind in ("sft", "refine"):
        for row in _rows(chain.get(kind), "held_out"):
            column = f"{STAGES[kind]}, {row['kind']}"
            columns += [column] if column not in columns else []
            cells[row["metric"], column] = _shown(row)
    if not cells:
        return None
    metrics = dict.fromkeys(metric for metric, _ in cells)
    return {
        "columns": columns,
        "lines": [{"metric": m.replace("_", " "), "cells": [cells.get((m, c)) for c in columns]} for m in metrics],
    }


def _guard(refined: Artifact | None) -> str:
    if refined is None:
        return ""
    metrics = refined.metrics
    if metrics.get("stopped"):
        reason = metrics.get("reason", "")
        return f"Stopped by the guard {metrics['stopped']}: {reason}. Update {metrics['kept_step']} was kept."
    return f"No guard stopped the refinement; update {metrics.get('kept_step', 0)} was kept."


def _written(workspace: Workspace) -> list[Row]:
    if not artifacts.all_of(workspace, "profiles"):
        return []
    metrics = current_profiles(workspace)[0].metrics
    return [{"what": name.replace("_", " "), "count": metrics[name]} for name in COUNTED if name in metrics]


def _quality(workspace: Workspace) -> Row | None:
    """Profile quality at `serve` over all users and items: the newest profiles of each engine and model."""
    sets: dict[str, Artifact] = {}
    for artifact in artifacts.all_of(workspace, "profiles"):
        parameters = artifact.manifest["parameters"]
        model = str(parameters.get("model_version") or "")
        if parameters["engine"] == "extractive":
            sets["keywords"] = artifact
        elif model:
            sets[f"{STAGES.get(model.split('-')[0], model)} {model.split('-')[-1][:6]}"] = artifact
    values = {
        (row["kind"], row["metric"], name): row["value"]
        for name, artifact in sets.items()
        for row in _rows(artifact, "quality")
        if row["snapshot"] == "serve" and row["severity"] == "all" and row["value"] is not None
    }
    if len(sets) < 2 or not values:
        return None
    lines = dict.fromkeys((kind, metric) for kind, metric, _ in values)
    return {
        "columns": list(sets),
        "lines": [
            {
                "metric": f"{kind} {metric.replace('_', ' ')}",
                "cells": ["" if (v := values.get((kind, metric, name))) is None else f"{v:.3f}" for name in sets],
            }
            for kind, metric in lines
        ],
    }


def ablation_section(settings: Settings) -> Row | None:
    """Return the tables, plots and diagnostics of the newest ablation; None where there is none."""
    found = artifacts.all_of(settings.paths, "ablation")
    if not found:
        return None
    rows = _rows(found[-1], "results")
    blocks = []
    for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
        inside = [row for row in rows if (row["model"], row["setting"]) == (model, setting)]
        cells = {(row["arm"], row["variant"], row["metric"]): row for row in inside}
        compared = dict.fromkeys((row["arm"], row["variant"]) for row in inside)
        blocks.append(
            {
                "title": f"{model}, {setting.replace('_', '-')}, seeds {inside[0]['n_seeds']}",
                "lines": [
                    {
                        "arm": arm,
                        "variant": variant,
                        "cells": [_cell(cells[arm, variant, m]) for m in ("recall", "ndcg")],
                    }
                    for arm, variant in compared
                ],
            }
        )
    return {
        "blocks": blocks,
        "plots": plots.ablation(rows),
        "diagnostics": _diagnostics(_rows(found[-1], "diagnostics")),
    }


def _cell(row: Row) -> Row:
    spread = "" if row["sd"] is None else f" ± {row['sd']:.4f}"
    gain = "" if row["diff"] is None else f"{row['diff']:+.4f} [{row['diff_lo']:+.4f}, {row['diff_hi']:+.4f}]"
    return {"value": f"{row['value']:.4f}{spread}", "gain": gain}


def _diagnostics(rows: Sequence[Row]) -> list[Row]:
    return [
        {
            "what": row["what"].replace("_", " "),
            "name": row["name"],
            "metric": row["metric"].replace("_", " "),
            "value": f"{row['value']:,.3f}",
            "interval": "" if row["lo"] is None or math.isnan(row["lo"]) else f"{row['lo']:.3f} … {row['hi']:.3f}",
            "n": row["n"],
        }
        for row in rows
    ]
