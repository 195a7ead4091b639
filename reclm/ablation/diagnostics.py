"""Measure what rankings do not show: whether the reward model predicts whom a profile helps, and what each arm costs.

In: finished cells, arms and their models. Out: rows of `diagnostics.parquet` (what, name, metric, value, lo, hi, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.ablation.arms import ArmOutput, texts_of
from reclm.ablation.cells import NO_ARM, FinishedCell
from reclm.ablation.table import per_user
from reclm.dataset import EvaluationTask
from reclm.errors import WorkspaceError
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import HELD_OUT
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.llm.pipeline import ModelPipeline
    from reclm.settings.tree import Settings

MIN_USERS = 10  # fewer users make no rank correlation
Floats = NDArray[np.float64]
Row = dict[str, Any]


def row_of(
    what: str, name: str, metric: str, value: float, n: int, lo: float | None = None, hi: float | None = None
) -> Row:
    return {"what": what, "name": name, "metric": metric, "value": value, "lo": lo, "hi": hi, "n": n}


def spearman(one: Floats, other: Floats) -> float:
    """Compute Spearman's rank correlation, ties at their mean rank; NaN when either side does not vary."""
    from scipy.stats import rankdata

    a, b = rankdata(one), rankdata(other)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman_interval(one: Floats, other: Floats, resamples: int, seed: int) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of the rank correlation, over the rows."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(one), len(one)) for _ in range(resamples))
    found = np.array([spearman(one[rows], other[rows]) for rows in drawn])
    found = found[np.isfinite(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def gain_by_reward(
    settings: Settings,
    pipeline: ModelPipeline,
    reward: Artifact,
    written: Sequence[ArmOutput],
    cells: Sequence[FinishedCell],
    tasks: Sequence[EvaluationTask],
    user_ids: Sequence[str],
) -> list[Row]:
    """Correlate, over users, the reward of a profile at `final` with what the profile adds to the user's NDCG@20."""
    scores = {one.arm.name: _rewards(settings, pipeline, reward, one) for one in written if one.models}
    rows = []
    for task in tasks:
        values = per_user(cells, task)
        users = [user_ids[position] for position in task.users]
        for ((arm, model, variant), metric), seeds in values.items():
            base = values.get(((NO_ARM, model, "base"), metric))
            if metric != "ndcg" or variant != "augment" or arm not in scores or base is None:
                continue
            known = [row for row, user in enumerate(users) if user in scores[arm]]
            if len(known) < MIN_USERS:
                continue
            gain = (np.mean(seeds, axis=0) - np.mean(base, axis=0))[known]
            judged = np.array([scores[arm][users[row]] for row in known], dtype=np.float64)
            low, high = spearman_interval(judged, gain, settings.evaluation.bootstrap, settings.seed)
            name = f"{arm}/{model}/{task.setting}"
            rows.append(row_of("gain_by_reward", name, "spearman", spearman(judged, gain), len(known), low, high))
    return rows


def _rewards(settings: Settings, pipeline: ModelPipeline, reward: Artifact, written: ArmOutput) -> dict[str, float]:
    """{user: reward of the profile at `final`} of the users who have any facts to judge it by."""
    from reclm.llm.models.loading import load_tokenizer, model_location
    from reclm.llm.prompts.facts import load_user_facts
    from reclm.llm.prompts.messages import fit_to_budget, has_no_facts
    from reclm.llm.prompts.shape import shape_of
    from reclm.llm.prompts.templates import token_counter
    from reclm.llm.reward.stage import load_reward
    from reclm.warehouse.reading import connect

    texts = texts_of(written.profiles, "user", "final")
    with closing(connect(settings)) as connection:
        facts = {user: known for user, known in load_user_facts(connection, "final").items() if user in texts}
    described = [user for user, known in facts.items() if not has_no_facts(known)]
    count = token_counter(load_tokenizer(model_location(settings, pipeline.current_model("sft"))))
    requests = [fit_to_budget(facts[user], shape_of(settings), count)[0] for user in described]
    reward_model = load_reward(settings, reward)
    known = [facts[user].history for user in described]
    values = reward_model.score(requests, [texts[user] for user in described], known)
    return dict(zip(described, values.tolist(), strict=True))


def other_reward(folder: Path) -> Artifact:
    """Return the newest reward model of another workspace. Raises WorkspaceError when it holds none."""
    found = artifacts.all_of(Workspace(folder.expanduser().resolve()), "reward")
    if not found:
        raise WorkspaceError(f"{folder} holds no reward model; run `reclm reward --workspace {folder}` first")
    return found[-1]


def accuracy_on(settings: Settings, pipeline: ModelPipeline, reward: Artifact, name: str) -> list[Row]:
    """Measure the accuracy of a reward model on this workspace's held-out pairs, by kind of negative."""
    from reclm.llm.models.loading import load_tokenizer, model_location
    from reclm.llm.prompts.templates import token_counter
    from reclm.llm.reward.pairs import make_pairs
    from reclm.llm.reward.stage import accuracy_rows, load_reward

    count = token_counter(load_tokenizer(model_location(settings, pipeline.current_model("sft"))))
    pairs = make_pairs(pipeline.dialogues, pipeline.teacher[1], settings, count=count)
    rows = accuracy_rows(load_reward(settings, reward), [pair for pair in pairs if pair.fold == "held_out"])
    return [_with_error("reward_accuracy", name, row) for row in rows]


def _with_error(what: str, name: str, row: Any) -> Row:
    value, margin = row["value"], 1.96 * (row["error"] if row["error"] is not None else float("nan"))
    metric = row["kind"] if what == "reward_accuracy" else f"{row['metric']}/{row['kind']}"
    return row_of(what, name, metric, value, row["n"], value - margin, value + margin)


def of_models(written: Sequence[ArmOutput]) -> list[Row]:
    """Collect each arm's model size, seconds, texts a second, and what was measured on held-out users and items."""
    rows = []
    for one in written:
        if not one.models:
            continue
        name, base = one.arm.name, one.models["base"]
        if "parameters" in base.metrics:
            rows.append(row_of("model", name, "parameters", float(base.metrics["parameters"]), 1))
        rows += [row_of("model", name, f"{kind}_seconds", a.manifest["seconds"], 1) for kind, a in one.models.items()]
        made, seconds = one.profiles.metrics.get("generated", 0), one.profiles.manifest["seconds"]
        if made and seconds:
            rows.append(row_of("model", name, "texts_per_second", made / seconds, made))
        for kind in ("sft", "refine", "reward"):
            file = one.models[kind].path / "held_out.parquet" if kind in one.models else None
            if file is not None and file.exists():
                what = "reward_accuracy" if kind == "reward" else f"held_out_{kind}"
                rows += [_with_error(what, name, row) for row in pq.read_table(file, schema=HELD_OUT).to_pylist()]
    return rows
