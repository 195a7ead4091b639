"""Log an evaluation to MLflow when `tracking.mlflow` is on: one MLflow run per model, variant and seed.

In: an `evaluation` artifact. Out: runs in the experiment that has the data set's name, at `tracking.mlflow_uri` or in
the workspace's own `mlruns`. No other stage reads them.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.errors import SettingsError
from reclm.storage.schemas import EVALUATION

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # the default store is a plain folder; recent MLflow requires this consent
}


def log_evaluation(settings: Settings, evaluation: Artifact) -> None:
    """Log every result; do nothing when `tracking.mlflow` is off.

    Raises SettingsError when it is on and the `tracking` extra is not installed.
    """
    if not settings.tracking.mlflow:
        return
    client = _client(settings)
    from mlflow.entities import Metric, Param, RunTag

    rows = pq.read_table(evaluation.path / "results.parquet", schema=EVALUATION["results"]).to_pylist()
    runs: dict[tuple[str, str, str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        runs[row["dataset"], row["regime"], row["model"], row["variant"], row["seed"]].append(row)
    for (dataset, regime, model, variant, seed), results in runs.items():
        run = client.create_run(_experiment(client, dataset), run_name=f"{model}-{variant}-{seed}")
        now = run.info.start_time
        metrics = [
            Metric(f"{row['setting']}/{row['metric']}_at_{row['k']}", row["value"], now, 0)
            for row in results
            if row["value"] is not None and math.isfinite(row["value"])
        ]
        parameters = {"model": model, "variant": variant, "seed": str(seed), "regime": regime}
        client.log_batch(
            run.info.run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in parameters.items()],
            tags=[RunTag("evaluation", evaluation.version)],
        )
        client.set_terminated(run.info.run_id)


def _client(settings: Settings) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise SettingsError(
            "tracking.mlflow is on, but MLflow is not installed; install it with `pip install 'reclm[tracking]'` "
            "or set tracking.mlflow=false"
        ) from None
    return MlflowClient(settings.tracking.mlflow_uri or (settings.paths.root / "mlruns").as_uri())


def _experiment(client: Any, dataset: str) -> str:
    experiment = client.get_experiment_by_name(dataset)
    return experiment.experiment_id if experiment else client.create_experiment(dataset)
