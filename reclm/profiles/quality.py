"""Measure how good a set of profiles is, per cold-start severity.

In: profiles and their snapshot's data. Out: metrics. The metrics are coverage, format, distinctness, over-smoothing and
faithfulness; they become rows of `quality.parquet`. Over-smoothing, profiles that all sound alike, is the fault that
RecLM (arXiv 2412.19302, section on refinement) names. Every metric is the mean of one number per user or item, so that
the bands of a metric add up to its `all` row.

    coverage            1 when the profile carries no flag.
    format              1 when the profile parses; a row without a profile (flagged, with an empty text) has no format.
  of profiles without a flag that parse:
    distinct            1 / number of entities with this very text; its mean is the share of distinct texts.
    nearest_similarity  cosine to the most similar other profile of a sample of SAMPLE, by TF-IDF of words and word
                        pairs.
    faithfulness        users: share of interest phrases all of whose words occur in the items of the history.
    text_support        items: share of interest phrases all of whose words occur in the item's own texts; the other
                        phrases were learned from users, or invented.
  where the truth is known (the demo data):
    interests_precision, interests_recall, interests_f1   against the true interests; two phrases match when the words
                        of one contain the words of the other, or when they share half of all their words (Jaccard);
                        case, hyphens and a plural s are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from reclm.dataset import EntityKind
from reclm.profiles import grammar
from reclm.profiles.snapshot_data import Catalogue, SnapshotData
from reclm.profiles.terms import words_of

SAMPLE = 2_000
BLOCK = 16_384
ALL = "all"
TRUTH_FILES: dict[EntityKind, str] = {"user": "user_personas.parquet", "item": "item_audience.parquet"}


@dataclass(frozen=True)
class Profiles:
    """Profiles of one kind at one snapshot: `ids[i]` has `texts[i]`, `flags[i]` and cold-start severity `bands[i]`."""

    kind: EntityKind
    ids: Sequence[str]
    texts: Sequence[str]
    flags: Sequence[str]
    bands: NDArray[np.str_]

    @cached_property
    def interests(self) -> list[tuple[str, ...] | None]:
        """Return the interest phrases of each profile; None where it does not parse."""
        parsed = {text: grammar.parse(text).profile for text in set(self.texts)}
        profiles = (parsed[text] for text in self.texts)
        return [None if profile is None else profile.interests for profile in profiles]

    @cached_property
    def written(self) -> NDArray[np.bool_]:
        """Return (n,), False where nothing was known to write a profile from: a flag and an empty text."""
        return np.array([bool(text) or not flag for text, flag in zip(self.texts, self.flags, strict=True)], dtype=bool)

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Return (n,), True where a profile carries no flag and parses."""
        rows = zip(self.interests, self.flags, strict=True)
        return np.array([phrases is not None and not flag for phrases, flag in rows], dtype=bool)


def measure(
    profiles: Profiles, data: SnapshotData, truth: Path | None, seed: int
) -> list[dict[str, str | float | int]]:
    """Measure one kind of profiles; return rows (snapshot, kind, severity, metric, value, n).

    `truth` is the folder with the true interests, None where they are unknown.
    """
    parses = np.array([phrases is not None for phrases in profiles.interests], dtype=np.float64)
    metrics = {
        "coverage": np.array([not flag for flag in profiles.flags], dtype=np.float64),
        "format": np.where(profiles.written, parses, np.nan),
    }
    usable = {
        "distinct": distinctness(profiles.texts),
        "nearest_similarity": nearest_similarity(profiles.texts, profiles.usable, seed),
        **_support(profiles, data),
        **_against_truth(profiles, truth),
    }
    for name, values in usable.items():
        metrics[name] = np.where(profiles.usable, values, np.nan)
    severities = [ALL, *sorted(set(profiles.bands.tolist()))]
    rows: list[dict[str, str | float | int]] = []
    for name, values in metrics.items():
        for severity in severities:
            selected = values[~np.isnan(values) & ((profiles.bands == severity) | (severity == ALL))]
            if len(selected):
                row = {"snapshot": data.snapshot, "kind": profiles.kind, "severity": severity, "metric": name}
                rows.append({**row, "value": float(selected.mean()), "n": len(selected)})
    return rows


def distinctness(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return (n,), 1 / number of times the text occurs."""
    _, inverse, counts = np.unique(np.array(texts, dtype=object), return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[inverse], dtype=np.float64)


def nearest_similarity(texts: Sequence[str], usable: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
    """Return (n,), the cosine to the nearest other usable profile in a seeded sample; NaN outside the sample."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    values = np.full(len(texts), np.nan)
    rows = np.flatnonzero(usable)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    if len(rows) < 2:
        return values
    vectors = TfidfVectorizer(analyzer=_profile_words).fit_transform([texts[row] for row in rows])
    similarities = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similarities, -1)
    values[rows] = np.clip(similarities.max(axis=1), 0, 1)
    return values


def _profile_words(text: str) -> list[str]:
    """Return the words of the phrases and the pairs of adjacent words; the labels are the same in all profiles."""
    profile = grammar.parse(text).profile
    phrases = () if profile is None else (*profile.identity, *profile.interests)
    words = [phrase.casefold().split() for phrase in phrases]
    pairs = (f"{first} {second}" for phrase in words for first, second in pairwise(phrase))
    return [*chain.from_iterable(words), *pairs]


def _support(profiles: Profiles, data: SnapshotData) -> dict[str, NDArray[np.float64]]:
    phrases, pairs = _incidence(profiles.interests)
    vocabulary = {word: column for column, word in enumerate(sorted(set(chain.from_iterable(map(_words, phrases)))))}
    in_phrase = _binary([[vocabulary[word] for word in _words(phrase)] for phrase in phrases], len(vocabulary))
    in_item = _item_words(data.catalogue, vocabulary)
    supported = np.zeros(len(profiles.ids))
    for start in range(0, len(profiles.ids), BLOCK):
        rows = slice(start, start + BLOCK)
        evidence = data.histories[rows] @ in_item if profiles.kind == "user" else in_item[rows]
        supported[rows] = _supported_phrases(pairs[rows], in_phrase, sparse.csr_matrix(evidence))
    counts = np.diff(pairs.indptr)
    share = np.divide(supported, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return {"faithfulness" if profiles.kind == "user" else "text_support": share}


def _supported_phrases(
    pairs: sparse.csr_matrix, in_phrase: sparse.csr_matrix, evidence: sparse.csr_matrix
) -> NDArray[np.float64]:
    """Return (n_rows,), how many of a row's phrases have all words in the row's evidence, (n_rows, n_words)."""
    n_words = evidence.shape[1]
    evidence.sort_indices()
    rows_of_evidence = np.repeat(np.arange(evidence.shape[0], dtype=np.int64), np.diff(evidence.indptr))
    present = rows_of_evidence * n_words + evidence.indices
    row_of_pair = np.repeat(np.arange(pairs.shape[0], dtype=np.int64), np.diff(pairs.indptr))
    words = in_phrase[pairs.indices]
    lengths = np.diff(words.indptr)
    needed = np.repeat(row_of_pair, lengths) * n_words + words.indices
    found = np.isin(needed, present, kind="sort")
    pair_of_word = np.repeat(np.arange(len(lengths)), lengths)
    hits = np.bincount(pair_of_word, weights=found, minlength=len(lengths))
    complete = (hits == lengths).astype(np.float64)
    return np.asarray(np.bincount(row_of_pair, weights=complete, minlength=pairs.shape[0]), dtype=np.float64)


def _item_words(catalogue: Catalogue, vocabulary: Mapping[str, int]) -> sparse.csr_matrix:
    """Return (n_items, n_words) of ones where a word occurs in an item's title, categories or text."""

    def words(row: int) -> Iterator[str]:
        yield from (word.casefold() for word in words_of(catalogue.titles[row]))
        yield from (word.casefold() for word in words_of(catalogue.texts[row]))
        for category in catalogue.categories[row]:
            yield from _words(grammar.clean_phrase(category))

    rows = range(len(catalogue.item_ids))
    return _binary([[vocabulary[word] for word in words(row) if word in vocabulary] for row in rows], len(vocabulary))


def _words(phrase: str) -> list[str]:
    return phrase.casefold().split()


def _incidence(rows: Sequence[Sequence[str] | None]) -> tuple[list[str], sparse.csr_matrix]:
    """Return the distinct phrases, sorted, and (n_rows, n_phrases) of ones where a row names a phrase."""
    phrases = sorted(set(chain.from_iterable(row for row in rows if row)))
    position = {phrase: column for column, phrase in enumerate(phrases)}
    return phrases, _binary([[position[phrase] for phrase in row or ()] for row in rows], len(phrases))


def _binary(rows: Sequence[Sequence[int]], n_columns: int) -> sparse.csr_matrix:
    columns = [sorted(set(row)) for row in rows]
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in columns], dtype=np.int64)))
    indices = np.fromiter(chain.from_iterable(columns), dtype=np.int64, count=int(indptr[-1]))
    ones = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_matrix((ones, indices, indptr), shape=(len(rows), n_columns))


def _against_truth(profiles: Profiles, truth: Path | None) -> dict[str, NDArray[np.float64]]:
    path = None if truth is None else truth / TRUTH_FILES[profiles.kind]
    if path is None or not path.exists():
        return {}
    table = pq.read_table(path, columns=[f"{profiles.kind}_id", "interests"]).to_pydict()
    of_entity = dict(zip(map(str, table[f"{profiles.kind}_id"]), table["interests"], strict=True))
    precision, recall, f1 = interest_scores(profiles.interests, [of_entity.get(entity) for entity in profiles.ids])
    return {"interests_precision": precision, "interests_recall": recall, "interests_f1": f1}


def interest_scores(
    written: Sequence[Sequence[str] | None], true: Sequence[Sequence[str] | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, recall and F1 of each row's phrases, (n,) each; NaN where phrases or true phrases are missing.

    A written phrase is right when it matches a true phrase of its row; a true phrase is found when a written one
    matches it.
    """
    phrases, named = _incidence(written)
    true_phrases, wanted = _incidence(true)
    matches = _matches(phrases, true_phrases)
    right = sparse.csr_matrix((wanted @ matches.T).multiply(named)).getnnz(axis=1)
    found = sparse.csr_matrix((named @ matches).multiply(wanted)).getnnz(axis=1)
    with np.errstate(invalid="ignore"):
        precision = right / named.getnnz(axis=1)
        recall = found / wanted.getnnz(axis=1)
        f1 = 2 * precision * recall / np.where(precision + recall == 0, 1, precision + recall)
    missing = np.isnan(f1)
    return np.where(missing, np.nan, precision), np.where(missing, np.nan, recall), f1


def _matches(phrases: Sequence[str], true_phrases: Sequence[str]) -> sparse.csr_matrix:
    """Return (n_phrases, n_true_phrases) of ones where two phrases match, by the rule in the module's docstring."""
    sets = [_match_words(phrase) for phrase in (*phrases, *true_phrases)]
    vocabulary = {word: column for column, word in enumerate(sorted(set(chain.from_iterable(sets))))}
    matrix = _binary([[vocabulary[word] for word in words] for words in sets], len(vocabulary))
    sizes = matrix.getnnz(axis=1)
    shared = sparse.coo_matrix(matrix[: len(phrases)] @ matrix[len(phrases) :].T)
    first, second = sizes[: len(phrases)][shared.row], sizes[len(phrases) :][shared.col]
    alike = (shared.data >= np.minimum(first, second)) | (shared.data / (first + second - shared.data) >= 0.5)
    cells = (alike[alike].astype(np.float32), (shared.row[alike], shared.col[alike]))
    return sparse.csr_matrix(cells, shape=(len(phrases), len(true_phrases)))


def _match_words(phrase: str) -> frozenset[str]:
    words = phrase.casefold().replace("-", " ").replace("_", " ").split()
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words
    )
