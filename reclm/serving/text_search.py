"""Search items by meaning.

In: a free text. Out: the items whose text and profile embeddings are nearest to it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.backbones.ranking import NO_ITEM, top_k

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.settings.tree import Settings


class TextSearch:
    """Find items by free text. The encoder takes seconds to load, so it is loaded in the background."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problem = ""
        self._encode: Any = None
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        return self._encode is not None

    @property
    def reason_not_ready(self) -> str:
        """Say in one sentence why search is not ready."""
        if not self.settings.serve.search:
            return "it is switched off (serve.search)"
        return "the text encoder could not be loaded" if self.problem else "the text encoder is being loaded"

    def start(self) -> None:
        """Start loading the encoder in its own thread."""
        if self.settings.serve.search:
            threading.Thread(target=self._load, name="text-encoder", daemon=True).start()

    def _load(self) -> None:
        from reclm.text.encoder import load_encoder

        try:
            self._encode = load_encoder(self.settings)
        except Exception as error:  # the service works without search, whatever the reason
            self.problem = f"{type(error).__name__}: {error}"

    def find(self, index: CandidateIndex, query: str, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return (positions, cosines) of the `k` items nearest to the query, among those with a text or profile."""
        with self._lock:
            vector = self._encode([query])[0]
        meaning = index.catalogue.meaning
        if index.catalogue.sentence_width != len(vector):  # published with another encoder than the settings name
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores = meaning[:, : len(vector)] @ vector
        if meaning.shape[1] > len(vector):  # a query has no columns of a language model that reads item texts
            lengths = np.linalg.norm(meaning[:, : len(vector)], axis=1)
            scores /= np.where(lengths > 0, lengths, 1)
        scores[~meaning.any(axis=1)] = -np.inf
        scores[index.hidden.positions()] = -np.inf
        best = top_k(scores[None], k)[0]
        best = best[best != NO_ITEM].astype(np.int64)
        return best, scores[best]
