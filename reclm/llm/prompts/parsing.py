"""What a request says and what an answer says, as pieces of text: chat messages or their rendered form come in.

The inverse of `reclm.llm.prompts.messages`, for a judge that is handed nothing but the text the language model saw: the pieces
told of the entity itself, those told of its neighbours, and the phrases of a profile, well formed or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Kind, Message, sanitise
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
    """A request: what is told of the entity (`own`) and of its neighbours (`neighbours`), piece by piece."""

    kind: Kind
    own: tuple[str, ...]
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class Phrases:
    """The phrases of an answer, read as leniently as possible."""

    identity: tuple[str, ...]
    interests: tuple[str, ...]


def read_request(messages: Sequence[Message]) -> Reading:
    """What turn 1 shows. Raises ModelError for messages that `prompts.profile_request` did not write."""
    return read_text(next(m["content"] for m in reversed(messages) if m["role"] == "user"))


def read_text(text: str) -> Reading:
    """The same from any text that holds turn 1; what stands before and behind it is left alone."""
    opening = _OPENING.search(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        raise ModelError(f"this is no request for a profile: {text[:80]!r}")
    kind: Kind = "user" if opening["user"] else "item"
    first, *rest = text[opening.end() : closing.start()].split("\n")
    around = [piece for line in rest if not line.startswith(_ANNOUNCES) for piece in _around(line, kind)]
    return Reading(kind, tuple(_pieces(first))[:MAX_OWN_PIECES], tuple(dict.fromkeys(around))[:MAX_NEIGHBOUR_PIECES])


def _pieces(line: str) -> list[str]:
    return [piece for piece in map(str.strip, line.split(" | ")) if piece and piece != _NOTHING]


def _around(line: str, kind: Kind) -> list[str]:
    label = next((label for label in _LABELS if line.startswith(label)), "")
    pieces = _pieces(line.removeprefix(label))
    if kind == "user":
        return pieces
    return [*pieces[:1], *(interest.strip() for piece in pieces[1:] for interest in piece.split(","))]


def with_known_facts(reading: Reading, known: Sequence[str]) -> Reading:
    """The request with all that is known of the entity in it: a user's history among its own pieces, what an item's
    audience picks among those around."""
    lines = tuple(filter(None, map(sanitise, known)))
    if not lines:
        return reading
    if reading.kind == "user":
        return replace(reading, own=tuple(dict.fromkeys((*reading.own, *lines)))[:MAX_OWN_PIECES])
    return replace(reading, neighbours=tuple(dict.fromkeys((*lines, *reading.neighbours)))[:MAX_NEIGHBOUR_PIECES])


def read_phrases(profile: str) -> Phrases:
    """The phrases of each part; without the second label everything is identity."""
    identity, _, interests = profile.replace(IDENTITY_LABEL, " ").partition(INTERESTS_LABEL)
    return Phrases(_phrases(identity), _phrases(interests))


def _phrases(part: str) -> tuple[str, ...]:
    found = (phrase.strip() for phrase in re.split(r"[,;:\n]", part))
    return tuple(phrase for phrase in found if phrase)[:MAX_PHRASES]


class Splitter:
    """Takes the rendered text of a request and an answer apart, for any tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        probe = "quince\nWho is it?"
        rendered = render(tokenizer, [{"role": "user", "content": probe}], generation=True)
        self._tail = rendered[rendered.rindex("Who is it?") + len("Who is it?") :]

    def __call__(self, ids: Sequence[int]) -> tuple[Reading, str]:
        """What the tokens of a request and its answer say: the request, and the answer without what ends it."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        reading = read_text(text)
        opening = _OPENING.search(text)
        closing = _CLOSING.search(text, opening.end() if opening else 0)
        rest = text[closing.end() if closing else len(text) :]
        tail = self._tail if rest.startswith(self._tail) else self._tail.strip()
        answer = rest.partition(tail)[2] if tail else rest
        return reading, answer.split(str(self._tokenizer.eos_token))[0].strip()
