"""Weight words by TF-IDF (Salton & Buckley 1988).

In: texts. Out: one sparse row of weights per text. `tfidf` makes the rows that backbones and text baselines read,
`smoothed_tfidf` those that text neighbours are found with. Vocabulary and weights can be fitted on some of the texts
only, so that a later item changes nothing. The tokenisations differ because published figures depend on each of them.
In scripts written without blanks between words (Han, kana, Thai …) every two neighbouring letters are a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
"""Words of any alphabet, with inner apostrophes: the tokens of learned text features."""
ASCII_WORDS = re.compile(r"[a-z0-9']+")
"""Runs of ASCII letters, digits and apostrophes: the tokens of the text baselines."""
ASCII_OR_LETTERS = r"[a-z0-9']+|[^\W\da-z_]+"
"""ASCII words, and runs of letters of other alphabets: the tokens of text neighbours."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Letters of scripts without blanks between words, as the inside of a class of a regular expression."""
_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^{UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{UNSPACED}]")


def is_unspaced(word: str) -> bool:
    """Return whether a word has letters of a script without blanks between words."""
    return _IS_UNSPACED.search(word) is not None


def cut_unspaced(words: Iterable[str]) -> Iterator[str]:
    """Yield the words, with every run of unspaced letters cut into its overlapping pairs (as Lucene's CJK analyser)."""
    for word in words:
        if not is_unspaced(word):
            yield word
            continue
        for run in _RUNS.finditer(word):
            text = run[0]
            if run["unspaced"] and len(text) > 2:
                yield from (text[at : at + 2] for at in range(len(text) - 1))
            else:
                yield text


def tfidf(
    texts: Sequence[str], fit_rows: NDArray[np.bool_] | None = None, *, words: re.Pattern[str] = WORDS
) -> sparse.csr_matrix:
    """Return rows of binary term frequency x log(N / document frequency), of length 1; float64 (n_texts, n_words).

    Texts are lower-cased, columns are words in order of first appearance, stored from last to first in each row. N and
    document frequencies are counted on the texts marked in `fit_rows` (n_texts,), by default on all. A word in fewer
    than two of them has weight 0; an empty text has a row of zeros.
    """
    if fit_rows is None:
        fit_rows = np.ones(len(texts), dtype=np.bool_)
    vocabulary: dict[str, int] = {}
    indptr, columns = [0], []
    for text in texts:
        found = cut_unspaced(words.findall(text.lower()))
        columns.extend(sorted({vocabulary.setdefault(word, len(vocabulary)) for word in found}))
        indptr.append(len(columns))
    shape = (len(texts), max(len(vocabulary), 1))
    counts = sparse.csr_matrix((np.ones(len(columns)), columns, indptr), shape=shape)
    frequency = np.asarray(counts[fit_rows].sum(axis=0)).ravel()
    weights = np.where(frequency < 2, 0.0, np.log(max(fit_rows.sum(), 1) / np.maximum(frequency, 1)))
    weighted = (counts @ sparse.diags(weights)).tocsr()
    weighted.eliminate_zeros()
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted.data *= np.repeat(1 / np.where(lengths == 0, 1, lengths), np.diff(weighted.indptr))
    return weighted


def smoothed_tfidf(
    fit_texts: Sequence[str], texts: Sequence[str]
) -> tuple[sparse.csr_matrix, sparse.csr_matrix] | None:
    """Return the rows of `fit_texts` and of `texts`, float32 of length 1, with vocabulary and weights of `fit_texts`.

    Weights are (1 + log term frequency) x smoothed inverse document frequency; words in one text only or in more than
    half of the texts are left out. None when no word is left.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    tokens = re.compile(ASCII_OR_LETTERS)
    vectorizer = TfidfVectorizer(
        tokenizer=lambda text: list(cut_unspaced(tokens.findall(text))),
        token_pattern=None,
        min_df=2,
        max_df=0.5,
        sublinear_tf=True,
        dtype=np.float32,
    )
    try:
        fitted = vectorizer.fit_transform(fit_texts)
    except ValueError:  # how scikit-learn says that no word is left
        return None
    return fitted, vectorizer.transform(texts)
