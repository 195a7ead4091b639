"""The part of `Backbone` that the five networks share: fit a network on fused vectors, stop early, keep the best.

A `select` fit validates before the first epoch and every few after, on warm and on cold items apart, and remembers the
best epoch of each; it ends when neither has improved for a while. A `final` fit runs for chosen epochs and keeps the
vectors of each. Epoch 0 is a candidate like any other: there the biases speak, popularity for warm items and
predicted popularity for cold ones, and what texts have in common.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reclm.backbones.base import Backbone, Epochs, Fitted, Matrix, Vectors, epoch_of_each_setting
from reclm.backbones.fusion import Fusion
from reclm.backbones.trainer import Network, Trainer, device_of, reproducible
from reclm.backbones.validation import MAX_USERS, recall_and_ndcg
from reclm.dataset import SETTINGS, EvaluationTask, Setting, TrainingData, Variant
from reclm.progress import track
from reclm.settings import Settings

Snapshot = tuple[Vectors, dict[str, NDArray[Any]]]
OWNED_BY_ONE = (
    "users.ids",
    "items.ids",
    "own_bias",
)  # parameters with a row per entity: they go to that entity's parquet row


class NeuralBackbone(Backbone):
    """A backbone whose vectors come from `network()`. `validation_users` are asked, at most, between epochs."""

    validation_users = MAX_USERS

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._networks: dict[Setting, Network] = {}

    @abstractmethod
    def network(self) -> Network:
        """A freshly initialised network."""

    def fit(
        self,
        data: TrainingData,
        variant: Variant,
        *,
        seed: int,
        tasks: Sequence[EvaluationTask] = (),
        epochs: Epochs | None = None,
    ) -> dict[Setting, int]:
        train, runtime = self.settings.train, self.settings.runtime
        self.curve = []
        with reproducible(runtime, seed):
            network = self.network()
            fusion = Fusion(data, variant, train.dim, self.settings.fusion, seed, network.sharpness)
            trainer = Trainer(network, fusion, data, train, device_of(runtime), seed)
            wanted = epoch_of_each_setting(train.epochs if epochs is None else epochs)
            if tasks and epochs is None:
                chosen, kept = self._select(trainer, tasks)
            else:
                chosen, kept = wanted, self._run(trainer, wanted)
        self._keep(data, variant, seed, chosen, kept, fusion)
        return chosen

    def _run(self, trainer: Trainer, wanted: dict[Setting, int]) -> dict[Setting, Snapshot]:
        kept: dict[Setting, Snapshot] = {}
        last = max(wanted.values())
        for epoch in track(range(last + 1), f"{self.name}: epochs", last + 1):
            loss = trainer.epoch() if epoch else 0.0
            self.curve.append({"epoch": epoch, "loss": loss, "setting": "", "metric": "", "value": float("nan")})
            due = [setting for setting in SETTINGS if wanted[setting] == epoch]
            if due:
                vectors, state = _snapshot(trainer)
                kept |= dict.fromkeys(due, (replace(vectors, unseen=trainer.unseen()), state))
        return kept

    def _select(
        self, trainer: Trainer, tasks: Sequence[EvaluationTask]
    ) -> tuple[dict[Setting, int], dict[Setting, Snapshot]]:
        train = self.settings.train
        best: dict[Setting, tuple[float, int]] = {}
        kept: dict[Setting, Snapshot] = {}
        for epoch in track(range(train.epochs + 1), f"{self.name}: epochs", train.epochs + 1):
            loss = trainer.epoch() if epoch else 0.0
            if epoch % train.validate_every and epoch != train.epochs:
                continue
            snapshot = _snapshot(trainer)
            for task in tasks:
                value = self._validate(trainer.network, snapshot[0], task, epoch, loss)
                if task.setting not in best or value > best[task.setting][0]:
                    best[task.setting], kept[task.setting] = (value, epoch), snapshot
            if all(epoch - at >= train.patience * train.validate_every for _, at in best.values()):
                break
        latest = max(best, key=lambda setting: best[setting][1])
        chosen = {setting: best.get(setting, best[latest])[1] for setting in SETTINGS}
        return chosen, {setting: kept.get(setting, kept[latest]) for setting in SETTINGS}

    def _validate(self, network: Network, vectors: Vectors, task: EvaluationTask, epoch: int, loss: float) -> float:
        metrics = recall_and_ndcg(
            lambda users: self._product(network, vectors.users[users], vectors.items), task, self.validation_users
        )
        for metric, value in metrics.items():
            self.curve.append({"epoch": epoch, "loss": loss, "setting": task.setting, "metric": metric, "value": value})
        return sum(metrics.values())

    def _keep(
        self,
        data: TrainingData,
        variant: Variant,
        seed: int,
        chosen: dict[Setting, int],
        kept: dict[Setting, Snapshot],
        fusion: Fusion,
    ) -> None:
        sides = (fusion.users, fusion.items)
        tables = [np.where(s.known.cpu().numpy()[:, None], s.ids.detach().cpu().numpy(), np.nan) for s in sides]
        self._restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors={setting: kept[setting][0] for setting in SETTINGS},
                user_id_vectors=tables[0].astype(np.float32),
                item_id_vectors=tables[1].astype(np.float32),
                description={"variant": variant, "seed": seed, "epochs": chosen, "snapshot": data.snapshot},
                networks={f"{s}/{name}": value for s in SETTINGS for name, value in kept[s][1].items()},
            )
        )

    def _restore(self, fitted: Fitted) -> None:
        super()._restore(fitted)
        for setting in SETTINGS:
            prefix = f"{setting}/network."
            state = {
                k.removeprefix(prefix): torch.from_numpy(v) for k, v in fitted.networks.items() if k.startswith(prefix)
            }
            network = self.network()
            network.load_state_dict(state)
            self._networks[setting] = network.eval()

    def _score(self, users: Matrix, items: Matrix, setting: Setting) -> Matrix:
        return self._product(self._networks[setting], users, items)

    def _product(self, network: Network, users: Matrix, items: Matrix) -> Matrix:
        """Scores (b, n_items) of stored vectors; networks that score otherwise than by inner product override it."""
        return users @ items.T


def _snapshot(trainer: Trainer) -> Snapshot:
    state = {f"fusion.{k}": v for k, v in trainer.fusion.state_dict().items() if k not in OWNED_BY_ONE}
    state |= {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    return trainer.vectors(), {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
