"""Turn finished cells into the table of results: mean and deviation over seeds, and the gain over base.

In: the ranks of every cell. Out: rows of `results.parquet`, with paired bootstrap intervals of each difference to base,
and the table as text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.ablation.cells import NO_ARM, FinishedCell, K
from reclm.backbones.metrics import metrics_per_user
from reclm.dataset import EvaluationTask
from reclm.evaluation.intervals import over_users
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import ABLATION_RESULTS

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

METRICS = ("recall", "ndcg")
SHORT = {"recall": "R", "ndcg": "N"}
Contender = tuple[str, str, str]  # (arm, model, variant)
Row = dict[str, Any]
PerUser = dict[tuple[Contender, str], NDArray[np.float64]]


def per_user(
    cells: Sequence[FinishedCell], task: EvaluationTask
) -> dict[tuple[Contender, str], list[NDArray[np.float64]]]:
    """Return {((arm, model, variant), metric): the values (n_task_users,) of each seed}, at K."""
    values: dict[tuple[Contender, str], list[NDArray[np.float64]]] = defaultdict(list)
    for done in sorted(cells, key=lambda done: done.cell.seed):
        metrics = metrics_per_user(done.ranked[task.setting].ranks, task, [K])
        for metric in METRICS:
            values[(done.cell.arm, done.cell.model, done.cell.variant), metric].append(metrics[metric, K])
    return values


def result_rows(
    settings: Settings, cells: Sequence[FinishedCell], tasks: Sequence[EvaluationTask], dataset: str
) -> list[Row]:
    """Return a row for each arm, model, variant, setting and metric, with intervals over users of the seeds' mean."""
    seconds: dict[Contender, float] = defaultdict(float)
    for done in cells:
        seconds[done.cell.arm, done.cell.model, done.cell.variant] += done.seconds
    rows = []
    for task in tasks:
        values = per_user(cells, task)
        columns = [("/".join(who), metric, K) for who, metric in values]
        means = np.stack([np.mean(seeds, axis=0) for seeds in values.values()], axis=1)
        drawn = over_users(
            columns, means.astype(np.float32), settings.evaluation.bootstrap, settings.seed, task.setting
        )
        for (who, metric), seeds in values.items():
            column, base = ("/".join(who), metric, K), ("/".join((NO_ARM, who[1], "base")), metric, K)
            low, high = drawn.interval(column)
            each = [float(one.mean()) for one in seeds]
            row = {
                **dict(zip(("arm", "model", "variant"), who, strict=True)),
                **{"dataset": dataset, "setting": task.setting, "metric": metric, "k": K},
                **{"n_users": len(task.users), "n_seeds": len(each), "values": each, "value": float(np.mean(each))},
                "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
                **{"lo": low, "hi": high, "diff": None, "diff_lo": None, "diff_hi": None, "seconds": seconds[who]},
            }
            if who[2] != "base" and base in drawn.position:
                low, high = drawn.difference(column, base)
                other = values[(NO_ARM, who[1], "base"), metric]
                difference = float(np.mean(each) - np.mean([one.mean() for one in other]))
                row |= {"diff": difference, "diff_lo": low, "diff_hi": high}
            rows.append(row)
    return rows


def ablation_table(ablation: Artifact) -> str:
    """Format an ablation as text: a block a model and setting, a row an arm and variant, a column a metric."""
    return table_of(pq.read_table(ablation.path / "results.parquet", schema=ABLATION_RESULTS).to_pylist())


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format result rows as text: mean ± deviation over seeds, and the gain over base with its 95 % interval."""
    blocks = []
    for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
        inside = [row for row in rows if (row["model"], row["setting"]) == (model, setting)]
        lines = [f"{model}, {setting.replace('_', '-')}, {inside[0]['n_users']:,} users, {inside[0]['n_seeds']} seeds"]
        lines.append(" " * 28 + "".join(f"{f'{SHORT[m]}@{K}':<17}{'over base [95 %]':<27}" for m in METRICS).rstrip())
        cells = {(row["arm"], row["variant"], row["metric"]): row for row in inside}
        for arm, variant in dict.fromkeys((row["arm"], row["variant"]) for row in inside):
            shown = "".join(_cell(cells[arm, variant, metric]) for metric in METRICS)
            lines.append(f"{arm:<18}{variant:<10}{shown}".rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(row: Mapping[str, Any]) -> str:
    value = f"{row['value']:.4f}" + ("" if row["sd"] is None else f" ± {row['sd']:.4f}")
    gain = "" if row["diff"] is None else f"{row['diff']:+.4f} [{row['diff_lo']:+.4f}, {row['diff_hi']:+.4f}]"
    return f"{value:<17}{gain:<27}"
