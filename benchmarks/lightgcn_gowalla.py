"""Train LightGCN by its published recipe on gowalla, in the split of LightGCN's authors.

The folder holds `train.parquet` and `test.parquet` (user_id, item_id). The recipe: 3 layers, 64-d, normal(0, 0.1)
start, BPR with one uniform negative, Adam 1e-3, decay 1e-4 on the batch's initial vectors, batches of 2048, an epoch as
many draws as interactions (He et al., SIGIR 2020, section 4.1.2). It uses the classes of `reclm.backbones` and prints
one JSON object per epoch, then one with Recall@20 and NDCG@20.

    python benchmarks/lightgcn_gowalla.py --data FOLDER --epochs 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from reclm.backbones.fusion.fusion import Fusion
from reclm.backbones.metrics import recall_and_ndcg
from reclm.backbones.models.lightgcn import GraphNetwork
from reclm.backbones.reproducible import reproducible
from reclm.backbones.trainer import Trainer
from reclm.dataset import EvaluationTask, TrainingData
from reclm.settings.loading import load
from reclm.settings.machine import device_of
from reclm.settings.tree import Settings

RECIPE = (
    "train.loss=bpr",
    "train.dim=64",
    "train.layers=3",
    "train.batch_size=2048",
    "train.learning_rate=1e-3",
    "train.warmup=0",
    "train.weight_decay=1e-4",
    "fusion.id_dropout=0",
)


def read(folder: Path) -> tuple[TrainingData, EvaluationTask]:
    """Read the train log, and the test task: every item is a candidate, train items are masked."""
    train, test = (pd.read_parquet(folder / f"{name}.parquet") for name in ("train", "test"))
    n_users, n_items = (int(max(train[c].max(), test[c].max())) + 1 for c in ("user_id", "item_id"))

    def matrix(log: pd.DataFrame) -> sparse.csr_matrix:
        entries = (np.ones(len(log), dtype=np.float32), (log.user_id.to_numpy(), log.item_id.to_numpy()))
        return sparse.csr_matrix(entries, shape=(n_users, n_items))

    known = matrix(train)
    user_ids, item_ids = (np.arange(n).astype(str) for n in (n_users, n_items))
    data = TrainingData("final", user_ids, item_ids, known, [""] * n_items)
    candidates = np.ones(n_items, dtype=bool)
    return data, EvaluationTask("final", "full_shot", matrix(test), known, candidates)


def run(settings: Settings, folder: Path, epochs: int, evaluate_every: int) -> None:
    data, task = read(folder)
    with reproducible(settings.runtime, settings.seed):
        fusion = Fusion(data, "base", settings.train.dim, settings.fusion, settings.seed)
        network, device = GraphNetwork(settings.train), torch.device(device_of(settings.runtime))
        trainer = Trainer(network, fusion, data, settings.train, device, settings.seed)
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            loss = trainer.epoch()
            row = {"epoch": epoch, "loss": round(loss, 5), "seconds": round(time.perf_counter() - started, 2)}
            if epoch % evaluate_every == 0 or epoch == epochs:
                metrics = _metrics(trainer, task)
                row |= {f"{metric}@20": round(value, 5) for metric, value in metrics.items()}
            print(json.dumps(row | {"threads": torch.get_num_threads(), "seed": settings.seed}), flush=True)


def _metrics(trainer: Trainer, task: EvaluationTask) -> dict[str, float]:
    vectors = trainer.vectors()

    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        return vectors.users[users] @ vectors.items.T

    return recall_and_ndcg(score, task, max_users=len(vectors.users))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--evaluate-every", type=int, default=5, help="epochs between evaluations; the last one always")
    arguments = parser.parse_args()
    flags = [*RECIPE, f"runtime.threads={arguments.threads}", f"seed={arguments.seed}"]
    run(load(flags, environment={}), arguments.data, arguments.epochs, arguments.evaluate_every)


if __name__ == "__main__":
    main()
