"""Turn dialogues into chat messages.

In: dialogues and a teacher's profiles. Out: conversations to train on. Turn 1 is shortened to its token budget and
answered by the teacher's profile; turn 2 asks about the withheld item (RecLM, arXiv 2412.19302, section 3.2). A
dialogue is left out, and counted, when the teacher wrote no profile, when the profile does not parse, or when nothing
is known of the user or item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reclm.dataset import EntityKind
from reclm.llm.models.tiny import as_document
from reclm.llm.prompts.dialogues import Dialogue, Fold
from reclm.llm.prompts.messages import (
    Facts,
    Message,
    Shape,
    Style,
    answer,
    fit_to_budget,
    has_no_facts,
    item_question,
    person_question,
)
from reclm.profiles import grammar
from reclm.storage.artifacts import content_hash


class ProfileSource(Protocol):
    """Anything that returns the profile of a user or item, and None where it has none; a teacher."""

    def of(self, kind: EntityKind, entity_id: str, snapshot: str = "select") -> str | None: ...


@dataclass(frozen=True)
class Conversation:
    """A dialogue as messages: the prompt, the profile and, with two turns, the question and Yes or No."""

    dialogue: Dialogue
    prompt: list[Message]
    messages: list[Message]


@dataclass
class Conversations:
    """Conversations, the number of prompts that were shortened, and {reason: number of dialogues left out}."""

    found: list[Conversation] = field(default_factory=list)
    trimmed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def question(dialogue: Dialogue, style: Style) -> Message:
    """Return turn 2 of a dialogue: the question whether a user will pick an item."""
    if dialogue.kind == "user":
        return item_question(dialogue.question[0] if dialogue.question else "", style)
    return person_question(dialogue.question, style)


def make_conversations(
    dialogues: Iterable[Dialogue],
    teacher: ProfileSource,
    shape: Shape,
    count: Callable[[list[Message]], int],
    *,
    fold: Fold,
    two_turns: bool = True,
    masking: bool = True,
) -> Conversations:
    """Turn the dialogues of `fold` into conversations; without `masking`, turn 1 also shows the withheld item."""
    result = Conversations()
    for dialogue in dialogues:
        if dialogue.fold != fold:
            continue
        facts = dialogue.facts if masking else dialogue.unmasked
        profile = teacher.of(dialogue.kind, dialogue.entity_id)
        reason = _unusable(profile, silent=has_no_facts(facts))
        if reason or profile is None:
            result.left_out[reason] += 1
            continue
        prompt, trimmed = fit_to_budget(facts, shape, count)
        result.trimmed += trimmed
        messages: list[Message] = [*prompt, {"role": "assistant", "content": profile}]
        if two_turns and dialogue.asks:
            messages += [question(dialogue, shape.style), answer(dialogue.answer)]
        result.found.append(Conversation(dialogue, prompt, messages))
    return result


def _unusable(profile: str | None, *, silent: bool) -> str:
    if not profile:
        return "no_teacher"
    if silent:
        return "nothing_known"
    return "" if grammar.parse(profile).ok else "malformed_teacher"


@dataclass(frozen=True)
class Corpus:
    """Documents that `tiny` is trained on from scratch.

    It reads `background` first, then `dialogues`, whose form it learns. `training_cutoff` says until when they know the
    log (`reclm.llm.models.training_cutoff`).
    """

    background: list[str]
    dialogues: list[str]
    training_cutoff: Mapping[str, Any] = field(default_factory=dict)


def corpus(
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    shape: Shape,
    texts: Iterable[str] = (),
    keyword_profiles: ProfileSource | None = None,
    max_keyword_dialogues: int = 0,
) -> Corpus:
    """Make the documents that `tiny` reads; nothing about a held-out user or item is in them.

    Background is `texts`, the items' own, and turn 1 of at most `max_keyword_dialogues` train dialogues without a
    teacher's profile, answered by `keyword_profiles`: from a teacher of few users alone, the model would not learn to
    answer with words of the prompt. `dialogues` are the train dialogues that the teacher answered.
    """
    background = [cleaned for text in texts if (cleaned := " ".join(grammar.strip_markup(text).split()))]
    documents: list[str] = []
    unanswered: dict[Facts, tuple[Dialogue, str]] = {}
    for dialogue in dialogues:
        if dialogue.fold != "train" or has_no_facts(dialogue.facts):
            continue
        profile = teacher.of(dialogue.kind, dialogue.entity_id)
        if profile and not _unusable(profile, silent=False):
            documents.append(as_document(_conversation_without_tokenizer(dialogue, profile, shape)))
        elif (
            not profile
            and keyword_profiles is not None
            and (keywords := keyword_profiles.of(dialogue.kind, dialogue.entity_id))
        ):
            unanswered.setdefault(dialogue.facts, (replace(dialogue, asks=False), keywords))
    sample = sorted(unanswered.values(), key=lambda pair: content_hash(pair[0].dialogue_id))[:max_keyword_dialogues]
    keyword_documents = [
        as_document(_conversation_without_tokenizer(dialogue, keywords, shape)) for dialogue, keywords in sample
    ]
    return Corpus(background + keyword_documents, documents)


def _conversation_without_tokenizer(dialogue: Dialogue, profile: str, shape: Shape) -> Sequence[Message]:
    """Return a conversation before a tokenizer exists: the budget is counted as one token per word."""
    prompt, _ = fit_to_budget(dialogue.facts, shape, lambda messages: sum(len(m["content"].split()) for m in messages))
    turns: list[Message] = [*prompt, {"role": "assistant", "content": profile}]
    return [*turns, question(dialogue, shape.style), answer(dialogue.answer)] if dialogue.asks else turns


def first_prompts(
    dialogues: Sequence[Dialogue], shape: Shape, count: Callable[[list[Message]], int], *, served: bool = False
) -> list[list[Message]]:
    """Return turn 1 of each dialogue within its budget; with `served`, the prompt of the final profile."""
    return [fit_to_budget(dialogue.served if served else dialogue.facts, shape, count)[0] for dialogue in dialogues]
