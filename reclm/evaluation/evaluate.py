"""Rank all candidates of the test slice with every model and every baseline, once: the evaluation stage.

In: finished `backbone` artifacts, and the final snapshot from the warehouse and the feature store. Out: one
`evaluation` artifact with the tables `results`, `bands` and `comparisons`, which dbt shows in `fct_evaluation`,
`fct_evaluation_bands` and `fct_comparisons`. The ranks of the truth pairs are written as checkpoints, so a killed run
continues where it stopped.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.backbones.baselines import ANSWERS, TUNED, fit_baseline, strongest_predicted_popularity, tune, why_not
from reclm.backbones.metrics import list_metrics
from reclm.backbones.ranking import BackboneScorer, Scorer, rank, truth_ranks
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData
from reclm.errors import ModelError, WorkspaceError
from reclm.evaluation import checkpoints, results
from reclm.evaluation.bands import band_rows
from reclm.evaluation.checkpoints import RankingResult
from reclm.evaluation.tracking import log_evaluation
from reclm.evaluation.validation_figures import cold_starts_tried, foretold
from reclm.progress import detail, say, track
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import EVALUATION
from reclm.training import tasks

KIND = "evaluation"
BASELINE = "baseline"
RANDOM_LISTS = 1000
ROW_FIELDS = ("dataset", "regime", "setting", "model", "variant", "seed", "metric", "k", "value", "lo", "hi")


Scorers = Callable[[EvaluationTask], Scorer]


@dataclass(frozen=True)
class Contender:
    """A model or baseline in the comparison.

    `open` fits or loads it, once; the function that it returns gives the scorer of a task.
    """

    model: str
    variant: str
    seed: int
    settings: tuple[EvaluationSetting, ...]
    open: Callable[[], Scorers]

    @property
    def key(self) -> str:
        return f"{self.model}-{self.variant}-{self.seed}"


class FinalSnapshot:
    """The final snapshot; each part is read when it is first needed.

    Items that came after one of `models` was trained are no candidates, so that all models rank the same items.
    """

    def __init__(self, settings: Settings, models: Sequence[Artifact] = ()) -> None:
        self.settings, self.models = settings, models

    @cached_property
    def tasks(self) -> list[EvaluationTask]:
        found = tasks.load_tasks(self.settings, "final")
        if not found:
            raise WorkspaceError(
                "no interaction falls into the test slice, so there is nothing to evaluate on; "
                "lower split.train_share + split.valid_share or bring a longer log"
            )
        n_items = min((n_fitted_items(model) for model in self.models), default=len(found[0].candidates))
        for task in found:
            task.candidates[n_items:] = False
        return found

    @cached_property
    def ids(self) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        return tasks.load_ids(self.settings)

    @cached_property
    def data(self) -> TrainingData:
        from reclm.features.frame import load_training_data

        data = load_training_data(self.settings, "final")
        require_same_ids("the training data", data.user_ids, data.item_ids, *self.ids)
        return data

    @property
    def available(self) -> NDArray[np.bool_] | None:
        """The items that could have interactions before the cut-off: the full-shot candidates."""
        return _full_shot_candidates(self.tasks)

    @cached_property
    def _select(self) -> tuple[TrainingData, list[EvaluationTask]]:
        from reclm.features.frame import load_training_data

        return load_training_data(self.settings, "select"), tasks.load_tasks(self.settings, "select")

    def tuned(self, name: str, setting: EvaluationSetting) -> float | None:
        """Return the value that a tuned baseline takes from the validation slice; None where there is no such task."""
        data, validation = self._select
        task = next((task for task in validation if task.setting == setting), None)
        return None if task is None else tune(name, data, task, _full_shot_candidates(validation))


def _full_shot_candidates(found: Sequence[EvaluationTask]) -> NDArray[np.bool_] | None:
    return next((task.candidates for task in found if task.setting == "full_shot"), None)


def evaluate(settings: Settings, models: Sequence[Artifact]) -> Artifact:
    """Rank with `models` (backbone artifacts) and all baselines on the final snapshot; return the artifact
    `evaluation`.

    Raises WorkspaceError when there is no test slice, ModelError when a model was trained on other users or items.
    """
    from reclm.warehouse.reading import features_fingerprint
    from reclm.warehouse.sources import set_current_artifacts

    parameters = {
        "evaluation": settings.evaluation.model_dump(mode="json", exclude={"batch_size"}),
        "regime": settings.data.regime,
        "seed": settings.seed,
    }
    parents = {"warehouse": features_fingerprint(settings.paths)} | {
        f"backbone/{_name(model)}": model.version for model in sorted(models, key=_name)
    }
    version = artifacts.version_of(KIND, parameters, parents)
    if artifacts.find(settings.paths, KIND, version) is None:
        with artifacts.writing(settings.paths, KIND, parameters, parents, resumable=True) as draft:
            _write(settings, models, draft)
        log_evaluation(settings, artifacts.load(settings.paths, KIND, version))
    else:
        detail(f"reusing evaluation {version}: nothing it depends on has changed")
    set_current_artifacts(settings.paths, KIND, [version])
    return artifacts.load(settings.paths, KIND, version)


def _name(model: Artifact) -> str:
    parameters = model.manifest["parameters"]
    return f"{parameters['model']}-{parameters['variant']}-{parameters['seed']}"


def _write(settings: Settings, models: Sequence[Artifact], draft: artifacts.Draft) -> None:
    final = FinalSnapshot(settings, models)
    n_known = final.data.interactions.getnnz(axis=1)
    if not any(n_known[task.users].any() for task in final.tasks):
        say(
            "nobody has both a history before the test slice and interactions in it: the figures are of people of whom "
            "models know nothing, and do not tell models apart; bring a longer log"
        )
    baselines, skipped = _baselines(settings, final)
    contenders = baselines + [_backbone(settings, final, model) for model in models]
    ranked = _rank_all(settings, final, contenders, draft)
    data = {"dataset": settings.paths.require_dataset()["name"], "regime": settings.data.regime}
    bands = tasks.load_bands(settings, "final")
    rows = results.Rows()
    for task in final.tasks:
        ranked_task = [(c, ranked[task.setting, c.key]) for c in contenders if task.setting in c.settings]
        task_fields = data | {"setting": task.setting}
        results.add_results(rows, task_fields, task, ranked_task, settings)
        for contender, result in track(ranked_task, f"bands, {task.setting}"):
            fields = task_fields | {"model": contender.model, "variant": contender.variant, "seed": contender.seed}
            rows.bands += [fields | row for row in band_rows(result.ranks, task, bands, settings.evaluation.ks)]
    results.write(rows, draft.path)
    draft.metrics = {
        "skipped_baselines": skipped,
        "foretold": foretold(models, rows.results, rows.told_apart),
        "cold_starts_tried": cold_starts_tried(models),
        "random_list": {
            task.setting: random_list_band(task, settings.seed) for task in final.tasks if not task.mask.nnz
        },
    }
    shutil.rmtree(draft.path / checkpoints.FOLDER)


def _rank_all(
    settings: Settings, final: FinalSnapshot, contenders: Sequence[Contender], draft: artifacts.Draft
) -> dict[tuple[str, str], RankingResult]:
    """{(setting, contender key): its ranks}; read from checkpoints where an interrupted run has written them."""
    ranked: dict[tuple[str, str], RankingResult] = {}
    for contender in track(contenders, "ranking"):
        scorers: Scorers | None = None
        for task in final.tasks:
            if task.setting not in contender.settings:
                continue
            path = draft.path / checkpoints.FOLDER / f"{task.setting}-{contender.key}.safetensors"
            result = checkpoints.read(path, task)
            if result is None:
                scorers = scorers or contender.open()
                result = _rank_task(settings, final, task, contender, scorers(task))
                checkpoints.write(path, result)
            ranked[task.setting, contender.key] = result
    return ranked


def _rank_task(
    settings: Settings, final: FinalSnapshot, task: EvaluationTask, contender: Contender, scorer: Scorer
) -> RankingResult:
    try:
        lists = rank(scorer, task, max(settings.evaluation.ks), settings.evaluation.batch_size)
    except ModelError as error:
        raise ModelError(f"{contender.model} ({contender.variant}), {task.setting}: {error}") from None
    figures = list_metrics(lists, task, final.data.interactions, settings.evaluation.ks)
    return RankingResult(truth_ranks(lists, task), figures)


def _baselines(settings: Settings, final: FinalSnapshot) -> tuple[list[Contender], dict[str, str]]:
    """(the baselines that can run on this data set, {name of another: why it cannot run})."""
    contenders, skipped = [], {}
    for name in settings.evaluation.baselines:
        reason = why_not(name, final.data)
        if reason is None:
            contenders.append(_baseline(settings, final, name))
        else:
            skipped[name] = reason
            say(f"baseline {name} left out: it {reason}")
    return contenders, skipped


def _baseline(settings: Settings, final: FinalSnapshot, name: str) -> Contender:
    def fit_once() -> Scorers:
        fitted = fit_baseline(name, final.data, settings.seed, available=final.available)
        return lambda task: fitted

    def fit_per_task() -> Scorers:
        return lambda task: strongest_predicted_popularity(final.data, task, final.available)[0]

    def fit_tuned() -> Scorers:
        return lambda task: fit_baseline(
            name, final.data, settings.seed, available=final.available, option=final.tuned(name, task.setting)
        )

    fit = fit_tuned if name in TUNED else fit_per_task if name == "predicted_popularity" else fit_once
    return Contender(name, BASELINE, settings.seed, ANSWERS[name], fit)


def _backbone(settings: Settings, final: FinalSnapshot, model: Artifact) -> Contender:
    def load() -> Scorers:
        from reclm.backbones.loading import load_backbone

        backbone = load_backbone(model.path)
        fitted = backbone.fitted
        users, items = final.ids
        require_same_ids(
            f"model {_name(model)}", fitted.user_ids, fitted.item_ids, users, items[: len(fitted.item_ids)]
        )
        return lambda task: BackboneScorer(backbone, task.setting, len(items))

    parameters = model.manifest["parameters"]
    return Contender(parameters["model"], parameters["variant"], int(parameters["seed"]), EVALUATION_SETTINGS, load)


def n_fitted_items(model: Artifact) -> int:
    """Return the number of items that a backbone was fitted on."""
    return int(pq.read_metadata(model.path / "items.parquet").num_rows)


def require_same_ids(
    what: str,
    user_ids: NDArray[np.str_],
    item_ids: NDArray[np.str_],
    expected_users: NDArray[np.str_],
    expected_items: NDArray[np.str_],
) -> None:
    """Raise ModelError unless both sides have the same users and the same items in the same order."""
    for kind, found, expected in (("users", user_ids, expected_users), ("items", item_ids, expected_items)):
        if not np.array_equal(found, expected):
            raise ModelError(
                f"{what} has {len(found)} {kind} that are not, in this order, the {len(expected)} {kind} of the "
                "warehouse; "
                "the data changed since it was made: run `reclm publish` and `reclm train` again"
            )


def random_list_band(task: EvaluationTask, seed: int, k: int = 20, n_lists: int = RANDOM_LISTS) -> dict[str, float]:
    """Return mean and standard deviation of Recall@k and NDCG@k of random lists that are the same for every user.

    They show what chance alone can reach on a task where a few items have most of the truth. Without masks both metrics
    are sums over the items of a list of the mean gain of an item, so no ranking is needed.
    """
    from reclm.evaluation.intervals import pair_gains

    candidates = np.flatnonzero(task.candidates)
    first, n_users = np.ones(task.truth.nnz, np.int16), max(len(task.users), 1)
    mean_gain = {
        metric: np.bincount(task.truth.indices, pair_gains(first, task, metric, k), len(task.candidates)) / n_users
        for metric in ("recall", "ndcg")
    }
    generator = np.random.default_rng([seed, k])
    length = min(k, len(candidates))
    lists = np.stack([generator.choice(candidates, length, replace=False) for _ in range(n_lists)])
    discount = 1 / np.log2(np.arange(2, lists.shape[1] + 2))
    recall, ndcg = mean_gain["recall"][lists].sum(axis=1), mean_gain["ndcg"][lists] @ discount
    return {
        "k": k,
        "lists": n_lists,
        "recall": float(recall.mean()),
        "recall_sd": float(recall.std()),
        "ndcg": float(ndcg.mean()),
        "ndcg_sd": float(ndcg.std()),
    }


def result_rows(evaluation: Artifact) -> Iterator[dict[str, Any]]:
    """Yield the results as dictionaries with the keys of `ROW_FIELDS`; a value that is not finite is None."""
    file, schema = evaluation.path / "results.parquet", EVALUATION["results"]
    for row in pq.read_table(file, columns=list(ROW_FIELDS), schema=schema).to_pylist():
        yield {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
