"""What a reward model is, and for whom it judges the answers to a request.

In: the prompts of dialogues. Out: each distinct request with what is known of its entities, and scores. Two users whose
prompts are equal get the same profile: it is judged by both, not by whoever came last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from reclm.llm.prompts.messages import Message

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

MAX_ENTITIES = 8
"""Entities by whom the answers to one request are judged at most, the first of the dialogues."""

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A request (turn 1), and the lines known of each entity that it is made for: one at least."""

    messages: list[Message]
    known: tuple[Lines, ...]


class RewardModel(Protocol):
    """Scores profiles as answers to requests."""

    def score(
        self, requests: Sequence[list[Message]], profiles: Sequence[str], known: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float32]:
        """Return how good profile i is as the answer to request i (turn 1), (n,); higher is better, on any scale.

        The lines `known[i]` are the entity's whole history, or what an item's audience interacted with: more than the
        request shows. A model that cannot use them ignores them.
        """

    def as_module(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Asked]) -> nn.Module:
        """Return the model in the form that TRL's PPOTrainer takes: a backbone over tokens, and `score`.

        An answer to one of `requests` is scored as by `score_shared`.
        """


def distinct_requests(prompts: Sequence[list[Message]], known: Sequence[Lines]) -> list[Asked]:
    """Return each distinct prompt once, in order, with the lines `known[i]` of all for whom it is made."""
    messages = {str(prompt): prompt for prompt in reversed(prompts)}
    lines: dict[str, dict[Lines, None]] = {}
    for prompt, own in zip(prompts, known, strict=True):
        lines.setdefault(str(prompt), {})[own] = None
    return [Asked(messages[key], tuple(found)[:MAX_ENTITIES]) for key, found in lines.items()]


def mean_of_groups(values: NDArray[np.float32], sizes: Iterable[int]) -> NDArray[np.float32]:
    """Return the mean of each group of `values` (n,), which stand group by group; each has one value at least."""
    counts = np.array(list(sizes))
    starts = [0, *accumulate(counts.tolist())][:-1]
    return np.asarray(np.add.reduceat(values, starts) / counts, dtype=np.float32) if len(counts) else values


def score_shared(reward: RewardModel, requests: Sequence[Asked], profiles: Sequence[str]) -> NDArray[np.float32]:
    """Return how good profile i is as the answer to request i, (n,): the mean over all for whom it is made."""
    rows = [(asked.messages, text, own) for asked, text in zip(requests, profiles, strict=True) for own in asked.known]
    if not rows:
        return np.zeros(0, dtype=np.float32)
    messages, texts, known = zip(*rows, strict=True)
    return mean_of_groups(reward.score(messages, texts, known), (len(asked.known) for asked in requests))
