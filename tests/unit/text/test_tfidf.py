"""TF-IDF rows against their formulas, and what the rows of some texts must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from reclm.text.tfidf import ASCII_WORDS, cut_unspaced, smoothed_tfidf, tfidf


class TestTfidf:
    def test_rows_are_binary_and_words_of_one_text_weigh_nothing(self) -> None:
        features = tfidf(["Cat cat dog", "cat's dog!", "dog moon", "moon"], words=ASCII_WORDS).toarray()
        weight = {"dog": np.log(4 / 3), "moon": np.log(4 / 2)}
        assert features[0].tolist() == pytest.approx([0, 1, 0, 0])  # `cat` is in one text only, however often
        norm = np.hypot(weight["dog"], weight["moon"])
        assert features[2].tolist() == pytest.approx([0, weight["dog"] / norm, 0, weight["moon"] / norm])

    def test_texts_without_a_shared_word_have_rows_of_zeros(self) -> None:
        assert tfidf(["", "alone"]).toarray().sum() == 0

    def test_weights_come_from_the_fitted_texts_alone(self) -> None:
        texts, fit_rows = ["sea war", "sea love", "war love", "moon"], np.array([True, True, True, False])
        other = [*texts[:3], "moon sea sea war"]
        assert np.array_equal(tfidf(texts, fit_rows).toarray()[:3], tfidf(other, fit_rows).toarray()[:3])

    @pytest.mark.parametrize(("text", "letters", "ascii_words"), [("naïve café", 2, 3), ("don't 'don't'", 1, 2)])
    def test_the_two_tokenisations_split_words_differently(self, text: str, letters: int, ascii_words: int) -> None:
        assert (tfidf([text, text]).shape[1], tfidf([text, text], words=ASCII_WORDS).shape[1]) == (letters, ascii_words)


class TestSmoothedTfidf:
    def test_rows_have_length_one_and_the_vocabulary_of_the_fitted_texts(self) -> None:
        vectors = smoothed_tfidf(["sea war", "sea love", "war", "moon", "song"], ["sea moon", "unknown"])
        assert vectors is not None
        fitted, others = vectors
        assert fitted.shape == (5, 2)
        assert np.linalg.norm(fitted.toarray(), axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0])
        assert others.toarray().tolist() == [[1, 0], [0, 0]]

    def test_without_a_shared_word_there_are_no_rows(self) -> None:
        assert smoothed_tfidf(["sea", "war"], ["sea"]) is None


class TestScriptsWithoutBlanks:
    def test_two_texts_share_pairs_of_letters(self) -> None:
        rows = tfidf(["园艺水管", "新园艺工具", "厨房"]).toarray()
        assert rows[0] @ rows[1] > 0 and rows[0] @ rows[2] == 0
        fitted, others = smoothed_tfidf(["园艺水管", "新园艺工具", "厨房", "厨房用品"], ["园艺"]) or (None, None)
        assert fitted is not None and others is not None
        assert (others @ fitted.T).toarray()[0].argmax() in (0, 1)

    def test_words_of_other_scripts_are_not_cut(self) -> None:
        assert list(cut_unspaced(["garden", "園", "水管", "セット12", "naïve"])) == [
            "garden", "園", "水管", "セッ", "ット", "12", "naïve",
        ]  # fmt: skip
