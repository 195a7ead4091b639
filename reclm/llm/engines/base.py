"""Define the interface of an engine, which answers prompts with a language model.

In: messages. Out: answers. An engine loads nothing before its first prompt, so its name and version can be read without
loading a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from reclm.dataset import EntityKind
from reclm.llm.prompts.messages import Message


class Answer(NamedTuple):
    """A model's answer to one prompt.

    `text` is stripped and without special tokens; `tokens` counts the end token too; `latency_ms` is the time from
    sending the prompt (or its batch) to the answer, in milliseconds.
    """

    text: str
    tokens: int
    latency_ms: float


class Engine(Protocol):
    """Answers prompts.

    `name` and `version` name the software, `model_version` the model; all are stored with answers.
    """

    name: str
    version: str
    model_version: str

    def answer(
        self,
        prompts: Sequence[list[Message]],
        *,
        kinds: Sequence[EntityKind],
        temperature: float,
        seed: int,
        max_tokens: int,
        structured: bool,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (position in `prompts`, answer) for every prompt once, in any order, as soon as it is ready.

        Temperature 0 is greedy decoding. `kinds[i]` says whether `prompts[i]` describes a user or an item. `structured`
        restricts answers to the profile grammar; an engine that cannot do so ignores it. Raises ModelError.
        """

    def close(self) -> None:
        """Free the model and connections that the engine holds."""
