"""The part of `Backbone` that the five networks share: train on fused vectors, validate, stop early, keep the best.

`select` validates before the first epoch and every few epochs after, on warm items, on cold items, and on both
together. It keeps the vectors of the best epoch of each by a smoothed curve, where there are cold items together with
the best cold start (`cold_start.py`), and stops when none has improved for a while. `refit` trains for the chosen
epochs and keeps the vectors of each. Epoch 0 is a candidate like any other: there items are ranked by their biases
(popularity, for cold items predicted popularity) and by what texts have in common.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reclm.backbones.base import Backbone
from reclm.backbones.best_epoch import BestEpoch
from reclm.backbones.cold_start import ColdStartKernel, ColdStartTask
from reclm.backbones.content_prior import choose_prior, take_prior
from reclm.backbones.features import Matrix, present
from reclm.backbones.fitted import (
    ColdStart,
    CurveRow,
    Fitted,
    Selection,
    TriedColdStart,
    Vectors,
    curve_rows,
)
from reclm.backbones.fold_in import learn
from reclm.backbones.fusion.fusion import Fusion
from reclm.backbones.fusion.inputs import profiles_of
from reclm.backbones.metrics import MAX_VALIDATION_USERS, recall_and_ndcg
from reclm.backbones.network import Network
from reclm.backbones.reproducible import reproducible
from reclm.backbones.trainer import Trainer
from reclm.dataset import EVALUATION_SETTINGS, SERVED, EvaluationSetting, EvaluationTask, TrainingData, Variant
from reclm.errors import ModelError
from reclm.progress import track
from reclm.settings.machine import device_of
from reclm.settings.operations import RuntimeSettings
from reclm.settings.recommenders import FusionSettings, TrainSettings

State = tuple[Vectors, dict[str, NDArray[Any]]]
"""What is kept of an epoch: the final vectors, and the network parameters by name."""
PER_ENTITY_PARAMETERS = ("users.ids", "items.ids", "own_bias")
"""Parameters with a row for each user or item: they are stored in that entity's row, not with the network's."""


class NeuralBackbone(Backbone):
    """A backbone whose vectors come from `network()`. Validation ranks for at most `validation_users` users."""

    validation_users = MAX_VALIDATION_USERS

    def __init__(self, train: TrainSettings, fusion: FusionSettings, runtime: RuntimeSettings) -> None:
        super().__init__(train, fusion, runtime)
        self._networks: dict[EvaluationSetting, Network] = {}

    @abstractmethod
    def network(self) -> Network:
        """Return a freshly initialised network."""

    def default_selection(self) -> Selection:
        return Selection.of_epochs(self.train.epochs, ColdStart())

    def select(self, data: TrainingData, variant: Variant, tasks: Sequence[EvaluationTask], seed: int) -> Selection:
        if not tasks:
            selection = self.default_selection()
            return replace(selection, curve=self.refit(data, variant, selection, seed))
        kernel = None
        with reproducible(self.runtime, seed):
            trainer = self._trainer(data, variant, seed)
            if any(task.setting != "full_shot" for task in tasks):
                kernel = ColdStartKernel(data, profiles_of(data, variant, seed)[1])
            selection, states = self._train_and_validate(trainer, [ColdStartTask(task, kernel) for task in tasks])
        self._finish(data, variant, seed, selection, states, trainer.fusion, kernel)
        return choose_prior(self.fitted, data, seed, selection, tasks, self._product_in, self.validation_users)

    def refit(self, data: TrainingData, variant: Variant, selection: Selection, seed: int) -> list[CurveRow]:
        with reproducible(self.runtime, seed):
            trainer = self._trainer(data, variant, seed)
            states, curve = self._train(trainer, selection.epochs)
        chosen = {setting: selection.cold_start.get(setting, ColdStart()) for setting in EVALUATION_SETTINGS}
        self._finish(data, variant, seed, replace(selection, cold_start=chosen), states, trainer.fusion, None)
        take_prior(self.fitted, data, seed, selection.options, self._product_in)
        return curve

    def _product_in(self, setting: EvaluationSetting, users: Matrix, items: Matrix) -> Matrix:
        return self._product(self._networks[setting], users, items)

    def learn_to_fold_in(self, data: TrainingData, seed: int) -> None:
        """Learn to give vectors to later users, and fold in the users of `data` who have a profile but no history.

        Training taught their vectors nothing, so folding in serves them better than the profile tower does.
        """
        super().learn_to_fold_in(data, seed)
        known, about = self.fitted.known, self.fitted.description
        profiles = profiles_of(data, about["variant"], about["seed"])[0]
        if profiles is None:
            return
        without_history = np.flatnonzero((known.getnnz(axis=1) == 0) & present(profiles))
        if not len(without_history):
            return
        for setting, vectors in self.fitted.vectors.items():
            learned = self.fitted.fold_in if (setting, about["variant"]) == (SERVED, "augment") else None
            fold_in = learned or learn(vectors.users, vectors.items, known, profiles, seed)
            users = vectors.users.copy()
            users[without_history] = fold_in.vectors(vectors.items, known[without_history], profiles[without_history])
            self.fitted.vectors[setting] = replace(vectors, users=users)

    def _trainer(self, data: TrainingData, variant: Variant, seed: int) -> Trainer:
        network = self.network()
        fusion = Fusion(data, variant, self.train.dim, self.fusion, seed, network.recipe.score_scale)
        return Trainer(network, fusion, data, self.train, torch.device(device_of(self.runtime)), seed)

    def _train(
        self, trainer: Trainer, epochs: Mapping[EvaluationSetting, int]
    ) -> tuple[dict[EvaluationSetting, State], list[CurveRow]]:
        """Train for the largest number of `epochs` and keep the state of each setting's own."""
        states: dict[EvaluationSetting, State] = {}
        curve: list[CurveRow] = []
        last = max(epochs.values())
        for epoch in track(range(last + 1), f"{self.name}: epochs", last + 1):
            loss = trainer.epoch() if epoch else 0.0
            curve.append({"epoch": epoch, "loss": loss, "setting": "", "metric": "", "value": float("nan")})
            due = [setting for setting in EVALUATION_SETTINGS if epochs[setting] == epoch]
            if due:
                states |= dict.fromkeys(due, _state(trainer))
        return states, curve

    def _train_and_validate(
        self, trainer: Trainer, tasks: Sequence[ColdStartTask]
    ) -> tuple[Selection, dict[EvaluationSetting, State]]:
        """Train until no task has improved for `train.patience` validations; keep the best state of each setting.

        Validations are smoothed (`best_epoch.py`), and training does not stop while the step size still grows.
        """
        train = self.train
        warm_up = round(train.warmup * train.epochs)
        best: dict[EvaluationSetting, BestEpoch[State]] = {task.setting: BestEpoch() for task in tasks}
        cold_starts: dict[int, ColdStart] = {}
        curve: list[CurveRow] = []
        for epoch in track(range(train.epochs + 1), f"{self.name}: epochs", train.epochs + 1):
            loss = trainer.epoch() if epoch else 0.0
            if epoch % train.validate_every and epoch != train.epochs:
                continue
            state = _state(trainer)
            for task in tasks:
                setting = task.setting
                options: Iterable[tuple[ColdStart, Matrix]] = task.options(state[0])
                if setting == SERVED:  # with the cold start of cold items alone, until the epoch is chosen
                    one = cold_starts.get(epoch, ColdStart())
                    options = [(one, task.items(state[0], one))]
                tried = self._tried(trainer.network, state[0].users, task, options)
                chosen = max(tried, key=lambda one: one.value)
                if setting == "zero_shot":
                    cold_starts[epoch] = _naming_a_kernel(chosen.cold_start, tried)
                curve += curve_rows(epoch, setting, chosen, loss)
                best[setting].add(epoch, chosen.value, state)
            waited = epoch - max(warm_up, *(one.epoch for one in best.values()))
            if waited >= train.patience * train.validate_every:
                break
        for one_best in best.values():
            one_best.finish()
        latest = max(best.values(), key=lambda one: one.epoch)  # for a setting without a task
        epochs = {setting: best.get(setting, latest).epoch for setting in EVALUATION_SETTINGS}
        cold_start = {setting: cold_starts.get(epoch, ColdStart()) for setting, epoch in epochs.items()}
        kept = {setting: best.get(setting, latest).kept for setting in EVALUATION_SETTINGS}
        selection = Selection(epochs, cold_start, curve)
        for task in tasks:
            if task.setting == SERVED:
                selection = self._with_served_cold_start(selection, task, kept[SERVED])
        return selection, kept

    def _with_served_cold_start(self, selection: Selection, task: ColdStartTask, state: State) -> Selection:
        """Choose mix and level of cold items where they are ranked beside warm ones, at the epoch that was chosen."""
        vectors, network = state[0], self._loaded_network(state[1])
        mixes = self._tried(network, vectors.users, task, task.options(vectors))
        mix = max(mixes, key=lambda one: one.value)
        levels = self._tried(network, vectors.users, task, task.levels(vectors, mix.cold_start))
        chosen, epoch = max([mix, *levels], key=lambda one: one.value), selection.epochs[SERVED]
        cold_start = _naming_a_kernel(chosen.cold_start, mixes)
        others = [row for row in selection.curve if (row["setting"], row["epoch"]) != (SERVED, epoch)]
        loss = next(row["loss"] for row in selection.curve if row["epoch"] == epoch)
        return replace(
            selection,
            cold_start={**selection.cold_start, SERVED: cold_start},
            curve=[*others, *curve_rows(epoch, SERVED, chosen, loss)],
            tried=[*mixes, *levels],
        )

    def _tried(
        self, network: Network, users: Matrix, task: ColdStartTask, options: Iterable[tuple[ColdStart, Matrix]]
    ) -> list[TriedColdStart]:
        """Measure each cold start of `options`, given with the vectors of the task's candidates."""
        tried = []
        for cold_start, items in options:
            metrics = recall_and_ndcg(
                lambda rows, items=items: self._product(network, users[rows], items),  # type: ignore[misc]
                task.task,
                self.validation_users,
            )
            tried.append(TriedColdStart(cold_start, **metrics))
        return tried

    def _finish(
        self,
        data: TrainingData,
        variant: Variant,
        seed: int,
        selection: Selection,
        states: dict[EvaluationSetting, State],
        fusion: Fusion,
        kernel: ColdStartKernel | None,
    ) -> None:
        """Move cold items as the selection says and take over the fitted model."""
        vectors = {setting: states[setting][0] for setting in EVALUATION_SETTINGS}
        if any(cold_start.kernel_share or cold_start.shift for cold_start in selection.cold_start.values()):
            kernel = kernel or ColdStartKernel(data, profiles_of(data, variant, seed)[1])
            vectors = {s: replace(v, items=kernel.apply(v, selection.cold_start[s])) for s, v in vectors.items()}
        user_ids, item_ids = (
            np.where(encoder.known.cpu().numpy()[:, None], encoder.ids.detach().cpu().numpy(), np.nan)
            for encoder in (fusion.users, fusion.items)
        )
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors=vectors,
                user_id_vectors=user_ids.astype(np.float32),
                item_id_vectors=item_ids.astype(np.float32),
                description={
                    "variant": variant,
                    "seed": seed,
                    "epochs": dict(selection.epochs),
                    "cold_start": {s: cold_start._asdict() for s, cold_start in selection.cold_start.items()},
                    "snapshot": data.snapshot,
                },
                networks={f"{s}/{name}": value for s in EVALUATION_SETTINGS for name, value in states[s][1].items()},
            )
        )

    def restore(self, fitted: Fitted) -> None:
        super().restore(fitted)
        self._networks = {s: self._loaded_network(fitted.networks, f"{s}/network.") for s in EVALUATION_SETTINGS}

    def _loaded_network(self, parameters: Mapping[str, NDArray[Any]], prefix: str = "network.") -> Network:
        network = self.network()
        try:
            network.load_state_dict(
                {k.removeprefix(prefix): torch.from_numpy(v) for k, v in parameters.items() if k.startswith(prefix)}
            )
        except RuntimeError:
            raise ModelError(
                f"this {self.name} was trained by another version of reclm whose network had other layers; "
                "run `reclm train`, then `reclm promote`"
            ) from None
        return network.eval()

    def _score(self, users: Matrix, items: Matrix, setting: EvaluationSetting) -> Matrix:
        return self._product_in(setting, users, items)

    def _product(self, network: Network, users: Matrix, items: Matrix) -> Matrix:
        """Score stored vectors, (b, n_items). Networks that do not score by inner product override it."""
        return users @ items.T


def _naming_a_kernel(cold_start: ColdStart, mixes: Sequence[TriedColdStart]) -> ColdStart:
    """Return the cold start; where the towers alone are best, with the better kernel of `mixes`, the towers' own first.

    Items that come later have no tower, so a kernel must give them their vectors.
    """
    if cold_start.kernel_share or len(mixes) < 2:
        return cold_start
    kernel = max(mixes[1:], key=lambda one: one.value).cold_start
    return cold_start._replace(reads_profiles=kernel.reads_profiles)


def _state(trainer: Trainer) -> State:
    parameters = {f"fusion.{k}": v for k, v in trainer.fusion.state_dict().items() if k not in PER_ENTITY_PARAMETERS}
    parameters |= {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    return trainer.vectors(), {name: value.detach().cpu().numpy().copy() for name, value in parameters.items()}
