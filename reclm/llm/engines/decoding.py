"""Structured decoding for `transformers`: the answer so far comes in, tokens that would repeat a phrase are ruled out.

A profile never names a phrase twice, and a small model that is sure of one interest tends to repeat it. Where a phrase
begins, the first tokens of earlier phrases of the same part are ruled out; all other tokens keep the model's scores.
(vLLM receives the grammar as a regular expression, which cannot express this.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import LogitsProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEXT_PHRASE, _NEXT_PART = ",", (":", ";")


class NoPhraseTwice(LogitsProcessor):
    """Keeps the answers of one batch from naming a phrase twice; answers begin at column `width`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, rows: int) -> None:
        self.width, self.marks = width, _marks(tokenizer)
        self.begun: list[list[int]] = [[] for _ in range(rows)]
        self.at_start = [True] * rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if input_ids.shape[1] > self.width:
            for row, token in enumerate(input_ids[:, -1].tolist()):
                self._read(row, token)
        ruled_out = [(row, token) for row, begun in enumerate(self.begun) if self.at_start[row] for token in begun]
        if ruled_out:
            where = torch.tensor(ruled_out, device=scores.device).T
            scores = cast("torch.FloatTensor", scores.index_put((where[0], where[1]), scores.new_tensor(float("-inf"))))
        return scores

    def _read(self, row: int, token: int) -> None:
        mark = self.marks.get(token)
        if mark is None:
            if self.at_start[row]:
                self.begun[row].append(token)
            self.at_start[row] = False
            return
        self.at_start[row] = True
        if mark in _NEXT_PART:
            self.begun[row] = []


@lru_cache(maxsize=8)
def _marks(tokenizer: Any) -> dict[int, str]:
    """Return {token: comma, colon or semicolon} for the tokens that are one."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return {token: text.strip() for token, text in enumerate(texts) if text.strip() in (_NEXT_PHRASE, *_NEXT_PART)}
