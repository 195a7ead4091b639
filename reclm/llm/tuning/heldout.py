"""Measure a language model on held-out dialogues.

In: dialogues it was not trained on. Out: rows of metrics. Profiles are requested as they are for serving, from the
whole history, because the teacher's are too. Before turn 2 the withheld item is masked and the model answers again. An
entity is left out when its whole history equals one that a train dialogue showed. Well-formed answers alone prove
little (a model that writes the same profile for everybody is well formed), so every similarity is reported beside the
similarity to other entities. Each metric is the mean of one number per entity, with its standard error. The task is
RecLM's (arXiv 2412.19302, section 3.2).

    format                      share of answers that parse, by structured decoding.
    format_unaided              the same without structured decoding.
    own_similarity              cosine of the answer and the entity's own teacher profile, by the sentence encoder.
    other_similarity            mean cosine of the answer and the teacher profiles of the other measured entities,
                                those with the same profile text left out.
    own_minus_other             the difference: what an answer says about this entity and not about everybody.
    distinct, teacher_distinct, prompt_distinct
                                1 / number of entities with this very text, of the answers, of the teacher and of the
                                prompts. Equal prompts get equal answers, so prompt_distinct bounds distinct.
    copy_neighbour, copy_neighbour_minus_other
                                own_similarity and own_minus_other of a baseline that copies the teacher profile of the
                                nearest neighbour in the train fold.
    turn2_accuracy, turn2_auc   of P(Yes) after the model's own profile of the masked history. With a suffix, of a
                                baseline: always_yes; popularity and itemknn, at the threshold that is best on the train
                                dialogues.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import ENTITY_KINDS, EntityKind
from reclm.llm.models.batches import batches_by_length, pad
from reclm.llm.prompts.corpus import ProfileSource, first_prompts, question
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import NO, YES, Facts, Message, Shape, UserFacts, has_no_facts
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import prompt_and_answer, token_counter
from reclm.profiles import grammar
from reclm.profiles.quality import distinctness
from reclm.progress import track
from reclm.text.encoder import CachingEncoder, caching_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.settings.tree import Settings

Floats = NDArray[np.float64]


class Row(TypedDict):
    """A metric of one kind of entity; `error` is the standard error of `value` over `n` entities."""

    metric: str
    kind: str
    value: float
    error: float
    n: int


def measure(
    settings: Settings,
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    embed: CachingEncoder | None = None,
) -> list[Row]:
    """Measure a model on at most `tune.held_out_sample` held-out users and as many items; every metric, per kind."""
    embed = caching_encoder(settings) if embed is None else embed
    shape, batch, tune = shape_of(settings), settings.profiles.batch_size, settings.tune
    rows: list[Row] = []
    train_ids = {kind: {d.entity_id for d in dialogues if (d.kind, d.fold) == (kind, "train")} for kind in ENTITY_KINDS}
    shown_in_training = {
        _own_facts(d.facts if tune.masking else d.unmasked, shape) for d in dialogues if d.fold == "train"
    }
    for kind in ENTITY_KINDS:
        held_out = sample(dialogues, teacher, kind, tune.held_out_sample, settings.seed)
        held_out = [d for d in held_out if _own_facts(d.served, shape) not in shown_in_training]
        if len(held_out) < 2:
            continue
        with_question = [dialogue for dialogue in held_out if dialogue.asks and tune.turns == "two"]
        served = first_prompts(held_out, shape, token_counter(tokenizer), served=True)
        masked = first_prompts(with_question, shape, token_counter(tokenizer))
        answers = _answer_distinct(settings, model, tokenizer, served + masked)
        texts, before_question = answers[: len(held_out)], answers[len(held_out) :]
        unaided = write_answers(settings, model, tokenizer, served, structured=False)
        rows += _mean("format_unaided", kind, np.array([float(grammar.parse(text).ok) for text in unaided]))
        rows += profile_rows(kind, held_out, texts, teacher, embed, train_ids[kind])
        rows += _mean("prompt_distinct", kind, distinctness([prompt[-1]["content"] for prompt in served]))
        if len(with_question) < 2:
            continue
        conversations: list[list[Message]] = [
            [*prompt, {"role": "assistant", "content": text}, question(dialogue, shape.style)]
            for dialogue, prompt, text in zip(with_question, masked, before_question, strict=True)
        ]
        probabilities = yes_probabilities(model, tokenizer, conversations, batch)
        train = [dialogue for dialogue in dialogues if dialogue.fold == "train" and dialogue.asks]
        rows += turn_two_rows(kind, with_question, probabilities, train)
    return rows


def _own_facts(facts: Facts, shape: Shape) -> Hashable:
    """What a prompt shows about the entity itself, in any order."""
    if isinstance(facts, UserFacts):
        return frozenset(facts.history[: shape.history])
    return facts.line, facts.text


def _answer_distinct(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
) -> list[str]:
    """The structured answer to each prompt, in order; equal prompts are answered once."""
    distinct = {str(prompt): prompt for prompt in prompts}
    answers = write_answers(settings, model, tokenizer, list(distinct.values()), structured=True)
    answer_to = dict(zip(distinct, answers, strict=True))
    return [answer_to[str(prompt)] for prompt in prompts]


def sample(
    dialogues: Sequence[Dialogue], teacher: ProfileSource, kind: EntityKind, limit: int, seed: int
) -> list[Dialogue]:
    """Draw at most `limit` held-out entities of a kind by seed; return the first dialogue of each."""
    first: dict[str, Dialogue] = {}
    for dialogue in dialogues:
        if dialogue.kind == kind and dialogue.fold == "held_out" and dialogue.view == 0:
            profile = teacher.of(kind, dialogue.entity_id)
            if not has_no_facts(dialogue.facts) and grammar.parse(profile).ok:
                first.setdefault(dialogue.entity_id, dialogue)
    found = list(first.values())
    if len(found) <= limit:
        return found
    rows = np.sort(np.random.default_rng(seed).choice(len(found), limit, replace=False))
    return [found[row] for row in rows]


def decoding_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings, besides those of the language model, that answers written as for serving depend on."""
    return settings.profiles.model_dump(include={"temperature", "retries"})


def profile_rows(
    kind: EntityKind,
    dialogues: Sequence[Dialogue],
    texts: Sequence[str],
    teacher: ProfileSource,
    embed: CachingEncoder,
    train_ids: Collection[str] = (),
) -> list[Row]:
    """Compute the metrics of written profiles, `texts[i]` for the entity of `dialogues[i]`.

    The baseline that copies a neighbour's profile copies from neighbours in `train_ids`.
    """
    own_texts = [teacher.of(kind, dialogue.entity_id) or "" for dialogue in dialogues]
    own = embed(own_texts)
    other = np.array(own_texts)[:, None] != np.array(own_texts)[None, :]
    own_similarity, other_similarity = _similarities(embed(texts), own, other, np.arange(len(dialogues)))
    copies = [
        next(filter(None, (teacher.of(kind, n) for n in dialogue.neighbour_ids if n in train_ids)), "")
        for dialogue in dialogues
    ]
    copied = np.flatnonzero(np.array([bool(text) for text in copies], dtype=bool))
    rows = {
        "format": np.array([grammar.parse(text).ok for text in texts], dtype=np.float64),
        "own_similarity": own_similarity,
        "other_similarity": other_similarity,
        "own_minus_other": own_similarity - other_similarity,
        "distinct": distinctness(texts),
        "teacher_distinct": distinctness(own_texts),
    }
    if len(copied):
        near, far = _similarities(embed([copies[row] for row in copied]), own, other, copied)
        rows |= {"copy_neighbour": near, "copy_neighbour_minus_other": near - far}
    return [row for name, values in rows.items() for row in _mean(name, kind, values)]


def _similarities(
    written: NDArray[np.float32], own: NDArray[np.float32], other: NDArray[np.bool_], rows: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """(n,) cosine of written[i] with own[rows[i]], and its mean with the others'; NaN when there are no others."""
    cosines = (written @ own.T).astype(np.float64)
    others = other[rows]
    counts = others.sum(axis=1)
    means = np.divide((cosines * others).sum(axis=1), counts, out=np.full(len(rows), np.nan), where=counts > 0)
    return cosines[np.arange(len(rows)), rows], means


def _mean(metric: str, kind: str, values: Floats) -> list[Row]:
    values = values[~np.isnan(values)]
    if not len(values):
        return []
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return [{"metric": metric, "kind": kind, "value": float(values.mean()), "error": error, "n": len(values)}]


def turn_two_rows(
    kind: EntityKind, dialogues: Sequence[Dialogue], probabilities: Floats, train: Sequence[Dialogue]
) -> list[Row]:
    """Compute accuracy and AUC of P(Yes), (n,), and those of the baselines, whose thresholds come from `train`."""
    answers = np.array([dialogue.answer for dialogue in dialogues], dtype=bool)
    of_kind = [dialogue for dialogue in train if dialogue.kind == kind]
    scores: dict[str, tuple[Floats, float]] = {
        "": (probabilities, 0.5),
        "_always_yes": (np.ones(len(answers)), 0.5),
        "_popularity": _baseline(dialogues, of_kind, lambda dialogue: dialogue.popularity),
        "_itemknn": _baseline(dialogues, of_kind, lambda dialogue: dialogue.knn_score),
    }
    rows: list[Row] = []
    for name, (values, threshold) in scores.items():
        correct = ((values > threshold) == answers).astype(np.float64)
        rows += _mean(f"turn2_accuracy{name}", kind, correct)
        area, error = auc(values, answers)
        if not np.isnan(area):
            rows.append({"metric": f"turn2_auc{name}", "kind": kind, "value": area, "error": error, "n": len(answers)})
    return rows


def _baseline(
    dialogues: Sequence[Dialogue], train: Sequence[Dialogue], score: Callable[[Dialogue], float]
) -> tuple[Floats, float]:
    values = np.array([score(dialogue) for dialogue in dialogues], dtype=np.float64)
    return values, best_threshold(
        np.array([score(dialogue) for dialogue in train], dtype=np.float64),
        np.array([dialogue.answer for dialogue in train], dtype=bool),
    )


def best_threshold(scores: Floats, answers: NDArray[np.bool_]) -> float:
    """Return the threshold above which the answer Yes is right most often; the lowest of equals."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], answers[order]
    # right[i]: the i lowest are answered No, the others Yes
    right = np.concatenate(([0], np.cumsum(~truth))) + np.concatenate((np.cumsum(truth[::-1])[::-1], [0]))
    allowed = np.concatenate(([True], ranked[1:] > ranked[:-1], [True]))
    cut = int(np.argmax(np.where(allowed, right, -1)))
    return float(-np.inf if cut == 0 else ranked[cut - 1])


def auc(scores: Floats, answers: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error (Hanley and McNeil 1982); NaN for one class."""
    from scipy.stats import rankdata

    yes, no = int(answers.sum()), int((~answers).sum())
    if not yes or not no:
        return float("nan"), float("nan")
    area = float((rankdata(scores)[answers].sum() - yes * (yes + 1) / 2) / (yes * no))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (yes - 1) * (first - area**2) + (no - 1) * (second - area**2)
    return area, float(np.sqrt(max(0.0, variance) / (yes * no)))


def write_answers(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    *,
    structured: bool,
) -> list[str]:
    """Write the model's greedy answer to each prompt, in order.

    With `structured`, answers are written as for serving: by structured decoding, malformed ones again by sampling.
    """
    from reclm.llm.engines.answers import RETRY_TEMPERATURE
    from reclm.llm.engines.transformers import TransformersEngine

    engine = TransformersEngine(settings, "", model=model, tokenizer=tokenizer)
    texts = [""] * len(prompts)
    rows = list(range(len(prompts)))
    for attempt in range(1 + settings.profiles.retries * structured):
        answers = engine.answer(
            [prompts[row] for row in rows],
            kinds=["user"] * len(rows),
            temperature=max(settings.profiles.temperature, RETRY_TEMPERATURE) if attempt else 0.0,
            seed=settings.seed + attempt,
            max_tokens=settings.llm.max_profile_tokens,
            structured=structured,
        )
        for number, answer in track(answers, "answering", total=len(rows)):
            texts[rows[number]] = answer.text
        rows = [row for row in rows if not grammar.parse(texts[row]).ok]
        if not rows:
            break
    return texts


def yes_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    batch_size: int,
) -> Floats:
    """Return P(Yes) / (P(Yes) + P(No)), (n,), at the token of each conversation's answer where Yes and No differ."""
    import torch

    prefixes, pairs = [], []
    for messages in conversations:
        yes, no = (
            tokenizer(prompt_and_answer(tokenizer, messages, word)[1], add_special_tokens=False)["input_ids"]
            for word in (YES, NO)
        )
        at = next(number for number, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        prefixes.append(list(yes[:at]))
        pairs.append((yes[at], no[at]))
    probabilities = np.zeros(len(conversations))
    for rows in batches_by_length([len(ids) for ids in prefixes], batch_size):
        batch = pad([prefixes[row] for row in rows], tokenizer.pad_token_id, side="left", device=model.device)
        with torch.inference_mode():
            output = model(**batch.inputs(), position_ids=batch.position_ids(), use_cache=False, logits_to_keep=1)
            logits = output.logits[:, -1].float()
        both = logits.gather(1, torch.tensor([pairs[row] for row in rows], device=logits.device))
        probabilities[rows] = both.softmax(dim=1)[:, 0].cpu().numpy()
    return probabilities
