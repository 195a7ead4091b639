"""Trains a network on initial vectors from `fusion.py`. Loss `softmax` is the multinomial likelihood of a user's items
over a whole (sub)catalogue (Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 2), in
batches of users; over a graph, or with histories, it is a cloze: half of what users know is given, half is the target.
`bpr` is the pairwise loss of Rendle et al. (UAI 2009) on sampled triples. Either adds weight decay on the layer-0 vectors
of the batch and the network's own contrastive term. In a softmax step a random share of items plays the unseen: their
ids are withheld, and their edges too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.utils import deterministic as memory

from reclm.backbones.features import Matrix
from reclm.backbones.fitted import Vectors
from reclm.backbones.fusion.fusion import Fusion, HistorySums
from reclm.backbones.graph import BipartiteGraph, csr
from reclm.backbones.sampler import InteractionSampler
from reclm.dataset import TrainingData
from reclm.settings.operations import RuntimeSettings
from reclm.settings.recommenders import TrainSettings

Rows = NDArray[np.int64]
HIDDEN_EDGES = 0.5  # of what users know, in a softmax step: these are the targets, the rest is given
GIVEN = -1e9  # the score of an item that is given: it is no candidate
USER_DECAY = (
    10.0  # weight decay of a user's id vector in units of an item's: a user is in one batch an epoch, an item in all
)
WEIGHT_RATE = 0.03  # step size of a network weight in units of a table's: it moves every row, a table's entry one
MAX_STEPS = 24  # softmax steps of an epoch at most: with more users the batches grow


class Network(nn.Module):
    """What makes one neural backbone differ from another: how initial vectors become final ones, and how two are scored.

    This one leaves vectors as they are and scores by inner product; `uses_graph` says whether neighbours matter.
    """

    uses_graph = False
    uses_bias = True
    item_exponent = 0.5
    extra_id_decay = 0.0
    sharpness = 1.0
    max_candidates: int | None = None

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, user_rows: Tensor | None, item_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Final vectors of the rows asked for, (b, d) and (c, d), from the initial vectors of everybody."""
        raise NotImplementedError

    def score(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        """(b, c) scores of final vectors `users` (b, d), `items` (c, d) and item biases (c,)."""
        return users @ items.T + bias

    def score_pairs(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        """(b,) scores of row-wise pairs."""
        return (users * items).sum(dim=1) + bias

    def contrast(
        self, users: Tensor, items: Tensor, graph: BipartiteGraph, batch: Rows, partners: Rows
    ) -> Tensor | None:
        """A contrastive loss over the users and items of a batch; None where a model has none."""
        return None

    def tables(self, users: Tensor, items: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored of final vectors: (n_users, w) and (n_items, w), the last columns ones and biases."""
        return torch.cat([users, torch.ones_like(users[:, :1])], 1), torch.cat([items, bias.unsqueeze(1)], 1)


@dataclass(frozen=True)
class Step:
    """One batch: its loss, and the squared lengths that weight decay adds, per example of `size`."""

    loss: Tensor
    squares: tuple[Tensor, ...]
    size: int


class Trainer:
    """A network and its fusion, an optimizer, and one epoch at a time."""

    def __init__(
        self,
        network: Network,
        fusion: Fusion,
        data: TrainingData,
        settings: TrainSettings,
        device: torch.device,
        seed: int,
    ) -> None:
        self.network, self.fusion = network.to(device), fusion.to(device)
        self.settings, self.device = settings, device
        self.sampler = InteractionSampler(data.interactions, seed)
        self.warm_items = np.flatnonzero(data.warm_items).astype(np.int64)
        self.graph = BipartiteGraph(data.interactions, device, network.item_exponent)
        weights = [*fusion.weights(), *network.parameters()]
        groups = [
            {"params": fusion.tables(), "lr": settings.learning_rate},
            {"params": weights, "lr": settings.learning_rate * WEIGHT_RATE},
        ]
        self.optimizer = torch.optim.Adam(groups, fused=device.type == "cpu")
        steps = max(round(settings.warmup * settings.epochs), 1)
        self.warmup = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / steps, total_iters=steps - 1)

    def epoch(self) -> float:
        """One pass over the users (softmax) or as many triples as interactions (bpr); the mean loss of its steps."""
        self.network.train()
        self.fusion.train()
        losses = []
        for step in self._softmax_steps() if self.settings.loss == "softmax" else self._bpr_steps():
            loss = step.loss
            if self.settings.weight_decay:
                loss = loss + self.settings.weight_decay * 0.5 * torch.stack(step.squares).sum() / step.size
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(step.loss.detach())
        self.warmup.step()
        return float(torch.stack(losses).mean()) if losses else 0.0

    def _softmax_steps(self) -> Iterator[Step]:
        limit = min(self.settings.max_candidates, self.network.max_candidates or self.settings.max_candidates)
        size = max(self.settings.batch_size, -(-len(self.sampler.users) // MAX_STEPS))
        for batch in self.sampler.user_batches(size):
            candidates = self.sampler.candidates(self.warm_items, limit)
            known = self.sampler.known(batch, candidates)
            rows, items, columns, entries = (self._tensor(part) for part in known)
            people, things, asked = self._tensor(batch), self._tensor(candidates), columns >= 0
            absent = self._hidden(len(self.fusion.items.known), self.fusion.item_withholding)
            graph = self.graph.thinned(HIDDEN_EDGES, absent) if self.network.uses_graph else self.graph
            given = self._given(graph, rows, entries, asked, len(batch))
            history = self._history(graph, rows[given], items[given], len(batch))
            users, offered, layer0 = self._final(graph, people, things, absent, history)
            scores = self.network.score(users, offered, self._bias(things, absent))
            seen = given & asked
            if history is not None or self.network.uses_graph:
                scores = scores.index_put((rows[seen], columns[seen]), scores.new_tensor(GIVEN))
            targets = asked & ~given
            rows, columns = rows[targets], columns[targets]
            loss = -torch.log_softmax(scores, dim=1)[rows, columns].sum() / max(len(rows), 1)
            contrast = self._contrast(graph, layer0, batch, candidates[columns.cpu().numpy()])
            ids = self.fusion.users.ids[people]
            squares = (
                USER_DECAY * layer0[2].square().sum(),
                self.network.extra_id_decay * ids.square().sum(),
                layer0[3].square().sum(),
            )
            yield Step(loss + contrast, squares, len(batch))

    def _given(self, graph: BipartiteGraph, rows: Tensor, entries: Tensor, asked: Tensor, size: int) -> Tensor:
        """(n,) which of the known pairs of a batch of `size` users are given, to the graph or as histories; those `asked`
        about and not given are the targets. Without a graph every user has at least one."""
        if self.network.uses_graph:
            return graph.kept[entries]
        if self.fusion.users.history is None:
            return torch.zeros_like(asked)
        lot = torch.rand(len(rows), device=self.device) * asked
        last = lot.new_zeros(size).scatter_reduce(0, rows, lot, "amax")
        return (lot < HIDDEN_EDGES) & ((lot < last[rows]) | ~asked)

    def _history(self, graph: BipartiteGraph, rows: Tensor, items: Tensor, size: int) -> HistorySums | None:
        """The histories given: over a graph everybody's edges, else the pairs (`rows`, `items`) of a batch."""
        history = self.fusion.users.history
        if history is None:
            return None
        if self.network.uses_graph:
            edges = graph.to_users
            return history.read(csr(edges.crow_indices(), edges.col_indices(), graph.kept.float(), graph.shape))
        starts = torch.cat([rows.new_zeros(1), torch.cumsum(torch.bincount(rows, minlength=size), 0)])
        ones = torch.ones_like(items, dtype=torch.float32)
        return history.read(csr(starts, items, ones, (size, graph.shape[1])))

    def _bpr_steps(self) -> Iterator[Step]:
        for batch, positives, negatives in self.sampler.triples(self.settings.batch_size):
            partners, place = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
            people, seat = np.unique(batch, return_inverse=True)
            history = self._rest(people, seat, batch, positives)
            users, items, layer0 = self._final(self.graph, self._tensor(people), self._tensor(partners), None, history)
            bias = self._bias(self._tensor(partners))
            who, (liked, other) = self._tensor(seat), self._tensor(place).chunk(2)
            margin = self.network.score_pairs(users[who], items[liked], bias[liked])
            margin = margin - self.network.score_pairs(users[who], items[other], bias[other])
            loss = nn.functional.softplus(-margin).mean()
            contrast = self._contrast(self.graph, layer0, people, np.unique(positives))
            decayed = (layer0[2][who], layer0[3][liked], layer0[3][other])
            yield Step(loss + contrast, tuple(vectors.square().sum() for vectors in decayed), len(batch))

    def _final(
        self,
        graph: BipartiteGraph,
        batch: Tensor,
        candidates: Tensor,
        absent: Tensor | None,
        history: HistorySums | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Final vectors of a batch, and (users, items) at layer 0: everybody's, then the batch's."""
        if not self.network.uses_graph:
            users, items = self.fusion.users(batch, history=history), self.fusion.items(candidates, absent)
            return (*self.network(users, items, graph, None, None), (users, items, users, items))
        users, items = self.fusion.users(None, history=history), self.fusion.items(None, absent)
        final = self.network(users, items, graph, batch, candidates)
        return (*final, (users, items, users[batch], items[candidates]))

    def _rest(self, people: Rows, seat: Rows, batch: Rows, positives: Rows) -> HistorySums | None:
        """The histories of `people`, over a graph of everybody, less the pairs that a step asks about."""
        history = self.fusion.users.history
        if history is None:
            return None
        pairs = np.unique(np.stack([batch if self.network.uses_graph else seat, positives]), axis=1)
        rows, items = (self._tensor(np.ascontiguousarray(part)) for part in pairs)
        return history.all(None if self.network.uses_graph else self._tensor(people)).without(
            rows, history.texts[items]
        )

    def _contrast(
        self, graph: BipartiteGraph, layer0: tuple[Tensor, ...], batch: Rows, partners: Rows
    ) -> Tensor | float:
        if not self.settings.contrast_weight:
            return 0.0
        contrast = self.network.contrast(layer0[0], layer0[1], graph, batch, np.unique(partners))
        return 0.0 if contrast is None else self.settings.contrast_weight * contrast

    def _bias(self, rows: Tensor | None, absent: Tensor | None = None) -> Tensor:
        bias = self.fusion.bias(rows, absent)
        return bias if self.network.uses_bias else torch.zeros_like(bias)

    def _hidden(self, n: int, share: float) -> Tensor | None:
        return torch.rand(n, device=self.device) < share if share else None

    def _tensor(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    @torch.no_grad()
    def vectors(self) -> Vectors:
        """The final vectors of everybody, as they are stored."""
        self.network.eval()
        self.fusion.eval()
        users, items = self.network(self.fusion.users(None), self.fusion.items(None), self.graph, None, None)
        made = self.network.tables(users, items, self._bias(None))
        whom, what = (table.float().cpu().numpy() for table in made)
        return Vectors(whom, what, self._unseen() if self.fusion.items.towers else None)

    def _unseen(self) -> Matrix:
        """The final item vectors (n_items, width) without ids and edges."""
        nobody = torch.ones(len(self.fusion.items.known), dtype=torch.bool, device=self.device)
        empty = BipartiteGraph(sparse.csr_matrix(self.graph.shape), self.device, self.graph.item_exponent)
        users, items = self.network(self.fusion.users(None), self.fusion.items(None, nobody), empty, None, None)
        _, table = self.network.tables(users, items, self._bias(None, nobody))
        unseen: Matrix = table.float().cpu().numpy()
        return unseen


@contextmanager
def reproducible(settings: RuntimeSettings, seed: int) -> Iterator[None]:
    """Seeds torch, fixes its threads and asks for deterministic algorithms inside the block; puts all back after it."""
    import os

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        torch.use_deterministic_algorithms(True, warn_only=bool(cuda))
        fill = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
        memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a quarter of a step, for nothing
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
