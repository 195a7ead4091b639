"""Training of the encoder reward's head: pairs of profiles come in, a model that tells the better one goes out.

The loss is Bradley-Terry's on the pairs and InfoNCE against the other profiles of a batch (see `reclm.llm.reward.encoder`).
Requests and profiles are read once and their texts embedded together before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Kind
from reclm.llm.prompts.parsing import Reading, informed, read_phrases, read_request
from reclm.llm.reward.encoder import AT_ONCE, EncoderReward, Memory, answers_of, memory_of, requests_of
from reclm.llm.reward.pairs import Pair, says_the_same
from reclm.profiles import grammar
from reclm.text.encoder import Encoder, model_name

if TYPE_CHECKING:
    import torch

    from reclm.llm.reward.encoder_head import Head
    from reclm.settings.tree import Settings

SAMPLE = 1000
"""Pairs that the head's starting point and scales are taken from."""
STOPPING_SHARE = 0.1
PATIENCE = 3
MIN_STEPS = 400
LOOKS_PER_EPOCH = 2
CONTRAST = 0.1
WEIGHT_DECAY = 0.1
SPACE_RATE = 0.2
"""How much slower the learned space moves than the weighing of what it shows: it has most of the parameters."""


def train_encoder_reward(
    settings: Settings, pairs: Sequence[Pair], encoder: Encoder | None = None
) -> tuple[EncoderReward, list[dict[str, Any]]]:
    """The head trained on the pairs of the fold `train`, and its curve as rows of (step, metric, value).

    A tenth of their entities is kept aside to stop by. Raises ModelError when there are too few pairs to learn from.
    """
    import torch

    from reclm.llm.reward.encoder_head import Head

    learned, aside = (
        [_lesson(pair) for pair in part]
        for part in _set_aside([pair for pair in pairs if pair.fold == "train"], settings.seed)
    )
    if len(learned) < 2 or not aside:
        raise ModelError(
            f"{len(pairs)} reward pairs are too few to learn from; see that the teacher wrote of train users"
        )
    memory = memory_of(settings, encoder)
    memory.learn(dict.fromkeys(text for lesson in (*aside, *learned) for text in (*_texts(lesson), *_rejected(lesson))))
    generator = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sample = [learned[row] for row in generator.permutation(len(learned))[:SAMPLE].tolist()]
        vectors = memory(sorted({text for lesson in sample for text in _texts(lesson)}))[0]
        head = Head(vectors.shape[1])
    head.start_from(vectors)
    _standardise(head, sample, memory)
    curve = _fit(head, learned, aside, memory, settings, generator)
    reward = EncoderReward(head, memory, model_name(settings.embedding))
    readings = [lesson.reading for lesson in aside]
    scores = np.concatenate(
        [
            reward.score_readings(readings, [getattr(lesson, side) for lesson in aside])
            for side in ("chosen", "rejected")
        ]
    )
    head.shift.fill_(float(scores.mean()))
    head.scale.fill_(max(1e-3, float(scores.std())))
    return reward, curve


@dataclass(frozen=True)
class _Lesson:
    """A pair, read: what the request says, both answers, and what the chosen one says if it is well formed."""

    kind: Kind
    reading: Reading
    chosen: str
    rejected: str
    said: grammar.Profile | None


def _lesson(pair: Pair) -> _Lesson:
    reading = informed(read_request(pair.messages), pair.known)
    return _Lesson(pair.kind, reading, pair.chosen, pair.rejected, grammar.parse(pair.chosen).profile)


def _texts(lesson: _Lesson) -> Iterable[str]:
    said = read_phrases(lesson.chosen)
    return (*lesson.reading.own, *lesson.reading.around, *said.identity, *said.interests)


def _rejected(lesson: _Lesson) -> Iterable[str]:
    said = read_phrases(lesson.rejected)
    return (*said.identity, *said.interests)


def _set_aside(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    entities = sorted({(pair.kind, pair.entity_id) for pair in pairs})
    kept = np.random.default_rng([seed, 7]).permutation(len(entities))[: max(1, round(STOPPING_SHARE * len(entities)))]
    aside = {entities[row] for row in kept.tolist()}
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[(pair.kind, pair.entity_id) in aside].append(pair)
    return parts


def _standardise(head: Head, lessons: Sequence[_Lesson], memory: Memory) -> None:
    import torch

    asked = requests_of([lesson.reading for lesson in lessons], memory)
    with torch.no_grad():
        parts = [
            head.features(asked, answers_of([getattr(lesson, side) for lesson in lessons], memory), paired=True)
            for side in ("chosen", "rejected")
        ]
    head.standardise(torch.cat(parts))


def _fit(
    head: Head,
    learned: Sequence[_Lesson],
    aside: Sequence[_Lesson],
    memory: Memory,
    settings: Settings,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Trains in place, stops when the pairs set aside no longer gain, leaves the best state."""
    import torch

    size = settings.reward.batch_size
    per_epoch = max(1, len(learned) // size)
    steps = max(MIN_STEPS, round(settings.reward.epochs * per_epoch))
    spaces = [*head.pieces.parameters(), *head.identity.parameters(), *head.interests.parameters()]
    weighing = [*head.hidden.parameters(), *head.out.parameters(), *head.direct.parameters()]
    rate = settings.reward.learning_rate
    groups: list[dict[str, Any]] = [{"params": weighing}, {"params": spaces, "lr": SPACE_RATE * rate}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    every = max(MIN_STEPS // 10, per_epoch // LOOKS_PER_EPOCH)
    curve: list[dict[str, Any]] = []
    best, kept, worse, order = np.inf, head.state_dict(), 0, np.zeros(0, dtype=np.int64)
    running = []
    for step in range(1, steps + 1):
        if len(order) < size:
            order = np.concatenate([order, generator.permutation(len(learned))])
        batch, order = [learned[row] for row in order[:size].tolist()], order[size:]
        loss = _loss(head, batch, memory)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        running.append(float(loss.detach()))
        if step % every and step != steps:
            continue
        with torch.no_grad():
            losses = [float(_preference_loss(head, part, memory)) * len(part) for part in _batches(aside)]
        looked = sum(losses) / len(aside)
        curve.append({"step": step, "metric": "loss", "value": float(np.mean(running))})
        curve.append({"step": step, "metric": "validation_loss", "value": looked})
        running = []
        if looked < best:
            best, worse = looked, 0
            kept = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        elif (worse := worse + 1) == PATIENCE:
            break
    head.load_state_dict(kept)
    return curve


def _batches(lessons: Sequence[_Lesson]) -> list[Sequence[_Lesson]]:
    return [lessons[start : start + AT_ONCE] for start in range(0, len(lessons), AT_ONCE)]


def _loss(head: Head, lessons: Sequence[_Lesson], memory: Memory) -> torch.Tensor:
    """Bradley-Terry on the pairs, and the own profile against all other entities' of the batch that say something else."""
    import torch
    from torch.nn import functional

    asked = requests_of([lesson.reading for lesson in lessons], memory)
    chosen = head(asked, answers_of([lesson.chosen for lesson in lessons], memory), paired=False)
    rejected = head(asked, answers_of([lesson.rejected for lesson in lessons], memory), paired=True)
    others = chosen.masked_fill(torch.from_numpy(_alike(lessons)), -torch.inf)
    contrast = functional.cross_entropy(others, torch.arange(len(lessons)))
    return _bradley_terry(chosen.diagonal(), rejected) + CONTRAST * contrast


def _preference_loss(head: Head, lessons: Sequence[_Lesson], memory: Memory) -> torch.Tensor:
    """Bradley-Terry on the pairs alone, which is what stops the training."""
    asked = requests_of([lesson.reading for lesson in lessons], memory)
    answers = ([lesson.chosen for lesson in lessons], [lesson.rejected for lesson in lessons])
    return _bradley_terry(*(head(asked, answers_of(side, memory), paired=True) for side in answers))


def _bradley_terry(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return -functional.logsigmoid(better - worse).mean()


def _alike(lessons: Sequence[_Lesson]) -> NDArray[np.bool_]:
    """(n, n) True where another entity's chosen profile is no negative: it says the same, or is of the other kind."""
    alike = np.zeros((len(lessons), len(lessons)), dtype=bool)
    for row, one in enumerate(lessons):
        for column, other in enumerate(lessons[:row]):
            same = one.said is None or other.said is None or says_the_same(one.said, other.said)
            alike[row, column] = alike[column, row] = same or one.kind != other.kind
    return alike
