"""The propagation equals the dense formula, forwards and backwards, for all rows or some."""

import numpy as np
import pytest
import torch
from scipy import sparse

from reclm.backbones.graph import BipartiteGraph, propagate

N_USERS, N_ITEMS, DIM = 9, 12, 4


@pytest.fixture
def known() -> sparse.csr_matrix:
    dense = np.random.default_rng(5).random((N_USERS, N_ITEMS)) < 0.35
    dense[3], dense[:, 6] = False, False  # a user and an item without edges
    return sparse.csr_matrix(dense.astype(np.float32))


def dense_formula(graph: BipartiteGraph, users: torch.Tensor, items: torch.Tensor, layers: int, include_first: bool):
    """c₀ ⊙ X + c Σ ÂˡX on the whole square matrix, by autograd's own multiplication."""
    half = graph.to_users.to_dense()
    square = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS)
    square[:N_USERS, N_USERS:], square[N_USERS:, :N_USERS] = half, half.T
    start = torch.cat([users, items])
    weight = 1 / (layers + include_first)
    first = torch.where(square.sum(1, keepdim=True) > 0, weight * include_first, 1.0)
    total, layer = first * start, start
    for _ in range(layers):
        layer = square @ layer
        total = total + weight * layer
    return total[:N_USERS], total[N_USERS:]


def vectors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, DIM, generator=random).requires_grad_() for n in (N_USERS, N_ITEMS))


class TestPropagation:
    @pytest.mark.parametrize("layers", [1, 2, 3])
    @pytest.mark.parametrize("include_first", [True, False])
    @pytest.mark.parametrize("rows", [(None, None), ([1, 3], [0, 6, 7]), ([0, 1, 2, 3, 4, 5, 6, 7], [11])])
    @pytest.mark.parametrize("exponent", [0.5, 0.25])
    def test_equals_the_dense_formula_forwards_and_backwards(self, known, layers, include_first, rows, exponent):
        graph = BipartiteGraph(known, item_exponent=exponent)
        wanted = [None if part is None else torch.tensor(part) for part in rows]
        results = []
        for dense in (False, True):
            users, items = vectors()
            if dense:
                out = dense_formula(graph, users, items, layers, include_first)
                out = tuple(o if r is None else o[r] for o, r in zip(out, wanted, strict=True))
            else:
                out = propagate(
                    users, items, graph, layers, include_first=include_first, user_rows=wanted[0], item_rows=wanted[1]
                )
            torch.stack([o.pow(3).sum() for o in out]).sum().backward()
            results.append([*out, users.grad, items.grad])
        for ours, reference in zip(*results, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)

    def test_is_the_published_normalisation_by_default(self, known):
        dense = known.toarray()
        degrees = [np.maximum(dense.sum(axis), 1) ** -0.5 for axis in (1, 0)]
        expected = torch.from_numpy(degrees[0][:, None] * dense * degrees[1])
        torch.testing.assert_close(BipartiteGraph(known).to_users.to_dense(), expected)

    def test_leaves_a_node_without_edges_its_own_vector_in_full(self, known):
        users, items = vectors()
        final_users, final_items = propagate(users, items, BipartiteGraph(known), 2)
        torch.testing.assert_close(final_users[3], users[3])
        torch.testing.assert_close(final_items[6], items[6])

    def test_noise_moves_rows_by_its_length_at_most_and_not_the_gradient(self, known):
        graph, grads, outs = BipartiteGraph(known), [], []
        for noise in (0.0, 0.1):
            users, items = vectors()
            out = propagate(users, items, graph, 1, include_first=False, noise=noise)
            torch.cat(out).sum().backward()
            outs.append(torch.cat(out).detach())
            grads.append(users.grad)
        moved = (outs[1] - outs[0]).norm(dim=1)
        assert 0 < moved.max() <= 0.1001
        torch.testing.assert_close(grads[0], grads[1])


class TestThinning:
    def test_drops_every_edge_of_hidden_nodes_and_renormalises(self, known):
        hidden = torch.zeros(N_ITEMS, dtype=torch.bool)
        hidden[[0, 1]] = True
        thin = BipartiteGraph(known).thinned(0.0, hidden)
        reduced = known.toarray()
        reduced[:, :2] = 0
        expected = BipartiteGraph(sparse.csr_matrix(reduced)).to_users.to_dense()
        torch.testing.assert_close(thin.to_users.to_dense(), expected)

    def test_never_brings_back_an_edge_that_is_gone(self, known):
        once = BipartiteGraph(known).thinned(0.5)
        twice = once.thinned(0.3)
        assert not (twice.kept & ~once.kept).any()
        assert twice.kept.sum() < once.kept.sum() < known.nnz

    def test_both_directions_are_transposes(self, known):
        thin = BipartiteGraph(known).thinned(0.4)
        torch.testing.assert_close(thin.to_users.to_dense().T, thin.to_items.to_dense())
