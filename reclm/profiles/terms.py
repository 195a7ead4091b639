"""Describe items by weighted terms.

In: a catalogue. Out: phrases and an item-by-term matrix of shares. Terms are the items' categories, and the words and
word pairs of their titles and texts, all clean phrases of the grammar. Words are weighted by TF-IDF (Spärck Jones
1972); a word pair is two adjacent words that are not stop words. In scripts without blanks between words, a term is a
short run of letters or two neighbouring ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reclm.profiles.grammar import clean_phrase, strip_markup
from reclm.profiles.snapshot_data import Catalogue
from reclm.text.tfidf import UNSPACED, cut_unspaced, is_unspaced

CATEGORY_SHARE = 0.7
"""Share of the categories in an item's weight when it has categories and text."""
TITLE_REPEATS = 2
"""How often a word of the title is counted, against once for a word of the text."""
MAX_TERMS = 50_000
MAX_DOCUMENT_SHARE = 0.2
"""Words in more than this share of the items are left out: they distinguish no item."""
SMALL_CATALOGUE = 200
"""With fewer items than this, a word needs to occur in one item only, not in two."""

_MARKS = "".join(mark for mark in map(chr, range(0x300, 0x3100)) if unicodedata.category(mark) in ("Mn", "Mc"))
"""Signs that are written above, below and beside letters (vowels of Hindi, points of Hebrew): parts of a word."""
_IN_WORD = rf"(?:[^\W_]|[{_MARKS}])"
_WORD = re.compile(rf"\d*[^\W\d_]{_IN_WORD}*(?:['’-]{_IN_WORD}+)*")
_RUN = re.compile(rf"(?<![{UNSPACED}])[{UNSPACED}]{{3,8}}(?![{UNSPACED}])")
"""A run of letters without blanks that is short enough to be a name or a term of its own."""
_PARTICLES = frozenset("的了和是在与及也就都而着或被把给之のはをにがでとも")
"""Letters that join words: a pair with one of them is no word. The stop words of these scripts."""


@dataclass(frozen=True)
class Terms:
    """The terms of a catalogue: `phrases[t]` is term t as a phrase of the grammar, `words[t]` are its lower-case words.

    `is_category[t]` tells categories from words of texts. `shares` is float32 (n_items, n_terms): rows sum to 1, or to
    0 without any text.
    """

    phrases: list[str]
    is_category: NDArray[np.bool_]
    words: list[frozenset[str]]
    shares: sparse.csr_matrix


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text in order, without template tokens and possessive endings.

    Runs of scripts without blanks between words are cut into pairs of letters.
    """
    words = (word.lower().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(strip_markup(text)))
    return [word for word in cut_unspaced(words) if not word.isdecimal()]


@cache
def stop_words() -> frozenset[str]:
    """Return scikit-learn's English stop words and others that are frequent in news and product texts."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    more = "said says say new just like year years day time make makes made don doesn didn isn won want vs com www http"
    return frozenset(ENGLISH_STOP_WORDS) | frozenset(more.split())


def item_terms(catalogue: Catalogue) -> Terms:
    """Find the terms of a catalogue; there are none (0 columns) when no item has any text."""
    by_category, category_phrases = _category_shares(catalogue.categories)
    by_text, text_phrases = _text_shares(catalogue)
    keys = {phrase.casefold(): position for position, phrase in enumerate(category_phrases)}
    phrases = list(category_phrases)
    columns = np.empty(len(text_phrases), dtype=np.int64)
    for position, phrase in enumerate(text_phrases):  # a word that is a category's name is counted as the category
        columns[position] = keys.setdefault(phrase.casefold(), len(phrases))
        if columns[position] == len(phrases):
            phrases.append(phrase)
    shape = (len(catalogue.item_ids), len(phrases))
    text = sparse.csr_matrix((by_text.data, columns[by_text.indices], by_text.indptr), shape=shape)
    category = sparse.csr_matrix((by_category.data, by_category.indices, by_category.indptr), shape=shape)
    weights = category * CATEGORY_SHARE + text * (1 - CATEGORY_SHARE)
    shares = normalise_rows(sparse.csr_matrix(weights, dtype=np.float32))
    is_category = np.arange(len(phrases)) < len(category_phrases)
    words = [frozenset(cut_unspaced(phrase.casefold().split())) for phrase in phrases]
    return Terms(phrases, is_category, words, shares)


def normalise_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Scale every row of non-negative numbers to sum to 1; empty rows stay empty."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    lengths = np.diff(matrix.indptr)
    data = matrix.data / np.repeat(np.where(sums > 0, sums, 1), lengths)
    result = sparse.csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
    result.sort_indices()
    return result


def _category_shares(categories: Sequence[list[str]]) -> tuple[sparse.csr_matrix, list[str]]:
    """Return (n_items, n_categories) with equal weights for an item's categories, and the categories, sorted."""
    cleaned: dict[str, str] = {}
    rows: list[list[str]] = []
    for names in categories:
        phrases = dict.fromkeys(cleaned.setdefault(name, clean_phrase(name)) for name in names)
        rows.append([phrase for phrase in phrases if _has_letter(phrase)])
    shown: dict[str, str] = {}
    for phrase in sorted(filter(_has_letter, set(cleaned.values()))):
        shown.setdefault(phrase.casefold(), phrase)
    position = {key: column for column, key in enumerate(shown)}
    cells = [(row, position[phrase.casefold()]) for row, phrases in enumerate(rows) for phrase in phrases]
    where = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(where.shape[1], dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (where[0], where[1])), shape=(len(rows), len(position)))
    return normalise_rows(matrix), list(shown.values())


def _has_letter(phrase: str) -> bool:
    """Return whether a phrase can be read: the category "16" is a number of some list, not an interest."""
    return any(map(str.isalpha, phrase))


def _text_shares(catalogue: Catalogue) -> tuple[sparse.csr_matrix, list[str]]:
    """Return (n_items, n_terms) TF-IDF shares of the words and word pairs in titles and texts, and the terms."""
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
    except ValueError:  # how scikit-learn says that no word is left
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
    in_title = _meaningful(title) if title else []
    return in_title * TITLE_REPEATS + (_meaningful(text) if text else [])


def _meaningful(text: str) -> list[str]:
    """Return the words that are not stop words, the pairs of adjacent ones, and short runs of unspaced letters."""
    ignored, words = stop_words(), words_of(text)
    kept = [len(word) > 1 and word not in ignored and not _PARTICLES.intersection(word) for word in words]
    singles = [word for word, keep in zip(words, kept, strict=True) if keep]
    paired = [keep and not is_unspaced(word) for word, keep in zip(words, kept, strict=True)]
    pairs = [f"{words[i]} {words[i + 1]}" for i in range(len(words) - 1) if paired[i] and paired[i + 1]]
    return singles + pairs + (_RUN.findall(text) * 2 if is_unspaced(text) else [])
