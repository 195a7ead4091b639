"""Prompts and answers as pieces of text: chat messages, or their rendered text, come in.

The inverse of `reclm.llm.prompts.messages`, for a reward model that sees nothing but the text the language model saw:
the pieces about the user or item itself, those about its neighbours, and the phrases of a profile, well formed or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.prompts.messages import Message, sanitise
from reclm.llm.prompts.templates import render
from reclm.profiles.grammar import IDENTITY_LABEL, INTERESTS_LABEL, MAX_PHRASES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_OWN_PIECES = 24
MAX_NEIGHBOUR_PIECES = 32
_OPENING = re.compile(r"(?P<user>Picked|Items of the user): |(?P<item>Item|The item): ")
# Texts of a log hold no line break, so that a line of our own cannot be forged by one.
_CLOSING = re.compile(
    r"\n(?:Who is it\?|Who is it for\?|Write the profile of (?:this user|the people this item is for)\.)"
)
_ANNOUNCES = ("Items of the nearest other users:", "Items whose texts resemble it,")
_LABELS = ("Near: ", "Like: ", "- ")
_NOTHING = "nothing"


@dataclass(frozen=True)
class Reading:
    """The pieces of a request: those about the user or item itself (`own`) and those about its neighbours."""

    kind: EntityKind
    own: tuple[str, ...]
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class Phrases:
    """The phrases of an answer, which need not follow the grammar."""

    identity: tuple[str, ...]
    interests: tuple[str, ...]


def read_request(messages: Sequence[Message]) -> Reading:
    """Read the pieces of turn 1. Raises ModelError for messages that `messages.profile_request` did not write."""
    return read_text(next(m["content"] for m in reversed(messages) if m["role"] == "user"))


def read_text(text: str) -> Reading:
    """Read the pieces of turn 1 from any text that contains it; the text before and after it is ignored."""
    opening = _OPENING.search(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        raise ModelError(f"this is no request for a profile: {text[:80]!r}")
    kind: EntityKind = "user" if opening["user"] else "item"
    first, *rest = text[opening.end() : closing.start()].split("\n")
    neighbours = [piece for line in rest if not line.startswith(_ANNOUNCES) for piece in _neighbours(line, kind)]
    return Reading(
        kind, tuple(_pieces(first))[:MAX_OWN_PIECES], tuple(dict.fromkeys(neighbours))[:MAX_NEIGHBOUR_PIECES]
    )


def _pieces(line: str) -> list[str]:
    return [piece for piece in map(str.strip, line.split(" | ")) if piece and piece != _NOTHING]


def _neighbours(line: str, kind: EntityKind) -> list[str]:
    label = next((label for label in _LABELS if line.startswith(label)), "")
    pieces = _pieces(line.removeprefix(label))
    if kind == "user":
        return pieces
    return [*pieces[:1], *(interest.strip() for piece in pieces[1:] for interest in piece.split(","))]


def with_known_facts(reading: Reading, known: Sequence[str]) -> Reading:
    """Return the request with the lines `known` added: a user's to its own pieces, an item's to its neighbours."""
    lines = tuple(filter(None, map(sanitise, known)))
    if not lines:
        return reading
    if reading.kind == "user":
        return replace(reading, own=tuple(dict.fromkeys((*reading.own, *lines)))[:MAX_OWN_PIECES])
    return replace(reading, neighbours=tuple(dict.fromkeys((*lines, *reading.neighbours)))[:MAX_NEIGHBOUR_PIECES])


def read_phrases(profile: str) -> Phrases:
    """Read the phrases of each part of a profile; without the second label all phrases are identity."""
    identity, _, interests = profile.replace(IDENTITY_LABEL, " ").partition(INTERESTS_LABEL)
    return Phrases(_phrases(identity), _phrases(interests))


def _phrases(part: str) -> tuple[str, ...]:
    found = (phrase.strip() for phrase in re.split(r"[,;:\n]", part))
    return tuple(phrase for phrase in found if phrase)[:MAX_PHRASES]


class Splitter:
    """Splits the rendered text of a request and its answer, for any tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        probe = "quince\nWho is it?"
        rendered = render(tokenizer, [{"role": "user", "content": probe}], generation=True)
        self._tail = rendered[rendered.rindex("Who is it?") + len("Who is it?") :]

    def __call__(self, ids: Sequence[int]) -> tuple[Reading, str]:
        """Return the request and the answer that the tokens contain; the answer without its end token."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        reading = read_text(text)
        opening = _OPENING.search(text)
        closing = _CLOSING.search(text, opening.end() if opening else 0)
        rest = text[closing.end() if closing else len(text) :]
        tail = self._tail if rest.startswith(self._tail) else self._tail.strip()
        answer = rest.partition(tail)[2] if tail else rest
        return reading, answer.split(str(self._tokenizer.eos_token))[0].strip()
