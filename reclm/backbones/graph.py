"""The user-item graph and its propagation, the linear operator that LightGCN, SGL and SimGCL share.

With R the known interactions, Â = [[0, P], [Pᵀ, 0]] and P = D_u^-½ R D_i^-½ (He et al., "LightGCN", SIGIR 2020, eq. 7),
a propagation returns  c₀ ⊙ X + c · Σ_{l=1..L} Âˡ X.  An item exponent below ½ lets popular items keep more influence,
in units of the mean degree. Â is symmetric, so the gradient of the operator is the operator itself: `_Propagation`
applies it in Horner's form, Â(G + Â(G + ÂG)), and stores no activation. P and Pᵀ are multiplied separately, which
halves the index traffic of the square matrix; the last layer is computed only for the rows of a batch. A node without
edges keeps its own vector (c₀ = 1): its layers are empty, and averaging them in would only make its vector shorter than
those of the warm nodes that it is ranked with.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

SLICE_SHARE = 0.5  # slicing rows out of a CSR matrix is faster up to this share of them


class BipartiteGraph:
    """Both directions of the normalised interactions: `to_users` (n_users, n_items), `to_items` (n_items, n_users).

    `kept` (n_edges,) marks the edges left after thinning, in the order of the interactions' CSR entries; `user_degree`
    (n_users,) and `item_degree` (n_items,) count them.
    """

    def __init__(
        self, interactions: sparse.csr_matrix, device: torch.device | str = "cpu", item_exponent: float = 0.5
    ) -> None:
        known = interactions.tocsr().astype(np.float32)
        known.sort_indices()
        positions = sparse.csr_matrix(
            (np.arange(1, known.nnz + 1), known.indices, known.indptr), shape=known.shape, dtype=np.int64
        )
        transposed = positions.T.tocsr()
        transposed.sort_indices()
        self.shape = known.shape
        self.item_exponent = item_exponent
        self._user_rows = torch.from_numpy(np.repeat(np.arange(self.shape[0]), np.diff(known.indptr))).to(device)
        self._item_columns = torch.from_numpy(known.indices.astype(np.int64)).to(device)
        self._transposition = torch.from_numpy(transposed.data - 1).to(device)
        self._layouts = [
            (
                torch.from_numpy(m.indptr.astype(np.int32)).to(device),
                torch.from_numpy(m.indices.astype(np.int32)).to(device),
            )
            for m in (known, transposed)
        ]
        self.kept = torch.ones(known.nnz, dtype=torch.bool, device=device)
        self._normalise()

    def _normalise(self) -> None:
        """Normalise the kept edges by the degrees that remain."""
        kept = self.kept.float()
        zeros = [torch.zeros(n, device=kept.device) for n in self.shape]
        self.user_degree = zeros[0].index_add(0, self._user_rows, kept)
        self.item_degree = zeros[1].index_add(0, self._item_columns, kept)
        by_user = self.user_degree.clamp(min=1).rsqrt()[self._user_rows]
        mean_degree = kept.sum() / (self.item_degree > 0).sum().clamp(min=1)
        by_item = self.item_degree.clamp(min=1) ** -self.item_exponent * mean_degree ** (self.item_exponent - 0.5)
        values = kept * by_user * by_item[self._item_columns]
        n_users, n_items = self.shape
        self.to_users = csr(*self._layouts[0], values, (n_users, n_items))
        self.to_items = csr(*self._layouts[1], values[self._transposition], (n_items, n_users))

    def thinned(self, share: float, hidden_items: Tensor | None = None) -> BipartiteGraph:
        """Return the graph without a random `share` of its edges and without those of hidden items, renormalised."""
        kept = self.kept & (torch.rand(len(self.kept), device=self.kept.device) >= share)
        if hidden_items is not None:
            kept &= ~hidden_items[self._item_columns]
        graph = object.__new__(BipartiteGraph)
        graph.__dict__.update(self.__dict__)
        graph.kept = kept
        graph._normalise()
        return graph


def csr(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Make a sparse matrix without torch's warning that this layout is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*")
        return torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=False)


def scipy_csr(matrix: sparse.csr_matrix, device: torch.device | str = "cpu") -> Tensor:
    """Convert a SciPy matrix to a torch one, float32."""
    parts = (matrix.indptr, matrix.indices, matrix.data.astype(np.float32))
    crow, columns, values = (torch.from_numpy(part).to(device) for part in parts)
    return csr(crow, columns, values, matrix.shape)


def _rows_of(matrix: Tensor, rows: Tensor) -> Tensor:
    """The CSR matrix of `rows` (r,) of a CSR `matrix`, in their order."""
    crow = matrix.crow_indices().long()
    starts, lengths = crow[rows], crow[rows + 1] - crow[rows]
    ends = torch.cumsum(lengths, 0)
    within = torch.arange(int(ends[-1]) if len(ends) else 0, device=rows.device)
    source = within + torch.repeat_interleave(starts - (ends - lengths), lengths)
    new_crow = torch.cat([ends.new_zeros(1), ends]).int()
    return csr(new_crow, matrix.col_indices()[source], matrix.values()[source], (len(rows), matrix.shape[1]))


def _multiply_rows(matrix: Tensor, dense: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return matrix @ dense
    if len(rows) < SLICE_SHARE * matrix.shape[0]:
        return _rows_of(matrix, rows) @ dense
    return (matrix @ dense)[rows]


class _Propagation(torch.autograd.Function):
    """The average of layers 0 to L, with a gradient of its own. `noise` > 0 perturbs each layer as SimGCL does."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        graph: BipartiteGraph,
        layers: int,
        include_first: bool,
        noise: float,
        user_rows: Tensor | None,
        item_rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers, ctx.include_first = graph, layers, include_first
        ctx.rows, ctx.sizes = (user_rows, item_rows), (len(users), len(items))
        weight = 1.0 / (layers + include_first)
        sums: list[Tensor] = []
        for vectors, degree, rows in ((users, graph.user_degree, user_rows), (items, graph.item_degree, item_rows)):
            first = _first_weight(degree, weight * include_first)
            sums.append(first * vectors if rows is None else first[rows] * vectors[rows])
        layer = (users, items)
        for depth in range(1, layers + 1):
            wanted = (user_rows, item_rows) if depth == layers else (None, None)
            layer = tuple(  # type: ignore[assignment]
                _perturbed(_multiply_rows(matrix, other, rows), noise)
                for matrix, other, rows in (
                    (graph.to_users, layer[1], wanted[0]),
                    (graph.to_items, layer[0], wanted[1]),
                )
            )
            for side, rows in enumerate((user_rows, item_rows)):
                whole = rows is None or depth == layers
                sums[side] += weight * (layer[side] if whole else layer[side][rows])
        return sums[0], sums[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graph, layers = ctx.graph, ctx.layers
        weight = 1.0 / (layers + ctx.include_first)
        outer: list[Tensor] = []
        for gradient, rows, size in zip(gradients, ctx.rows, ctx.sizes, strict=True):
            whole = (
                gradient.new_zeros(size, gradient.shape[1]).index_add_(0, rows, gradient)
                if rows is not None
                else gradient
            )
            outer.append(whole)
        inner = (outer[0], outer[1])
        for depth in range(layers):
            inner = (graph.to_users @ inner[1], graph.to_items @ inner[0])
            if depth < layers - 1:
                inner = (inner[0] + outer[0], inner[1] + outer[1])
        first = [_first_weight(degree, weight * ctx.include_first) for degree in (graph.user_degree, graph.item_degree)]
        users, items = (first[side] * outer[side] + weight * inner[side] for side in (0, 1))
        return users, items, None, None, None, None, None, None


def _first_weight(degree: Tensor, weight: float) -> Tensor:
    """c₀ of each node, (n, 1): `weight` where it has edges, 1 where it has none."""
    return torch.where(degree > 0, weight, 1.0).unsqueeze(1)


def _perturbed(layer: Tensor, noise: float) -> Tensor:
    """Add SimGCL's noise: a random direction in each row's orthant, of length `noise` (SIGIR 2022, eq. 7-8)."""
    if noise == 0:
        return layer
    direction = torch.nn.functional.normalize(torch.rand_like(layer), dim=1)
    return layer + noise * layer.sign() * direction


def propagate(
    users: Tensor,
    items: Tensor,
    graph: BipartiteGraph,
    layers: int,
    *,
    include_first: bool = True,
    noise: float = 0.0,
    user_rows: Tensor | None = None,
    item_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Average the layers over initial `users` (n_users, d) and `items` (n_items, d), for some rows or all (None)."""
    rows = (user_rows, item_rows)
    final: tuple[Tensor, Tensor] = _Propagation.apply(  # type: ignore[no-untyped-call]
        users, items, graph, layers, include_first, noise, *rows
    )
    return final
