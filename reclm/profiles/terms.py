"""What items are about, as weighted terms: their categories, and the words and word pairs of their titles and texts.

A catalogue comes in; a vocabulary of clean phrases and an (n_items, n_terms) matrix of shares go out. Words are weighed
by TF-IDF (Spärck Jones 1972); word pairs need both words to stand side by side and to mean something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.profiles.grammar import clean_phrase, strip_markup
from reclm.profiles.snapshot_data import Catalogue

CATEGORY_SHARE = 0.7
"""Share of an item's weight that its categories carry when it has categories and text."""
TITLE_REPEATS = 2
"""How much more a word of the title counts than one of the text."""
MAX_TERMS = 50_000
MAX_DOCUMENT_SHARE = 0.2
"""Words in more than this share of the items say nothing about any of them."""
SMALL_CATALOGUE = 200
"""Below so many items a word needs to occur in one item only, not in two."""

_WORD = re.compile(r"\d*[^\W\d_][^\W_]*(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Terms:
    """`phrases[t]` is term t as a phrase of the grammar, `is_category[t]` says where it comes from.

    `words[t]` are its lower-case words. `shares` is float32 (n_items, n_terms): rows sum to 1, or 0 without any text.
    """

    phrases: list[str]
    is_category: NDArray[np.bool_]
    words: list[frozenset[str]]
    shares: sparse.csr_matrix


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, in order, template tokens and possessive endings stripped."""
    return [word.lower().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(strip_markup(text))]


@cache
def stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    more = "said says say new just like year years day time make makes made don doesn didn isn won want vs com www http"
    return frozenset(ENGLISH_STOP_WORDS) | frozenset(more.split())


def item_terms(catalogue: Catalogue) -> Terms:
    """The terms of a catalogue; none at all (0 columns) when no item has any text."""
    by_category, category_phrases = _category_shares(catalogue.categories)
    by_text, text_phrases = _text_shares(catalogue)
    keys = {phrase.casefold(): position for position, phrase in enumerate(category_phrases)}
    phrases = list(category_phrases)
    columns = np.empty(len(text_phrases), dtype=np.int64)
    for position, phrase in enumerate(text_phrases):  # a word that is a category's name counts for the category
        columns[position] = keys.setdefault(phrase.casefold(), len(phrases))
        if columns[position] == len(phrases):
            phrases.append(phrase)
    shape = (len(catalogue.item_ids), len(phrases))
    text = sparse.csr_matrix((by_text.data, columns[by_text.indices], by_text.indptr), shape=shape)
    category = sparse.csr_matrix((by_category.data, by_category.indices, by_category.indptr), shape=shape)
    weights = category * CATEGORY_SHARE + text * (1 - CATEGORY_SHARE)
    shares = normalise_rows(sparse.csr_matrix(weights, dtype=np.float32))
    is_category = np.arange(len(phrases)) < len(category_phrases)
    return Terms(phrases, is_category, [frozenset(phrase.casefold().split()) for phrase in phrases], shares)


def normalise_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix with every row of non-negative numbers scaled to sum to 1; empty rows stay empty."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    lengths = np.diff(matrix.indptr)
    data = matrix.data / np.repeat(np.where(sums > 0, sums, 1), lengths)
    result = sparse.csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
    result.sort_indices()
    return result


def _category_shares(categories: Sequence[list[str]]) -> tuple[sparse.csr_matrix, list[str]]:
    """(n_items, n_categories), each item's categories weighing the same, and the categories in text order."""
    cleaned: dict[str, str] = {}
    rows: list[list[str]] = []
    for names in categories:
        phrases = dict.fromkeys(cleaned.setdefault(name, clean_phrase(name)) for name in names)
        rows.append([phrase for phrase in phrases if phrase])
    shown: dict[str, str] = {}
    for phrase in sorted(set(cleaned.values()) - {""}):
        shown.setdefault(phrase.casefold(), phrase)
    position = {key: column for column, key in enumerate(shown)}
    cells = [(row, position[phrase.casefold()]) for row, phrases in enumerate(rows) for phrase in phrases]
    where = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(where.shape[1], dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (where[0], where[1])), shape=(len(rows), len(position)))
    return normalise_rows(matrix), list(shown.values())


def _text_shares(catalogue: Catalogue) -> tuple[sparse.csr_matrix, list[str]]:
    """(n_items, n_terms) TF-IDF shares of the words and word pairs of titles and texts, terms in text order."""
    from sklearn.feature_extraction.text import CountVectorizer

    n_items = len(catalogue.item_ids)
    nothing = sparse.csr_matrix(np.zeros((n_items, 0), dtype=np.float32))
    vectorizer = CountVectorizer(
        analyzer=_analyse,
        min_df=1 if n_items < SMALL_CATALOGUE else 2,
        max_df=1.0 if n_items < SMALL_CATALOGUE else MAX_DOCUMENT_SHARE,
        max_features=MAX_TERMS,
        dtype=np.float32,
    )
    documents = list(zip(catalogue.titles, catalogue.texts, strict=True))
    try:
        counts = sparse.csr_matrix(vectorizer.fit_transform(documents))
    except ValueError:  # sklearn's way of saying that no document holds a word, or none often enough
        return nothing, []
    phrases = [clean_phrase(str(term)) for term in vectorizer.get_feature_names_out()]
    document_frequency = counts.getnnz(axis=0)
    idf = np.log((1 + n_items) / (1 + document_frequency)) + 1
    idf[[not phrase for phrase in phrases]] = 0
    weights = sparse.csr_matrix(
        (np.log1p(counts.data) * idf[counts.indices], counts.indices, counts.indptr), counts.shape
    )
    return normalise_rows(weights), phrases


def _analyse(document: tuple[str, str]) -> list[str]:
    title, text = document
    in_title = _meaningful(words_of(title)) if title else []
    return in_title * TITLE_REPEATS + (_meaningful(words_of(text)) if text else [])


def _meaningful(words: list[str]) -> list[str]:
    """The words that are not stop words, and the pairs of such words that stand side by side."""
    ignored = stop_words()
    kept = [len(word) > 1 and word not in ignored for word in words]
    singles = [word for word, keep in zip(words, kept, strict=True) if keep]
    pairs = [f"{words[i]} {words[i + 1]}" for i in range(len(words) - 1) if kept[i] and kept[i + 1]]
    return singles + pairs
