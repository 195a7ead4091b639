"""Dialogues as chat messages: a dialogue and its teacher's profile come in, what the model reads and answers goes out.

Turn 1 is fitted to its budget of tokens and answered by the teacher's profile; turn 2 asks about the withheld item (RecLM,
arXiv 2412.19302, section 3.2). What cannot be learned from is counted, never patched: no teacher, a profile that does
not parse, nothing known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reclm.llm.models.tiny import as_document
from reclm.llm.prompts.dialogues import Dialogue, Fold
from reclm.llm.prompts.messages import (
    Facts,
    Kind,
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
    """What is asked of a teacher here: the profile of an entity, None when it wrote none."""

    def of(self, kind: Kind, entity_id: str, snapshot: str = "select") -> str | None: ...


@dataclass(frozen=True)
class Conversation:
    """A dialogue as messages: a prompt, the profile, and with two turns the question and Yes or No."""

    dialogue: Dialogue
    prompt: list[Message]
    messages: list[Message]


@dataclass
class Conversations:
    """The conversations of some dialogues, how many prompts were trimmed to the budget, and why others were left out."""

    found: list[Conversation] = field(default_factory=list)
    trimmed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def question(dialogue: Dialogue, style: Style) -> Message:
    """Turn 2 of a dialogue."""
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
    """The dialogues of `fold` as conversations within `shape`; without `masking` turn 1 shows the withheld item too."""
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
    """Documents that `tiny` is trained on from scratch: first `background`, then the `dialogues`, whose form
    it is to learn; `training_cutoff` tells until when they know the log (`reclm.llm.models.training_cutoff`)."""

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
    """Make the documents that `tiny` reads. Background is `texts` (items' own, cleaned) and turn 1 of at most `max_keyword_dialogues` train dialogues that the teacher says
    nothing of, answered by `keyword_profiles`: a teacher of few leaves it unlearned that an answer is made of the prompt's own
    words. `dialogues` are the conversations of the train dialogues whose entities the teacher wrote of. Nothing that was said
    of a held-out entity, or is shown of a held-out user, is in either.
    """
    background = [cleaned for text in texts if (cleaned := " ".join(grammar.strip_markup(text).split()))]
    documents: list[str] = []
    untold: dict[Facts, tuple[Dialogue, str]] = {}
    for dialogue in dialogues:
        if dialogue.fold != "train" or has_no_facts(dialogue.facts):
            continue
        profile = teacher.of(dialogue.kind, dialogue.entity_id)
        if profile and not _unusable(profile, silent=False):
            documents.append(as_document(_uncounted(dialogue, profile, shape)))
        elif (
            not profile
            and keyword_profiles is not None
            and (said := keyword_profiles.of(dialogue.kind, dialogue.entity_id))
        ):
            untold.setdefault(dialogue.facts, (replace(dialogue, asks=False), said))
    drawn = sorted(untold.values(), key=lambda pair: content_hash(pair[0].dialogue_id))[:max_keyword_dialogues]
    keyword_documents = [as_document(_uncounted(dialogue, said, shape)) for dialogue, said in drawn]
    return Corpus(background + keyword_documents, documents)


def _uncounted(dialogue: Dialogue, profile: str, shape: Shape) -> Sequence[Message]:
    """The conversation before there is a tokenizer to count with; what is too long is trimmed at about a token a word."""
    prompt, _ = fit_to_budget(dialogue.facts, shape, lambda messages: sum(len(m["content"].split()) for m in messages))
    turns: list[Message] = [*prompt, {"role": "assistant", "content": profile}]
    return [*turns, question(dialogue, shape.style), answer(dialogue.answer)] if dialogue.asks else turns


def first_prompts(
    dialogues: Sequence[Dialogue], shape: Shape, count: Callable[[list[Message]], int], *, served: bool = False
) -> list[list[Message]]:
    """Turn 1 of each dialogue, within its budget; `served`: the prompt that its profile is written from for use."""
    return [fit_to_budget(dialogue.served if served else dialogue.facts, shape, count)[0] for dialogue in dialogues]
