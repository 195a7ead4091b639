"""Find the profile in the answer of a talkative model.

In: an answer. Out: the profile in it, in the form of the grammar, or the answer as it is. Models think aloud
(`<think>…</think>`), put answers into code fences, bold or JSON, and say something before and after. What is around a
profile is removed; the profile itself must obey the grammar and is not mended. Where an answer holds two different
profiles, nobody knows which one is meant, and none is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from reclm.profiles.grammar import IDENTITY_LABEL, INTERESTS_LABEL, parse, render, strip_markup

_THOUGHTS = ("think", "thinking", "thought", "reasoning", "reflection", "analysis")
_THOUGHT = re.compile(rf"<({'|'.join(_THOUGHTS)})>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf"\A.*</(?:{'|'.join(_THOUGHTS)})>", re.DOTALL | re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__|`+")
_AROUND = "\"'“”„‘’«»*_~ "
_KEYS = {"identity": "identity", "user identity": "identity", "interests": "interests", "user interests": "interests"}
MAX_DEPTH = 5
"""Deepest nesting of JSON that is looked through."""


def profile_in(answer: str) -> str:
    """Return the one profile that an answer holds, in the form of the grammar, or the stripped answer.

    An answer that is a profile already is returned as it is.
    """
    answer = answer.strip()
    if parse(answer).ok:
        return answer
    spoken = _END_OF_THOUGHT.sub("", _THOUGHT.sub("\n", answer))
    found = dict.fromkeys(_profiles(spoken))
    return next(iter(found)) if len(found) == 1 else answer


def _profiles(text: str) -> Iterator[str]:
    for candidate in (*_of_json(text), *_of_lines(text)):
        profile = parse(candidate).profile
        if profile is not None:
            yield render(profile)


def _of_lines(text: str) -> Iterator[str]:
    """Yield what follows the label of the identity in each line; the interests may stand in the next line."""
    lines = [_EMPHASIS.sub("", strip_markup(line)) for line in text.splitlines() if line.strip()]
    for line, following in pairwise([*lines, ""]):
        before, label, after = line.partition(IDENTITY_LABEL)
        if label and INTERESTS_LABEL not in after:
            after = f"{after.rstrip(' ;')}; {INTERESTS_LABEL}{following.partition(INTERESTS_LABEL)[2]}"
        quoted = before[-1:] in _AROUND
        yield label + (after.rstrip(_AROUND) if quoted else after)


def _of_json(text: str) -> Iterator[str]:
    """Yield the texts and the pairs of identity and interests in the JSON values of a text."""
    decoder = json.JSONDecoder()
    position = 0
    while (position := _next_bracket(text, position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            position += 1
        else:
            yield from _of_value(value, MAX_DEPTH)


def _next_bracket(text: str, start: int) -> int:
    return min((at for at in (text.find(mark, start) for mark in "{[") if at >= 0), default=-1)


def _of_value(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, list):
        for one in value:
            yield from _of_value(one, depth - 1)
    elif depth and isinstance(value, dict):
        parts = {_KEYS.get(key.strip(" :").replace("_", " ").casefold()): _listed(one) for key, one in value.items()}
        if "identity" in parts and "interests" in parts:
            yield f"{IDENTITY_LABEL} {parts['identity']}; {INTERESTS_LABEL} {parts['interests']}"
        for one in value.values():
            yield from _of_value(one, depth - 1)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
