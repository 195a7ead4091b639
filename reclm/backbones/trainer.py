"""Train a network on the initial vectors of a `Fusion`, one epoch at a time.

Loss `softmax` is the multinomial likelihood of a user's items over a (sub)catalogue (Liang et al., "Variational
autoencoders for collaborative filtering", WWW 2018, eq. 2), in batches of users. Over a graph, or with histories, a
part of what users know is observed and the rest is predicted. In each step a random share of items is treated as
unseen: without id and without edges. Loss `bpr` is the pairwise loss of Rendle et al. (UAI 2009) on sampled triples.
In both a pair counts by its weight, that of the strongest event behind it, which is 1 in a log without types of events.
Both add weight decay on the initial vectors of the batch and the network's own contrastive term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reclm.backbones.features import Matrix
from reclm.backbones.fitted import Vectors
from reclm.backbones.fusion.fusion import Fusion
from reclm.backbones.fusion.history import HistorySums
from reclm.backbones.graph import BipartiteGraph, csr
from reclm.backbones.network import Network, Rows
from reclm.backbones.sampler import InteractionSampler
from reclm.dataset import TrainingData
from reclm.settings.recommenders import TrainSettings

OBSERVED_SCORE = -1e9  # the score of an item that a step observes: it is no candidate


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
        self.recipe, self.settings, self.device = network.recipe, settings, device
        self.sampler = InteractionSampler(data.interactions, seed)
        self.warm_items = np.flatnonzero(data.warm_items).astype(np.int64)
        self.weights = _weights_of_entries(data)
        self.graph = BipartiteGraph(data.interactions, device, self.recipe.item_exponent)
        weights = [*fusion.weights(), *network.parameters()]
        groups = [
            {"params": fusion.tables(), "lr": settings.learning_rate},
            {"params": weights, "lr": settings.learning_rate * self.recipe.weight_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, fused=device.type == "cpu")
        steps = max(round(settings.warmup * settings.epochs), 1)
        self.warmup = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / steps, total_iters=steps - 1)

    def epoch(self) -> float:
        """Train for one epoch and return the mean loss of its steps.

        An epoch is one pass over the users (softmax), or as many triples as there are interactions (bpr).
        """
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
        if not losses:
            return 0.0
        self.warmup.step()
        return float(torch.stack(losses).mean())

    def _softmax_steps(self) -> Iterator[Step]:
        limit = min(self.settings.max_candidates, self.recipe.max_candidates or self.settings.max_candidates)
        size = max(self.settings.batch_size, -(-len(self.sampler.users) // self.recipe.max_steps))
        for batch in self.sampler.user_batches(size):
            candidates = self.sampler.candidates(self.warm_items, limit)
            known = self.sampler.known(batch, candidates)
            rows, known_items, columns, entries = (self._tensor(part) for part in known)
            batch_users, candidate_items = self._tensor(batch), self._tensor(candidates)
            is_candidate = columns >= 0
            withheld = self._random_mask(len(self.fusion.items.known), self.fusion.withheld_share)
            graph = self.graph
            if self.network.uses_graph:
                graph = graph.thinned(1 - self.recipe.observed_share, withheld)
            observed = self._observed(graph, rows, entries, is_candidate, len(batch))
            history = self._observed_history(graph, rows[observed], known_items[observed], len(batch))
            users, items, initial = self._final(graph, batch_users, candidate_items, withheld, history)
            scores = self.network.score(users, items, self._bias(candidate_items, withheld))
            masked = observed & is_candidate
            if history is not None or self.network.uses_graph:
                scores = scores.index_put((rows[masked], columns[masked]), scores.new_tensor(OBSERVED_SCORE))
            targets = is_candidate & ~observed
            rows, columns = rows[targets], columns[targets]
            loss = self._mean(-torch.log_softmax(scores, dim=1)[rows, columns], known[3], targets)
            contrast = self._contrast(graph, initial, batch, candidates[columns.cpu().numpy()])
            squares = (
                self.recipe.user_decay * initial[2].square().sum(),
                self.recipe.user_id_decay * self.fusion.users.ids[batch_users].square().sum(),
                initial[3].square().sum(),
            )
            yield Step(loss + contrast, squares, len(batch))

    def _observed(
        self, graph: BipartiteGraph, rows: Tensor, entries: Tensor, is_candidate: Tensor, size: int
    ) -> Tensor:
        """Mark which known pairs (n,) of a batch of `size` users are observed, as edges or history.

        The candidates among the other pairs are the targets. Without a graph every user has at least one target.
        """
        if self.network.uses_graph:
            return graph.kept[entries]
        if self.fusion.users.history is None:
            return torch.zeros_like(is_candidate)
        draw = torch.rand(len(rows), device=self.device) * is_candidate
        largest = draw.new_zeros(size).scatter_reduce(0, rows, draw, "amax")
        return (draw < self.recipe.observed_share) & ((draw < largest[rows]) | ~is_candidate)

    def _observed_history(self, graph: BipartiteGraph, rows: Tensor, items: Tensor, size: int) -> HistorySums | None:
        """Return the observed histories: over a graph of all users, else of a batch, the pairs (`rows`, `items`)."""
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
        for batch, entries, negatives in self.sampler.triples(self.settings.batch_size):
            positives = self.sampler.items[entries]
            batch_items, item_position = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
            batch_users, user_position = np.unique(batch, return_inverse=True)
            history = self._rest_of_history(batch_users, user_position, batch, positives)
            rows = self._tensor(batch_users), self._tensor(batch_items)
            users, items, initial = self._final(self.graph, *rows, None, history)
            bias = self._bias(rows[1])
            user, (positive, negative) = self._tensor(user_position), self._tensor(item_position).chunk(2)
            margin = self.network.score_pairs(users[user], items[positive], bias[positive])
            margin = margin - self.network.score_pairs(users[user], items[negative], bias[negative])
            loss = self._mean(nn.functional.softplus(-margin), entries)
            contrast = self._contrast(self.graph, initial, batch_users, np.unique(positives))
            decayed = (initial[2][user], initial[3][positive], initial[3][negative])
            yield Step(loss + contrast, tuple(vectors.square().sum() for vectors in decayed), len(batch))

    def _mean(self, losses: Tensor, entries: Rows, chosen: Tensor | None = None) -> Tensor:
        """Return the mean of `losses` (n,) of the CSR entries (n,), or of the `chosen` ones, by their weights."""
        if self.weights is None:
            return losses.sum() / max(len(losses), 1)
        weights = self._tensor(self.weights[entries])
        weights = weights if chosen is None else weights[chosen]
        return (weights * losses).sum() / weights.sum().clamp(min=1e-9)

    def _final(
        self,
        graph: BipartiteGraph,
        batch_users: Tensor,
        batch_items: Tensor,
        withheld: Tensor | None,
        history: HistorySums | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return final vectors of a batch, and the initial (users, items) of all entities, then of the batch."""
        if not self.network.uses_graph:
            users, items = self.fusion.users(batch_users, history=history), self.fusion.items(batch_items, withheld)
            return (*self.network(users, items, graph, None, None), (users, items, users, items))
        users, items = self.fusion.users(None, history=history), self.fusion.items(None, withheld)
        final = self.network(users, items, graph, batch_users, batch_items)
        return (*final, (users, items, users[batch_users], items[batch_items]))

    def _rest_of_history(
        self, batch_users: Rows, user_position: Rows, batch: Rows, positives: Rows
    ) -> HistorySums | None:
        """Return the histories of the batch's users (over a graph: of all) without the pairs that the step predicts."""
        history = self.fusion.users.history
        if history is None:
            return None
        pairs = np.unique(np.stack([batch if self.network.uses_graph else user_position, positives]), axis=1)
        rows, items = (self._tensor(np.ascontiguousarray(part)) for part in pairs)
        whole = history.whole(None if self.network.uses_graph else self._tensor(batch_users))
        return whole.without(rows, history.texts[items])

    def _contrast(
        self, graph: BipartiteGraph, initial: tuple[Tensor, ...], batch_users: Rows, batch_items: Rows
    ) -> Tensor | float:
        if not self.settings.contrast_weight:
            return 0.0
        contrast = self.network.contrast(initial[0], initial[1], graph, batch_users, np.unique(batch_items))
        return 0.0 if contrast is None else self.settings.contrast_weight * contrast

    def _bias(self, rows: Tensor | None, withheld: Tensor | None = None) -> Tensor:
        bias = self.fusion.bias(rows, withheld)
        return bias if self.recipe.uses_bias else torch.zeros_like(bias)

    def _random_mask(self, n: int, share: float) -> Tensor | None:
        return torch.rand(n, device=self.device) < share if share else None

    def _tensor(self, rows: Rows | Matrix) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    @torch.no_grad()
    def vectors(self) -> Vectors:
        """Return the final vectors of all users and items, as they are stored."""
        self.network.eval()
        self.fusion.eval()
        users, items = self.network(self.fusion.users(None), self.fusion.items(None), self.graph, None, None)
        tables = self.network.tables(users, items, self._bias(None))
        stored_users, stored_items = (table.float().cpu().numpy() for table in tables)
        return Vectors(stored_users, stored_items, self._unseen() if self.fusion.items.towers else None)

    def _unseen(self) -> Matrix:
        """Return the final item vectors (n_items, width) without ids and edges."""
        every_item = torch.ones(len(self.fusion.items.known), dtype=torch.bool, device=self.device)
        empty = BipartiteGraph(sparse.csr_matrix(self.graph.shape), self.device, self.graph.item_exponent)
        users, items = self.network(self.fusion.users(None), self.fusion.items(None, every_item), empty, None, None)
        _, table = self.network.tables(users, items, self._bias(None, every_item))
        unseen: Matrix = table.float().cpu().numpy()
        return unseen


def _weights_of_entries(data: TrainingData) -> Matrix | None:
    """The weights of interactions in the order of the sampler's CSR entries, (n_interactions,); None: all are 1."""
    if data.weights is None:
        return None
    weights = data.weights.tocsr().astype(np.float32)
    weights.sort_indices()
    entries: Matrix = weights.data
    return entries
