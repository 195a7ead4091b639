"""Write profiles from keywords, without a language model (engine `extractive`).

In: a snapshot's data. Out: one profile per user and per item. Profiles are the terms with the highest class-based
TF-IDF (c-TF-IDF, Grootendorst 2022, arXiv 2203.05794), with a term's share in the class against its share overall. A
user's class document is the terms of the history, with a smaller part from neighbours' histories. An item's is its own
text, plus what is over-represented among the other items of its audience or, for a cold item, among the audiences of
the warm items with similar texts. The engine is the baseline that language models must beat, and a fallback.

It is also the default teacher of language models, by another measure (`write_teacher_profiles`): for users and items
with enough interactions, the terms that their picks hold in excess of chance, as standardised (Pearson) residuals. An
item's terms come from its audience's other picks, so a language model learns to write who a cold item is for, not to
paraphrase its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.profiles import grammar
from reclm.profiles.snapshot_data import SnapshotData
from reclm.profiles.terms import Terms, normalise_rows
from reclm.progress import track
from reclm.settings.llm import ProfileSettings

ENGINE = "extractive"
ENGINE_VERSION = "extractive-1"
KNOWN = ""
NO_HISTORY = "no_history"
NO_TEXT = "no_text"

BLOCK = 16_384
"""Rows computed at once, so that memory does not grow with the number of users."""
MAX_DOCUMENT_TERMS = 64
"""Terms of a class document that later steps use; the others are dropped."""
NEIGHBOUR_SHARE = 0.4
"""Weight of neighbours' terms for a user with one interaction; it falls as the history grows."""
AUDIENCE_SHARE = 0.3
"""Weight of a large audience's terms beside an item's own text."""
AUDIENCE_PRIOR = 3.0
"""Number of average users that every audience is smoothed with, so that two users do not make a trend."""
BORROWED_SHARE = 0.25
"""Weight of the audiences of very similar warm items beside a cold item's own text."""
BORROWED_HALF = 0.2
"""Text similarity at which that weight is half of BORROWED_SHARE."""
TEACHER_MIN_ITEMS = 3
"""Items that a term must occur in: a term of fewer items is usually the name of a product."""
TEACHER_MIN_KNOWN = 3
"""Interactions that a user, or an item, needs to be described by the teacher."""
TEACHER_MIN_PICKS = 2
"""Interactions that a term must occur in."""
TEACHER_MIN_EXCESS = 2.0
"""Standard deviations above chance that a term must reach."""


@dataclass(frozen=True)
class WrittenProfiles:
    """Texts ('' when nothing is known) and flags (KNOWN, NO_HISTORY, NO_TEXT) of one kind, in the order of the ids."""

    texts: list[str]
    flags: list[str]


def write_profiles(
    data: SnapshotData, terms: Terms, settings: ProfileSettings
) -> tuple[WrittenProfiles, WrittenProfiles]:
    """Write the profiles of every user and every item at one snapshot, from `data` and `terms` alone."""
    own, background = _own_shares(data, terms)
    users = _write_users(data, terms, settings, own, background)
    items = _write_items(data, terms, settings, own, background)
    return users, items


def write_item_profiles(
    data: SnapshotData, terms: Terms, settings: ProfileSettings, wanted: NDArray[np.bool_]
) -> WrittenProfiles:
    """Write the profiles of the items marked in `wanted` (n_items,), in their order, as `write_profiles` does."""
    audiences = data.histories[:, wanted | _lenders(data, wanted)]
    own, background = _own_shares(data, terms, np.diff(audiences.indptr) > 0)
    return _write_items(data, terms, settings, own, background, wanted)


def _lenders(data: SnapshotData, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (n_items,), the warm items whose audiences the profiles of the `wanted` items borrow from."""
    return np.asarray(data.item_neighbours[wanted].sum(axis=0)).ravel() > 0


def write_teacher_profiles(
    data: SnapshotData, terms: Terms, settings: ProfileSettings
) -> tuple[WrittenProfiles, WrittenProfiles]:
    """Write the teacher's profiles of users and items with enough interactions; all others get '' and a flag.

    With c_t the picks that carry term t among n picks, and p_t the share of all picks that carry it, a term's score is
    (c_t - n p_t) / sqrt(n p_t + 1): a user's over the history, an item's over its audience's other picks.
    """
    carries = sparse.csr_matrix((terms.shares > 0).astype(np.float32))
    carries = sparse.csr_matrix(
        carries @ sparse.diags_array((carries.getnnz(axis=0) >= TEACHER_MIN_ITEMS).astype(np.float32))
    )
    carries.eliminate_zeros()
    lengths, sizes = data.history_lengths, data.audience_sizes
    chance = np.asarray(carries.T @ sizes.astype(np.float64)).ravel() / max(int(sizes.sum()), 1)
    picked = sparse.csr_matrix(data.histories @ carries)
    audiences = sparse.csr_matrix(data.histories.T)
    others = np.asarray(audiences @ (lengths - 1).astype(np.float64)).ravel()

    def user_scores(rows: slice) -> sparse.csr_matrix:
        return _excess(picked[rows], lengths[rows].astype(np.float64), chance)

    def item_scores(rows: slice) -> sparse.csr_matrix:
        own = carries[rows].multiply(sizes[rows][:, None])
        return _excess(sparse.csr_matrix(audiences[rows] @ picked - own), others[rows], chance)

    n_identities, n_interests, n_each = settings.identities, settings.interests, settings.item_phrases
    users = _teach(
        user_scores, lengths, _ProfileWriter(terms, chance, n_identities, n_interests, general_first=True), NO_HISTORY
    )
    items = _teach(item_scores, sizes, _ProfileWriter(terms, chance, n_each, n_each, general_first=True), NO_HISTORY)
    return users, items


def _excess(counts: sparse.csr_matrix, n: NDArray[np.float64], chance: NDArray[np.float64]) -> sparse.csr_matrix:
    """Return standardised residuals of term counts, (n_rows, n_terms), without terms of few picks or near chance."""
    expected = np.repeat(n, np.diff(counts.indptr)) * chance[counts.indices]
    scores = ((counts.data - expected) / np.sqrt(expected + 1)).astype(np.float32)
    scores[(counts.data < TEACHER_MIN_PICKS) | (scores < TEACHER_MIN_EXCESS)] = 0
    return _keep_best(_with_data(counts, scores), scores, MAX_DOCUMENT_TERMS)


def _teach(
    scores_of: Callable[[slice], sparse.csr_matrix], known: NDArray[np.int64], writer: _ProfileWriter, unknown: str
) -> WrittenProfiles:
    texts: list[str] = []
    flags: list[str] = []
    for rows in track(list(_blocks(len(known), BLOCK // 8)), "finding shared interests"):
        written, silent = writer.write(scores_of(rows))
        silent |= known[rows] < TEACHER_MIN_KNOWN
        texts += ["" if nothing else text for text, nothing in zip(written, silent, strict=True)]
        flags += np.where(silent, unknown, KNOWN).tolist()
    return WrittenProfiles(texts, flags)


def _own_shares(
    data: SnapshotData, terms: Terms, users: NDArray[np.bool_] | None = None
) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """Return each user's mean term shares, (n_users, n_terms), and their mean over all users, (n_terms,).

    The rows of users that are not among `users` (n_users,) are empty; the mean is over all the same.
    """
    n_users, n_terms = data.histories.shape[0], len(terms.phrases)
    background = np.zeros(n_terms)
    known = 0
    blocks = []
    for rows in track(list(_blocks(n_users)), "reading histories"):
        shares = normalise_rows(sparse.csr_matrix(data.histories[rows] @ terms.shares))
        background += np.asarray(shares.sum(axis=0)).ravel()
        known += int((np.diff(shares.indptr) > 0).sum())
        blocks.append(shares if users is None else _only(shares, users[rows]))
    if known == 0:  # no user has a history yet: the catalogue's terms replace the users' terms
        background = np.asarray(terms.shares.sum(axis=0)).ravel().astype(np.float64)
    background /= max(background.sum(), 1e-12)
    kept = [_keep_best(shares, _over_representation(shares, background), MAX_DOCUMENT_TERMS) for shares in blocks]
    return sparse.csr_matrix(sparse.vstack(kept, format="csr")) if kept else sparse.csr_matrix((0, n_terms)), background


def _over_representation(shares: sparse.csr_matrix, background: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the c-TF-IDF of the stored cells: share · log(1 + share / background)."""
    expected = np.maximum(background[shares.indices], 1e-9)
    return (shares.data * np.log1p(shares.data / expected)).astype(np.float32)


def _write_users(
    data: SnapshotData,
    terms: Terms,
    settings: ProfileSettings,
    own: sparse.csr_matrix,
    background: NDArray[np.float64],
) -> WrittenProfiles:
    lengths = data.history_lengths
    from_neighbours = NEIGHBOUR_SHARE * 4 / (3 + np.maximum(lengths, 1))
    neighbours = normalise_rows(data.user_neighbours)
    writer = _ProfileWriter(terms, background, settings.identities, settings.interests)
    texts: list[str] = []
    flags: list[str] = []
    for rows in track(list(_blocks(len(lengths))), "writing user profiles"):
        weights = from_neighbours[rows][:, None]
        mine = normalise_rows(own[rows]).multiply(1 - weights)
        theirs = normalise_rows(sparse.csr_matrix(neighbours[rows] @ own)).multiply(weights)
        shares = normalise_rows(sparse.csr_matrix(mine + theirs))
        scores = _with_data(shares, _over_representation(shares, background))
        unknown = np.where(lengths[rows] == 0, NO_HISTORY, NO_TEXT)
        _drop_rows(scores, lengths[rows] == 0)
        texts_of_block, empty = writer.write(scores)
        texts += texts_of_block
        flags += np.where(empty, unknown, KNOWN).tolist()
    return WrittenProfiles(texts, flags)


def _write_items(
    data: SnapshotData,
    terms: Terms,
    settings: ProfileSettings,
    own: sparse.csr_matrix,
    background: NDArray[np.float64],
    wanted: NDArray[np.bool_] | None = None,
) -> WrittenProfiles:
    wanted = np.ones(len(data.catalogue.item_ids), dtype=np.bool_) if wanted is None else wanted
    audience = _audience_scores(data, terms, own, background, wanted | _lenders(data, wanted))
    sizes = data.audience_sizes
    similarity = data.item_neighbours
    nearest = np.asarray(similarity.max(axis=1).todense()).ravel() if similarity.nnz else np.zeros(len(sizes))
    catalogue_mean = np.asarray(terms.shares.mean(axis=0)).ravel() if len(sizes) else background
    audience_share = np.where(
        sizes > 0,
        AUDIENCE_SHARE * sizes / (sizes + AUDIENCE_PRIOR),
        BORROWED_SHARE * nearest / (nearest + BORROWED_HALF),
    )
    cold = sparse.diags_array((sizes == 0).astype(np.float32))
    lent = sparse.csr_matrix(cold @ normalise_rows(similarity))
    writer = _ProfileWriter(terms, background, settings.item_phrases, settings.item_phrases)
    texts: list[str] = []
    flags: list[str] = []
    order = np.flatnonzero(wanted)
    for block in track(list(_blocks(len(order))), "writing item profiles"):
        rows = order[block]
        weights = audience_share[rows][:, None]
        about = terms.shares[rows]
        about = normalise_rows(_with_data(about, _over_representation(about, catalogue_mean)))
        people = normalise_rows(sparse.csr_matrix(audience[rows] + lent[rows] @ audience))
        scores = sparse.csr_matrix(about.multiply(1 - weights) + people.multiply(weights))
        scores.sort_indices()
        texts_of_block, empty = writer.write(scores)
        texts += texts_of_block
        flags += np.where(empty, NO_TEXT, KNOWN).tolist()
    return WrittenProfiles(texts, flags)


def _audience_scores(
    data: SnapshotData,
    terms: Terms,
    own: sparse.csr_matrix,
    background: NDArray[np.float64],
    wanted: NDArray[np.bool_] | None = None,
) -> sparse.csr_matrix:
    """Return (n_items, n_terms), rows summing to 1: the terms that an item's audience prefers, apart from the item.
    The rows of items that are not `wanted` (n_items,) are empty.

    With p_u a user's mean term shares over n_u items, the mean over the other items is (n_u p_u - t_i) / (n_u - 1).
    Users with no other item are left out. Over-representation is the term's part of the Kullback-Leibler divergence.
    """
    lengths = data.history_lengths
    others = 1 / np.maximum(lengths - 1, 1) * (lengths > 1)
    audiences = sparse.csr_matrix(data.histories.T)
    if wanted is not None:
        audiences = _only(audiences, wanted)
    members = audiences @ (lengths > 1).astype(np.float32)
    scaled = sparse.csr_matrix(sparse.diags_array((lengths * others).astype(np.float32)) @ own)
    itself = audiences @ others.astype(np.float32)
    blocks = []
    for rows in track(list(_blocks(audiences.shape[0], BLOCK // 8)), "reading audiences"):
        size = members[rows][:, None]
        total = sparse.csr_matrix(audiences[rows] @ scaled - terms.shares[rows].multiply(itself[rows][:, None]))
        total.data = np.maximum(total.data, 0)
        count = np.repeat(size.ravel(), np.diff(total.indptr))
        expected = np.maximum(background[total.indices], 1e-9)
        share = (total.data + AUDIENCE_PRIOR * expected) / (count + AUDIENCE_PRIOR)
        scores = _with_data(total, np.maximum(share * np.log(share / expected), 0).astype(np.float32))
        blocks.append(normalise_rows(_keep_best(scores, scores.data, MAX_DOCUMENT_TERMS)))
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")) if blocks else sparse.csr_matrix(terms.shares.shape)


def _only(matrix: sparse.csr_matrix, rows: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Return the matrix with the other rows empty."""
    kept = sparse.csr_matrix(sparse.diags_array(rows.astype(np.float32)) @ matrix)
    kept.eliminate_zeros()
    return kept


def _blocks(n_rows: int, size: int = BLOCK) -> Iterator[slice]:
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def _with_data(matrix: sparse.csr_matrix, data: NDArray[np.float32]) -> sparse.csr_matrix:
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _drop_rows(matrix: sparse.csr_matrix, rows: NDArray[np.bool_]) -> None:
    matrix.data[np.repeat(rows, np.diff(matrix.indptr))] = 0


def _best_cells(
    matrix: sparse.csr_matrix, scores: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of each row's `count` highest positive scores, best first, and the bounds of the rows."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    positive = np.flatnonzero(scores > 0)
    order = positive[np.lexsort((matrix.indices[positive], -scores[positive], rows[positive]))]
    per_row = np.bincount(rows[positive], minlength=matrix.shape[0])
    starts = np.concatenate(([0], np.cumsum(per_row)))
    rank = np.arange(len(order)) - starts[rows[order]]
    bounds = np.concatenate(([0], np.cumsum(np.minimum(per_row, count))))
    return order[rank < count], bounds


def _keep_best(matrix: sparse.csr_matrix, scores: NDArray[np.float32], count: int) -> sparse.csr_matrix:
    cells, bounds = _best_cells(matrix, scores, count)
    kept = sparse.csr_matrix((matrix.data[cells], matrix.indices[cells], bounds), shape=matrix.shape)
    kept.sort_indices()
    return kept


class _ProfileWriter:
    """Turns rows of term scores into profiles: identities from the best categories, interests from the best terms."""

    def __init__(
        self,
        terms: Terms,
        background: NDArray[np.float64],
        identities: int,
        interests: int,
        *,
        general_first: bool = False,
    ) -> None:
        """With `general_first`, interests go from the most common to the rarest, an order that can be learned."""
        self.terms, self.identities, self.interests = terms, identities, interests
        self.frequency = background if general_first else None
        self.roles = [
            grammar.clean_phrase(f"{phrase} {'enthusiast' if category else 'fan'}")
            for phrase, category in zip(terms.phrases, terms.is_category, strict=True)
        ]
        self.categories = frozenset(np.flatnonzero(terms.is_category).tolist())
        average = sparse.csr_matrix(background[None].astype(np.float32))
        self.popular = next(iter(self._profiles(average)), "")

    def write(self, scores: sparse.csr_matrix) -> tuple[list[str], NDArray[np.bool_]]:
        """Return one text per row, and which rows have no term; these get the profile of an average user."""
        profiles = list(self._profiles(scores))
        return [profile or self.popular for profile in profiles], np.array([not profile for profile in profiles])

    def _profiles(self, scores: sparse.csr_matrix) -> Iterator[str]:
        cells, bounds = _best_cells(scores, scores.data, 3 * self.interests + 8)
        ranked = scores.indices[cells].tolist()
        by_category = np.where(self.terms.is_category[scores.indices], scores.data, 0).astype(np.float32)
        cells_of_categories, category_bounds = _best_cells(scores, by_category, self.identities)
        categories = scores.indices[cells_of_categories].tolist()
        for row in range(scores.shape[0]):
            candidates = ranked[bounds[row] : bounds[row + 1]]
            dominant = categories[category_bounds[row] : category_bounds[row + 1]]
            yield self._profile(dominant, candidates)

    def _profile(self, dominant: list[int], candidates: list[int]) -> str:
        """Return the profile, '' without a candidate. Terms from texts replace missing categories in the identity."""
        interests = self._distinct(candidates, self.interests)
        if not interests:
            return ""
        rest = (term for term in interests if term not in self.categories)
        roles = {self.roles[term].casefold(): self.roles[term] for term in chain(dominant, rest)}
        if self.frequency is not None:
            often = self.frequency
            interests = sorted(interests, key=lambda term: (-often[term], term))
        phrases = [self.terms.phrases[term] for term in interests]
        return grammar.render(grammar.Profile(tuple(islice(roles.values(), self.identities)), tuple(phrases)))

    def _distinct(self, candidates: list[int], count: int) -> list[int]:
        """Return the first `count` candidates that each have a word the earlier ones lack."""
        chosen: list[int] = []
        seen: set[str] = set()
        for term in candidates:
            words = self.terms.words[term]
            if not words <= seen:
                chosen.append(term)
                seen |= words
                if len(chosen) == count:
                    break
        return chosen
