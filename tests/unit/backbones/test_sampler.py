"""Training examples are what they say: positives known, negatives unknown, every user once."""

import numpy as np
import pytest
from scipy import sparse

from reclm.backbones.sampler import InteractionSampler


@pytest.fixture
def known() -> sparse.csr_matrix:
    dense = np.random.default_rng(3).random((60, 25)) < 0.4
    dense[0], dense[1] = True, False
    dense[2, 1:] = True
    dense[2, 0] = False
    return sparse.csr_matrix(dense.astype(np.float32))


class TestTriples:
    def test_never_hold_a_known_item_as_negative_nor_an_unknown_one_as_positive(self, known):
        sampler, dense = InteractionSampler(known, seed=1), known.toarray() > 0
        for users, positives, negatives in sampler.triples(64):
            assert dense[users, sampler.items[positives]].all()
            assert not dense[users, negatives].any()

    def test_leave_out_users_who_know_everything_or_nothing(self, known):
        users = np.concatenate([users for users, _, _ in InteractionSampler(known, seed=1).triples(64)])
        assert not np.isin([0, 1], users).any()

    def test_draw_as_many_as_there_are_interactions(self, known):
        assert sum(len(users) for users, _, _ in InteractionSampler(known, seed=1).triples(50)) == known.nnz

    def test_reach_every_unknown_item_evenly(self, known):
        sampler = InteractionSampler(known, seed=1)
        drawn = np.bincount(sampler.negatives(np.full(20_000, 5)), minlength=25)
        unknown = known.toarray()[5] == 0
        assert (drawn[~unknown] == 0).all()
        assert drawn[unknown].min() > 0.8 * 20_000 / unknown.sum()

    def test_find_the_one_unknown_item_of_a_user_who_knows_all_others(self, known):
        assert (InteractionSampler(known, seed=1).negatives(np.full(50, 2)) == 0).all()

    def test_repeat_with_the_seed_and_differ_without_it(self, known):
        def drawn(seed: int) -> np.ndarray:
            return np.concatenate([negatives for _, _, negatives in InteractionSampler(known, seed).triples(64)])

        assert (drawn(1) == drawn(1)).all()
        assert (drawn(1) != drawn(2)).any()


class TestUserBatches:
    def test_hold_every_drawable_user_once(self, known):
        sampler = InteractionSampler(known, seed=1)
        assert sorted(np.concatenate(list(sampler.user_batches(7)))) == sampler.users.tolist()

    def test_known_pairs_have_a_column_where_they_are_candidates(self, known):
        users, candidates = np.array([4, 2, 9]), np.array([0, 3, 7, 20])
        rows, items, columns, entries = InteractionSampler(known, seed=1).known(users, candidates)
        whole, inside = np.zeros((3, known.shape[1])), columns >= 0
        whole[rows, items] = 1
        assert (whole == known.toarray()[users]).all()
        assert (known.indices[entries] == items).all()
        assert (candidates[columns[inside]] == items[inside]).all()
        assert not np.isin(items[~inside], candidates).any()

    def test_candidates_are_distinct_and_capped(self, known):
        drawn = InteractionSampler(known, seed=1).candidates(np.arange(25), 10)
        assert len(set(drawn.tolist())) == 10
        assert (np.diff(drawn) > 0).all()
