"""Train the head of the encoder reward.

In: pairs of profiles. Out: a model that recognises the better one. The loss is Bradley-Terry on the pairs plus InfoNCE
against the other profiles of a batch (see `reclm.llm.reward.encoder`). Requests and profiles are parsed once and their
texts embedded together before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.prompts.parsing import Reading, read_phrases, read_request, with_known_facts
from reclm.llm.reward.encoder import SCORING_BATCH, EncoderReward, TextCache, embed_profiles, embed_requests, text_cache
from reclm.llm.reward.pairs import Pair, says_the_same
from reclm.profiles import grammar
from reclm.text.encoder import Encoder, model_name

if TYPE_CHECKING:
    import torch

    from reclm.llm.reward.encoder_head import Head
    from reclm.settings.tree import Settings

SAMPLE = 1000
"""Pairs that the head's starting point and the scales of its features are taken from."""
STOPPING_SHARE = 0.1
"""Share of train entities whose pairs are kept for early stopping."""
PATIENCE = 3
"""Validations in a row without a lower loss after which the training stops."""
MIN_STEPS = 400
VALIDATIONS_PER_EPOCH = 2
CONTRAST = 0.1
"""Weight of the contrast in the loss."""
WEIGHT_DECAY = 0.1
SPACE_RATE = 0.2
"""Learning rate of the learned space, which has most of the parameters, as a share of the other layers' rate."""


def train_encoder_reward(
    settings: Settings, pairs: Sequence[Pair], encoder: Encoder | None = None
) -> tuple[EncoderReward, list[dict[str, Any]]]:
    """Train the head on the pairs of the fold `train`; return the model and its curve as rows of (step, metric, value).

    The pairs of a tenth of their entities are kept for early stopping. Raises ModelError when there are too few pairs.
    """
    import torch

    from reclm.llm.reward.encoder_head import Head

    train, stopping = (
        [_parse(pair) for pair in part]
        for part in _split([pair for pair in pairs if pair.fold == "train"], settings.seed)
    )
    if len(train) < 2 or not stopping:
        raise ModelError(
            f"{len(pairs)} reward pairs are too few to learn from: the teacher wrote too few profiles of train users; "
            "bring a longer log"
        )
    cache = text_cache(settings, encoder)
    cache.fill(dict.fromkeys(text for pair in (*stopping, *train) for text in (*_texts(pair), *_rejected_texts(pair))))
    generator = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sample = [train[row] for row in generator.permutation(len(train))[:SAMPLE].tolist()]
        vectors = cache(sorted({text for pair in sample for text in _texts(pair)}))[0]
        head = Head(vectors.shape[1])
    head.start_from(vectors)
    _standardise(head, sample, cache)
    curve = _fit(head, train, stopping, cache, settings, generator)
    reward = EncoderReward(head, cache, model_name(settings.embedding))
    readings = [pair.reading for pair in stopping]
    scores = np.concatenate(
        [reward.score_readings(readings, [getattr(pair, side) for pair in stopping]) for side in ("chosen", "rejected")]
    )
    head.shift.fill_(float(scores.mean()))
    head.scale.fill_(max(1e-3, float(scores.std())))
    return reward, curve


@dataclass(frozen=True)
class _ParsedPair:
    """A pair with its request parsed, and its chosen profile parsed when that is well formed."""

    kind: EntityKind
    reading: Reading
    chosen: str
    rejected: str
    chosen_profile: grammar.Profile | None


def _parse(pair: Pair) -> _ParsedPair:
    reading = with_known_facts(read_request(pair.messages), pair.known)
    return _ParsedPair(pair.kind, reading, pair.chosen, pair.rejected, grammar.parse(pair.chosen).profile)


def _texts(pair: _ParsedPair) -> Iterable[str]:
    phrases = read_phrases(pair.chosen)
    return (*pair.reading.own, *pair.reading.neighbours, *phrases.identity, *phrases.interests)


def _rejected_texts(pair: _ParsedPair) -> Iterable[str]:
    phrases = read_phrases(pair.rejected)
    return (*phrases.identity, *phrases.interests)


def _split(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Train pairs and stopping pairs, of different entities."""
    entities = sorted({(pair.kind, pair.entity_id) for pair in pairs})
    drawn = np.random.default_rng([seed, 7]).permutation(len(entities))[: max(1, round(STOPPING_SHARE * len(entities)))]
    stopping = {entities[row] for row in drawn.tolist()}
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[(pair.kind, pair.entity_id) in stopping].append(pair)
    return parts


def _standardise(head: Head, pairs: Sequence[_ParsedPair], cache: TextCache) -> None:
    import torch

    requests = embed_requests([pair.reading for pair in pairs], cache)
    with torch.no_grad():
        parts = [
            head.features(requests, embed_profiles([getattr(pair, side) for pair in pairs], cache), paired=True)
            for side in ("chosen", "rejected")
        ]
    head.standardise(torch.cat(parts))


def _fit(
    head: Head,
    train: Sequence[_ParsedPair],
    stopping: Sequence[_ParsedPair],
    cache: TextCache,
    settings: Settings,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Train the head in place, stop when the loss on the stopping pairs no longer falls, and restore the best state."""
    import torch

    size = settings.reward.batch_size
    per_epoch = max(1, len(train) // size)
    steps = max(MIN_STEPS, round(settings.reward.epochs * per_epoch))
    spaces = [*head.pieces.parameters(), *head.identity.parameters(), *head.interests.parameters()]
    weights = [*head.hidden.parameters(), *head.out.parameters(), *head.direct.parameters()]
    rate = settings.reward.learning_rate
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": spaces, "lr": SPACE_RATE * rate}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    every = max(MIN_STEPS // 10, per_epoch // VALIDATIONS_PER_EPOCH)
    curve: list[dict[str, Any]] = []
    best, best_state, failures, order = np.inf, head.state_dict(), 0, np.zeros(0, dtype=np.int64)
    running = []
    for step in range(1, steps + 1):
        if len(order) < size:
            order = np.concatenate([order, generator.permutation(len(train))])
        batch, order = [train[row] for row in order[:size].tolist()], order[size:]
        loss = _loss(head, batch, cache)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        running.append(float(loss.detach()))
        if step % every and step != steps:
            continue
        with torch.no_grad():
            losses = [float(_preference_loss(head, part, cache)) * len(part) for part in _batches(stopping)]
        validation_loss = sum(losses) / len(stopping)
        curve.append({"step": step, "metric": "loss", "value": float(np.mean(running))})
        curve.append({"step": step, "metric": "validation_loss", "value": validation_loss})
        running = []
        if validation_loss < best:
            best, failures = validation_loss, 0
            best_state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        elif (failures := failures + 1) == PATIENCE:
            break
    head.load_state_dict(best_state)
    return curve


def _batches(pairs: Sequence[_ParsedPair]) -> list[Sequence[_ParsedPair]]:
    return [pairs[start : start + SCORING_BATCH] for start in range(0, len(pairs), SCORING_BATCH)]


def _loss(head: Head, pairs: Sequence[_ParsedPair], cache: TextCache) -> torch.Tensor:
    """Bradley-Terry on the pairs, plus the contrast of own profiles with those of other entities of the batch."""
    import torch
    from torch.nn import functional

    requests = embed_requests([pair.reading for pair in pairs], cache)
    chosen = head(requests, embed_profiles([pair.chosen for pair in pairs], cache), paired=False)
    rejected = head(requests, embed_profiles([pair.rejected for pair in pairs], cache), paired=True)
    others = chosen.masked_fill(torch.from_numpy(_excluded(pairs)), -torch.inf)
    contrast = functional.cross_entropy(others, torch.arange(len(pairs)))
    return _bradley_terry(chosen.diagonal(), rejected) + CONTRAST * contrast


def _preference_loss(head: Head, pairs: Sequence[_ParsedPair], cache: TextCache) -> torch.Tensor:
    """Bradley-Terry on the pairs alone, which early stopping uses."""
    requests = embed_requests([pair.reading for pair in pairs], cache)
    answers = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    return _bradley_terry(*(head(requests, embed_profiles(side, cache), paired=True) for side in answers))


def _bradley_terry(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return -functional.logsigmoid(better - worse).mean()


def _excluded(pairs: Sequence[_ParsedPair]) -> NDArray[np.bool_]:
    """(n, n) True where another entity's chosen profile is not a negative: it says the same, or is of another kind."""
    excluded = np.zeros((len(pairs), len(pairs)), dtype=bool)
    for row, one in enumerate(pairs):
        for column, other in enumerate(pairs[:row]):
            same = _same_profile(one.chosen_profile, other.chosen_profile)
            excluded[row, column] = excluded[column, row] = same or one.kind != other.kind
    return excluded


def _same_profile(one: grammar.Profile | None, other: grammar.Profile | None) -> bool:
    return one is None or other is None or says_the_same(one, other)
