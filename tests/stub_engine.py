"""An engine without a model, for tests of the code around engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reclm.dataset import EntityKind
from reclm.llm.engines.base import Answer
from reclm.llm.prompts.messages import Message
from reclm.profiles.grammar import clean_phrase

GOOD = "User identity: hiker; User interests: {}"
Killed = KeyboardInterrupt
"""Raised by a stub that is made to fail."""


def phrase_of(content: str) -> str:
    """Return the stub's answer to a prompt: a phrase of the prompt, different for different prompts."""
    return clean_phrase(content.replace("Picked", "").replace("Who is it", "")[:60]) or "anything"


class Stub:
    """An engine that answers every prompt differently, counts its requests, and can be made to fail."""

    name, version, model_version = "stub", "1", "model-1"

    def __init__(self, malformed: dict[str, int] | None = None, die_after: int | None = None) -> None:
        self.malformed, self.die_after = dict(malformed or {}), die_after
        self.requested: list[str] = []
        self.settings_seen: list[tuple[float, int, bool]] = []

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
        self.settings_seen.append((temperature, seed, structured))
        for row in reversed(range(len(prompts))):
            if self.die_after is not None and len(self.requested) >= self.die_after:
                raise Killed
            content = prompts[row][-1]["content"]
            self.requested.append(content)
            left = self.malformed.get(content, 0)
            self.malformed[content] = left - 1
            text = "no profile at all" if left > 0 else f" {GOOD.format(phrase_of(content))}\n"
            yield row, Answer(text, 7, 2.0)

    def close(self) -> None:
        pass
