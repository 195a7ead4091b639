"""The part of `Backbone` that the five networks share: fit a network on fused vectors, stop early, keep the best.

A `select` fit validates before the first epoch and every few after, on warm and on cold items apart, and remembers the
best epoch of each, for cold items together with their place between tower and kernel ridge (`placing.py`); it ends
when neither has improved for a while. A `final` fit runs for chosen epochs and keeps the vectors of each. Epoch 0 is a
candidate like any other: there the biases speak, popularity for warm items and predicted popularity for cold ones, and
what texts have in common.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reclm.backbones.base import Backbone, Epochs, epoch_of_each_setting
from reclm.backbones.cold_start import KEPT_CELLS, SHARES, KernelMap, Placing, between, levelled
from reclm.backbones.features import Matrix, present
from reclm.backbones.fitted import ColdStart, Fitted, Vectors
from reclm.backbones.fold_in import learn
from reclm.backbones.fusion.fusion import Fusion, profiles_of
from reclm.backbones.trainer import Network, Trainer, device_of, reproducible
from reclm.backbones.validation import MAX_USERS, recall_and_ndcg
from reclm.dataset import EVALUATION_SETTINGS, EvaluationSetting, EvaluationTask, TrainingData, Variant
from reclm.errors import ModelError
from reclm.progress import track
from reclm.settings.tree import Settings

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
        self._networks: dict[EvaluationSetting, Network] = {}

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
        placing: Mapping[str, ColdStart] | None = None,
    ) -> dict[EvaluationSetting, int]:
        train, runtime = self.settings.train, self.settings.runtime
        self.curve = []
        with reproducible(runtime, seed):
            network = self.network()
            fusion = Fusion(data, variant, train.dim, self.settings.fusion, seed, network.sharpness)
            trainer = Trainer(network, fusion, data, train, device_of(runtime), seed)
            wanted = epoch_of_each_setting(train.epochs if epochs is None else epochs)
            places = {setting: (placing or {}).get(setting, ColdStart()) for setting in EVALUATION_SETTINGS}
            kernel = None
            if tasks and epochs is None:
                if any(task.setting == "zero_shot" for task in tasks):
                    kernel = _placing(data, variant, seed)
                chosen, places, kept = self._select(trainer, tasks, kernel)
            else:
                chosen, kept = wanted, self._run(trainer, wanted)
        if any(place.share for place in places.values()):
            kernel = kernel or _placing(data, variant, seed)
            kept = {s: (replace(v, items=kernel.placed(v, places[s])), state) for s, (v, state) in kept.items()}
        self._keep(data, variant, seed, chosen, places, kept, fusion)
        return chosen

    def learn_to_fold_in(self, data: TrainingData, seed: int) -> None:
        """As every backbone; whoever it was fitted on with a profile and without a history has taught it nothing, and is
        folded in too. (A fit that only chooses epochs leaves them where their profile's tower puts them.)"""
        super().learn_to_fold_in(data, seed)
        known, about = self.fitted.known, self.fitted.description
        profiles = profiles_of(data, about["variant"], about["seed"])[0]
        if profiles is None:
            return
        strangers = np.flatnonzero((known.getnnz(axis=1) == 0) & present(profiles))
        if not len(strangers):
            return
        for setting, vectors in self.fitted.vectors.items():
            learned = self.fitted.fold_in if (setting, about["variant"]) == ("full_shot", "augment") else None
            fold_in = learned or learn(vectors.users, vectors.items, known, profiles, seed)
            users = vectors.users.copy()
            users[strangers] = fold_in.vectors(vectors.items, known[strangers], profiles[strangers])
            self.fitted.vectors[setting] = replace(vectors, users=users)

    def _run(self, trainer: Trainer, wanted: dict[EvaluationSetting, int]) -> dict[EvaluationSetting, Snapshot]:
        kept: dict[EvaluationSetting, Snapshot] = {}
        last = max(wanted.values())
        for epoch in track(range(last + 1), f"{self.name}: epochs", last + 1):
            loss = trainer.epoch() if epoch else 0.0
            self.curve.append({"epoch": epoch, "loss": loss, "setting": "", "metric": "", "value": float("nan")})
            due = [setting for setting in EVALUATION_SETTINGS if wanted[setting] == epoch]
            if due:
                kept |= dict.fromkeys(due, _snapshot(trainer))
        return kept

    def _select(
        self, trainer: Trainer, tasks: Sequence[EvaluationTask], placing: Placing | None
    ) -> tuple[dict[EvaluationSetting, int], dict[EvaluationSetting, ColdStart], dict[EvaluationSetting, Snapshot]]:
        train = self.settings.train
        best: dict[EvaluationSetting, tuple[float, int]] = {}
        kept: dict[EvaluationSetting, Snapshot] = {}
        places: dict[int, ColdStart] = {}
        questions = [_Question(task, placing) for task in tasks]
        for epoch in track(range(train.epochs + 1), f"{self.name}: epochs", train.epochs + 1):
            loss = trainer.epoch() if epoch else 0.0
            if epoch % train.validate_every and epoch != train.epochs:
                continue
            snapshot = _snapshot(trainer)
            for question in questions:
                setting = question.setting
                value, place = self._validate(trainer.network, snapshot[0], question, epoch, loss)
                if setting == "zero_shot":
                    places[epoch] = place
                if setting not in best or value > best[setting][0]:
                    best[setting], kept[setting] = (value, epoch), snapshot
            if all(epoch - at >= train.patience * train.validate_every for _, at in best.values()):
                break
        latest = max(best, key=lambda setting: best[setting][1])
        chosen = {setting: best.get(setting, best[latest])[1] for setting in EVALUATION_SETTINGS}
        return (
            chosen,
            {setting: places.get(epoch, ColdStart()) for setting, epoch in chosen.items()},
            {setting: kept.get(setting, kept[latest]) for setting in EVALUATION_SETTINGS},
        )

    def _validate(
        self, network: Network, vectors: Vectors, question: _Question, epoch: int, loss: float
    ) -> tuple[float, ColdStart]:
        """(Recall@20 + NDCG@20, the place at which cold items rank best), into the curve too. A place that leaves all to
        the tower still names the better kernel, since items that come later have no tower."""
        found = []
        for place, items in question.candidates(vectors):
            metrics = recall_and_ndcg(
                lambda users, items=items: self._product(network, vectors.users[users], items),  # type: ignore[misc]
                question.task,
                self.validation_users,
            )
            found.append((sum(metrics.values()), place, metrics))
        value, place, best = max(found, key=lambda one: one[0])
        if not place.share and len(found) > 1:
            place = ColdStart(0.0, max(found[1:], key=lambda one: one[0])[1].profiles)
        for metric, one in best.items():
            row = {"epoch": epoch, "loss": loss, "setting": question.setting, "metric": metric, "value": one}
            self.curve.append(row)
        return value, place

    def _keep(
        self,
        data: TrainingData,
        variant: Variant,
        seed: int,
        chosen: dict[EvaluationSetting, int],
        places: Mapping[EvaluationSetting, ColdStart],
        kept: dict[EvaluationSetting, Snapshot],
        fusion: Fusion,
    ) -> None:
        sides = (fusion.users, fusion.items)
        tables = [np.where(s.known.cpu().numpy()[:, None], s.ids.detach().cpu().numpy(), np.nan) for s in sides]
        self.restore(
            Fitted(
                user_ids=data.user_ids,
                item_ids=data.item_ids,
                known=data.interactions,
                vectors={setting: kept[setting][0] for setting in EVALUATION_SETTINGS},
                user_id_vectors=tables[0].astype(np.float32),
                item_id_vectors=tables[1].astype(np.float32),
                description={
                    "variant": variant,
                    "seed": seed,
                    "epochs": chosen,
                    "placing": {setting: [*place] for setting, place in places.items()},
                    "snapshot": data.snapshot,
                },
                networks={f"{s}/{name}": value for s in EVALUATION_SETTINGS for name, value in kept[s][1].items()},
            )
        )

    def restore(self, fitted: Fitted) -> None:
        super().restore(fitted)
        for setting in EVALUATION_SETTINGS:
            prefix = f"{setting}/network."
            state = {
                k.removeprefix(prefix): torch.from_numpy(v) for k, v in fitted.networks.items() if k.startswith(prefix)
            }
            network = self.network()
            try:
                network.load_state_dict(state)
            except RuntimeError:
                raise ModelError(
                    f"this {self.name} was trained by a reclm that built it otherwise; run `reclm train`, then `reclm promote`"
                ) from None
            self._networks[setting] = network.eval()

    def _score(self, users: Matrix, items: Matrix, setting: EvaluationSetting) -> Matrix:
        return self._product(self._networks[setting], users, items)

    def _product(self, network: Network, users: Matrix, items: Matrix) -> Matrix:
        """Scores (b, n_items) of stored vectors; networks that score otherwise than by inner product override it."""
        return users @ items.T


class _Asked(NamedTuple):
    """What one kernel says of cold items: of all `cold` ones it can place (`kernel`: as `KernelMap.kept` gave it), of which
    those at `place` stand among a question's candidates, at `mine`."""

    profiles: bool
    map: KernelMap
    cold: NDArray[np.int64]
    kernel: Matrix | None
    mine: NDArray[np.int64]
    place: NDArray[np.int64]


class _Question:
    """A validation task over its candidates alone, and the cold ones among them."""

    def __init__(self, task: EvaluationTask, placing: Placing | None) -> None:
        columns = np.flatnonzero(task.candidates)
        self.task = replace(
            task,
            truth=task.truth[:, columns],
            mask=task.mask[:, columns],
            candidates=np.ones(len(columns), dtype=np.bool_),
        )
        self.setting = task.setting
        self._columns = columns
        self._kernels: list[_Asked] = []
        self._placing = placing
        if placing is not None and task.setting == "zero_shot":
            for profiles in placing.kernels:
                cold, kernel = placing.cold(profiles), placing.map(profiles)
                asked, mine, place = np.intersect1d(columns, cold, assume_unique=True, return_indices=True)
                if len(asked):
                    kept = kernel.kept(cold, KEPT_CELLS // len(placing.kernels))
                    self._kernels.append(_Asked(profiles, kernel, cold, kept, mine, place))

    def candidates(self, vectors: Vectors) -> Iterator[tuple[ColdStart, Matrix]]:
        """(place, vectors of the candidates), of final `vectors`, for each place worth asking about."""
        own = vectors.items[self._columns]
        yield ColdStart(), own
        if self._placing is None or not self._kernels:
            return
        targets = levelled(vectors, self._placing.warm)
        for one in self._kernels:
            told = one.map.predict(targets, one.cold, one.kernel)
            for share in SHARES[1:]:
                moved = own.copy()
                moved[one.mine] = between(vectors.items[one.cold], told, share)[one.place]
                yield ColdStart(share, one.profiles), moved


def _placing(data: TrainingData, variant: Variant, seed: int) -> Placing:
    return Placing(data, profiles_of(data, variant, seed)[1])


def _snapshot(trainer: Trainer) -> Snapshot:
    state = {f"fusion.{k}": v for k, v in trainer.fusion.state_dict().items() if k not in OWNED_BY_ONE}
    state |= {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    return trainer.vectors(), {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
