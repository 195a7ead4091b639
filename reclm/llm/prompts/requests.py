"""Prepare prompts before they are sent.

In: facts about users and items. Out: requests, each with a hash. A batch collects the prompts of many users and items
first, so that an engine answers identical prompts only once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from reclm.dataset import EntityKind
from reclm.llm.prompts.messages import (
    Facts,
    Message,
    Shape,
    UserFacts,
    fit_to_budget,
    has_no_facts,
    limited,
    profile_request,
)
from reclm.profiles.keywords import KNOWN, NO_HISTORY, NO_TEXT

TokenCount = Callable[[list[Message]], int]


class Request(NamedTuple):
    """A prompt, and whether it asks for the profile of a user or of an item."""

    kind: EntityKind
    messages: list[Message]


def prompt_hash(messages: Sequence[Message]) -> str:
    """Return the SHA-256 of the messages as canonical JSON, in hex."""
    canonical = json.dumps(list(messages), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def own_hash(facts: Facts, shape: Shape) -> str:
    """Return the hash of the prompt without neighbours: of what it says of the user or item itself."""
    return prompt_hash(profile_request(limited(replace(facts, neighbours=()), shape), shape.style))


def flag_of(facts: Facts) -> str:
    """Return KNOWN, or the reason why too little is known to describe this user or item."""
    if not has_no_facts(facts):
        blank = isinstance(facts, UserFacts) and not any(line.strip() for line in facts.history)
        return NO_TEXT if blank else KNOWN
    return NO_HISTORY if isinstance(facts, UserFacts) else NO_TEXT


@dataclass
class EntityPrompts:
    """The prompts of the users or items of one snapshot, and how many were shortened.

    `hashes` are {id: prompt hash}, `own` {id: hash of the prompt without neighbours}, `flags` {id: flag}; `written` is
    {id: as-of of the prompt} where that is an earlier one than the snapshot's.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    written: dict[str, datetime] = field(default_factory=dict)
    trimmed: int = 0


@dataclass
class PromptBatch:
    """Collects requests to answer together; every prompt fits the budget of `shape` as `count` counts tokens."""

    shape: Shape
    count: TokenCount
    requests: list[Request] = field(default_factory=list)

    def add(
        self, kind: EntityKind, facts: Mapping[str, Facts], own: Mapping[str, str], ids: Iterable[str]
    ) -> EntityPrompts:
        """Add one request for each of `ids`; `facts` and `own`, the hashes by `own_hash`, must hold all of them."""
        added = EntityPrompts()
        for entity_id in ids:
            messages, trimmed = fit_to_budget(facts[entity_id], self.shape, self.count)
            self.requests.append(Request(kind, messages))
            added.hashes[entity_id] = prompt_hash(messages)
            added.own[entity_id] = own[entity_id]
            added.flags[entity_id] = flag_of(facts[entity_id])
            added.trimmed += trimmed
        return added
