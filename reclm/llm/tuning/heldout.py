"""What a language model does for users and items it never saw: held-out dialogues come in, rows of metrics go out.

A profile is asked for as it is written for use, since the teacher's too is one of the whole history; before turn 2 the
withheld item is masked, and the model answers anew. Who has, taken whole, the history that a dialogue of the training showed
is left out. Strictness of form alone means nothing (a model that says the same of everybody is well formed), so that every
similarity stands beside the one to somebody else. Each metric is the mean of one number per entity, with its standard error.

    format                      share of answers that parse.
    own_similarity              cosine of the answer and the entity's own teacher profile, by the sentence encoder.
    other_similarity            mean cosine of the answer and the teacher profiles of the other entities measured whose
                                profile is another text.
    own_minus_other             the difference: what an answer says of this entity and not of everybody.
    distinct, teacher_distinct, prompt_distinct
                                1 / number of entities with this very text, of the answers, of the teacher and of the
                                prompts: who is asked the same answers the same, so that is as distinct as answers can be.
    copy_neighbour, copy_neighbour_minus_other
                                own_similarity and own_minus_other of copying the teacher profile of the nearest neighbour
                                that is learned from; what the teacher says of the held-out is nobody's to copy.
    turn2_accuracy, turn2_auc   of P(Yes) after the model's own profile of the masked history. With a suffix, of a
                                baseline: always_yes; popularity and itemknn, at the threshold that is best on the train
                                dialogues.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from reclm.llm.prompts.corpus import ProfileSource, first_prompts, question
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import NO, YES, Facts, Kind, Message, Shape, UserFacts, is_silent
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import answered, token_counter
from reclm.profiles import grammar
from reclm.profiles.quality import distinctness
from reclm.progress import track
from reclm.text.encoder import Embed, embedder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.settings.tree import Settings

KINDS: tuple[Kind, ...] = ("user", "item")
Floats = NDArray[np.float64]


class Row(TypedDict):
    """One metric of one kind of entity; `error` is the standard error of `value` over `n` entities."""

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
    embed: Embed | None = None,
) -> list[Row]:
    """Every metric of a model, per kind, on at most `tune.held_out_sample` held-out entities of each."""
    embed = embedder(settings) if embed is None else embed
    shape, batch, tune = shape_of(settings), settings.profiles.batch_size, settings.tune
    rows: list[Row] = []
    learned = {kind: {d.entity_id for d in dialogues if (d.kind, d.fold) == (kind, "train")} for kind in KINDS}
    taught = {_picture(d.facts if tune.masking else d.unmasked, shape) for d in dialogues if d.fold == "train"}
    for kind in KINDS:
        chosen = sample(dialogues, teacher, kind, tune.held_out_sample, settings.seed)
        chosen = [dialogue for dialogue in chosen if _picture(dialogue.served, shape) not in taught]
        if len(chosen) < 2:
            continue
        asking = [dialogue for dialogue in chosen if dialogue.asks and tune.turns == "two"]
        served = first_prompts(chosen, shape, token_counter(tokenizer), served=True)
        masked = first_prompts(asking, shape, token_counter(tokenizer))
        written = _answers_of_each(settings, model, tokenizer, served + masked)
        texts, before_question = written[: len(chosen)], written[len(chosen) :]
        alone = write_answers(settings, model, tokenizer, served, structured=False)
        rows += _mean("format_unaided", kind, np.array([float(grammar.parse(text).ok) for text in alone]))
        rows += profile_rows(kind, chosen, texts, teacher, embed, learned[kind])
        rows += _mean("prompt_distinct", kind, distinctness([prompt[-1]["content"] for prompt in served]))
        if len(asking) < 2:
            continue
        asked: list[list[Message]] = [
            [*prompt, {"role": "assistant", "content": text}, question(dialogue, shape.style)]
            for dialogue, prompt, text in zip(asking, masked, before_question, strict=True)
        ]
        probabilities = yes_probabilities(model, tokenizer, asked, batch)
        known = [dialogue for dialogue in dialogues if dialogue.fold == "train" and dialogue.asks]
        rows += turn_two_rows(kind, asking, probabilities, known)
    return rows


def _picture(facts: Facts, shape: Shape) -> Hashable:
    """What a prompt shows of the entity itself, whatever the order."""
    if isinstance(facts, UserFacts):
        return frozenset(facts.history[: shape.history])
    return facts.line, facts.text


def _answers_of_each(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
) -> list[str]:
    """The structured answer to each prompt, in order; equal prompts are answered once."""
    distinct = {str(prompt): prompt for prompt in prompts}
    written = write_answers(settings, model, tokenizer, list(distinct.values()), structured=True)
    answer_to = dict(zip(distinct, written, strict=True))
    return [answer_to[str(prompt)] for prompt in prompts]


def sample(dialogues: Sequence[Dialogue], teacher: ProfileSource, kind: Kind, limit: int, seed: int) -> list[Dialogue]:
    """At most `limit` held-out entities of a kind, drawn by seed, each by its first dialogue as it is served."""
    first: dict[str, Dialogue] = {}
    for dialogue in dialogues:
        if dialogue.kind == kind and dialogue.fold == "held_out" and dialogue.view == 0:
            profile = teacher.of(kind, dialogue.entity_id)
            if not is_silent(dialogue.facts) and grammar.parse(profile).ok:
                first.setdefault(dialogue.entity_id, dialogue)
    found = list(first.values())
    if len(found) <= limit:
        return found
    rows = np.sort(np.random.default_rng(seed).choice(len(found), limit, replace=False))
    return [found[row] for row in rows]


def decoding_settings(settings: Settings) -> dict[str, Any]:
    """The settings that held-out answers, as they are served, depend on besides those of the language model."""
    return settings.profiles.model_dump(include={"temperature", "retries"})


def profile_rows(
    kind: Kind,
    dialogues: Sequence[Dialogue],
    texts: Sequence[str],
    teacher: ProfileSource,
    embed: Embed,
    learned: Collection[str] = (),
) -> list[Row]:
    """The metrics of what was written: `texts[i]` for the entity of `dialogues[i]`. `learned` ids may be copied from."""
    own_texts = [teacher.of(kind, dialogue.entity_id) or "" for dialogue in dialogues]
    own = embed(own_texts)
    other = np.array(own_texts)[:, None] != np.array(own_texts)[None, :]
    own_similarity, other_similarity = _similarities(embed(texts), own, other, np.arange(len(dialogues)))
    copies = [
        next(filter(None, (teacher.of(kind, n) for n in dialogue.neighbour_ids if n in learned)), "")
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
    """(n,) cosine of written[i] with own[rows[i]], and its mean with those that are of another; NaN without any."""
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
    kind: Kind, dialogues: Sequence[Dialogue], probabilities: Floats, train: Sequence[Dialogue]
) -> list[Row]:
    """Accuracy and AUC of P(Yes), (n,), beside those of the baselines, whose thresholds come from `train`."""
    answers = np.array([dialogue.answer for dialogue in dialogues], dtype=bool)
    known = [dialogue for dialogue in train if dialogue.kind == kind]
    scores: dict[str, tuple[Floats, float]] = {
        "": (probabilities, 0.5),
        "_always_yes": (np.ones(len(answers)), 0.5),
        "_popularity": _baseline(dialogues, known, lambda dialogue: dialogue.popularity),
        "_itemknn": _baseline(dialogues, known, lambda dialogue: dialogue.knn_score),
    }
    rows: list[Row] = []
    for name, (values, threshold) in scores.items():
        right = ((values > threshold) == answers).astype(np.float64)
        rows += _mean(f"turn2_accuracy{name}", kind, right)
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
    """The threshold above which saying Yes is right most often; the lowest such."""
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
    """Area under the ROC curve and its standard error (Hanley and McNeil 1982); NaN when all answers are alike."""
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
    """The model's greedy answer to each prompt, in order, by itself; or `structured`, and malformed ones asked for again
    by sampling, as profiles are served."""
    from reclm.llm.engines.answers import RETRY_TEMPERATURE
    from reclm.llm.engines.transformers import TransformersEngine

    engine = TransformersEngine(settings, "", model=model, tokenizer=tokenizer)
    texts = [""] * len(prompts)
    asked = list(range(len(prompts)))
    for attempt in range(1 + settings.profiles.retries * structured):
        answers = engine.answer(
            [prompts[row] for row in asked],
            kinds=["user"] * len(asked),
            temperature=max(settings.profiles.temperature, RETRY_TEMPERATURE) if attempt else 0.0,
            seed=settings.seed + attempt,
            max_tokens=settings.llm.max_profile_tokens,
            structured=structured,
        )
        for row, answer in track(answers, "answering", total=len(asked)):
            texts[asked[row]] = answer.text
        asked = [row for row in asked if not grammar.parse(texts[row]).ok]
        if not asked:
            break
    return texts


def yes_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Sequence[Message]],
    batch_size: int,
) -> Floats:
    """(n,), P(Yes) / (P(Yes) + P(No)) at the place where each conversation's answer begins to differ."""
    import torch

    prefixes, pairs = [], []
    for messages in asked:
        yes, no = (
            tokenizer(answered(tokenizer, messages, word)[1], add_special_tokens=False)["input_ids"]
            for word in (YES, NO)
        )
        at = next(place for place, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        prefixes.append(list(yes[:at]))
        pairs.append((yes[at], no[at]))
    probabilities = np.zeros(len(asked))
    for rows in _batches([len(ids) for ids in prefixes], batch_size):
        inputs = _padded(tokenizer, [prefixes[row] for row in rows], model.device)
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        both = logits.gather(1, torch.tensor([pairs[row] for row in rows], device=logits.device))
        probabilities[rows] = both.softmax(dim=1)[:, 0].cpu().numpy()
    return probabilities


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    order = cast(list[int], np.argsort(lengths, kind="stable").tolist())
    return [order[start : start + size] for start in range(0, len(order), size)]


def _padded(tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], device: Any) -> dict[str, Any]:
    """Left-padded batch with attention and positions, so that padding changes no answer."""
    import torch

    width = max(map(len, ids))
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
