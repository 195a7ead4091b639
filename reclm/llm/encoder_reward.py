"""The default reward model: a frozen sentence encoder reads request and profile, a small trained head judges.

Why an encoder and not a small causal model: RecLM's reward model (arXiv 2412.19302, section 3.3) is a 7B model that knows
what words mean. A causal model of a million parameters, tuned on the same pairs, learned the form alone: it told a
neighbour's profile from the own one at chance (0.55), and refinement against it proves nothing. A sentence encoder of 22
million parameters brings the meaning along and costs less to run; what is learned is how requests and profiles of this
world meet (`reclm.llm.encoder_head`), by Bradley-Terry loss on the pairs and a contrast with the other profiles of a batch
(InfoNCE, van den Oord et al. 2018, arXiv 1807.03748), which is what the neighbour kind needs. Only pieces and phrases are
embedded, never whole prompts, and remembered: they recur, so that a batch of samples is scored in milliseconds.
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.pairs import Pair, says_the_same
from reclm.llm.prompts import Kind, Message
from reclm.llm.reading import Phrases, Reading, Splitter, informed, read_phrases, read_request
from reclm.profiles import grammar
from reclm.profiles.embed import Encoder, embed_texts, load_encoder, model_name
from reclm.profiles.terms import words_of
from reclm.workspace import read_json, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from reclm.llm.encoder_head import Answers, Head, Requests, Side
    from reclm.settings import Settings

HEAD_FILE, CONFIG_FILE = "head.safetensors", "config.json"
BUCKETS = 512
REMEMBERED = 40_000
AT_ONCE = 256
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


class Memory:
    """Vectors and words of texts, the latest REMEMBERED of them kept. Many at once are embedded faster than a few at a time."""

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._known: OrderedDict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n, dim) unit vectors, and (n, BUCKETS) with 1 where a word of the text falls."""
        self.learn(texts)
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return np.stack([vector for vector, _ in found]), np.stack([words for _, words in found])

    def learn(self, texts: Iterable[str]) -> None:
        """Embeds those of `texts` that are new."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vectors = embed_texts(self._encoder, new, self._batch_size)
        self._known.update((text, (vector, _words(text))) for text, vector in zip(new, vectors, strict=True))


def _words(text: str) -> NDArray[np.float32]:
    row = np.zeros(BUCKETS, dtype=np.float32)
    for word in words_of(text):
        row[zlib.crc32(word.removesuffix("s").encode()) % BUCKETS] = 1
    return row


class EncoderReward:
    """A reward model: `score` for messages and profiles, `as_module` for TRL's PPOTrainer, `save` for later."""

    def __init__(self, head: Head, memory: Memory, encoder: str) -> None:
        self.head, self._memory, self._encoder = head.eval(), memory, encoder
        self._known: dict[Reading, Reading] = {}

    def inform(self, requests: Sequence[list[Message]], known: Sequence[Sequence[str]]) -> None:
        """Lets the judge know more of whom request i is about than the request shows: the lines `known[i]`."""
        for messages, lines in zip(requests, known, strict=True):
            reading = read_request(messages)
            self._known[reading] = informed(reading, lines)

    def score(self, requests: Sequence[list[Message]], profiles: Sequence[str]) -> NDArray[np.float32]:
        """(n,) how good profile i is as the answer to request i; over the pairs it was made from it has variance 1."""
        return self.score_readings([read_request(messages) for messages in requests], profiles)

    def score_readings(self, readings: Sequence[Reading], profiles: Sequence[str]) -> NDArray[np.float32]:
        import torch

        readings = [self._known.get(reading, reading) for reading in readings]
        parts = []
        for start in range(0, len(readings), AT_ONCE):
            batch = slice(start, start + AT_ONCE)
            with torch.inference_mode():
                asked = requests_of(readings[batch], self._memory)
                answered = answers_of(profiles[batch], self._memory)
                parts.append(self.head(asked, answered, paired=True).numpy())
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def as_module(self, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
        return judging_module(self.score_readings, tokenizer)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, folder / HEAD_FILE)
        config = {"encoder": self._encoder, "dim": self.head.pieces.in_features, "buckets": BUCKETS}
        write_json(folder / CONFIG_FILE, config)


def load_encoder_reward(settings: Settings, folder: Path, encoder: Encoder | None = None) -> EncoderReward:
    """The reward model in `folder`. Raises ModelError when it was trained on another encoder than the settings name."""
    from safetensors.torch import load_file

    from reclm.llm.encoder_head import Head

    try:
        config = read_json(folder / CONFIG_FILE)
        tensors = load_file(folder / HEAD_FILE)
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder} holds no reward model that can be read ({error}); run `reclm reward`") from None
    name = model_name(settings.embedding)
    if config["encoder"] != name or config["buckets"] != BUCKETS:
        raise ModelError(f"the reward model reads by {config['encoder']}, the settings say {name}; run `reclm reward`")
    head = Head(config["dim"])
    head.load_state_dict(tensors)
    return EncoderReward(head, _memory(settings, encoder), name)


def _memory(settings: Settings, encoder: Encoder | None) -> Memory:
    return Memory(load_encoder(settings) if encoder is None else encoder, settings.embedding.batch_size)


def requests_of(readings: Sequence[Reading], memory: Memory) -> Requests:
    import torch

    from reclm.llm.encoder_head import Requests

    counts = [[len(r.own) / 4, len(r.around) / 8, float(r.kind == "item")] for r in readings]
    own = _side([reading.own for reading in readings], memory)
    return Requests(own, _side([reading.around for reading in readings], memory), torch.tensor(counts))


def answers_of(profiles: Sequence[str], memory: Memory) -> Answers:
    import torch

    from reclm.llm.encoder_head import Answers

    phrases, form = zip(*map(_understood, profiles), strict=True)
    identity = _side([said.identity for said in phrases], memory)
    return Answers(identity, _side([said.interests for said in phrases], memory), torch.tensor(form))


@lru_cache(REMEMBERED)
def _understood(profile: str) -> tuple[Phrases, tuple[float, ...]]:
    """The phrases of a profile, and its form."""
    said = read_phrases(profile)
    return said, tuple(_form(profile, said))


def _side(texts: Sequence[Sequence[str]], memory: Memory) -> Side:
    import torch

    from reclm.llm.encoder_head import Side

    width = max(1, max(map(len, texts), default=1))
    distinct = ["", *dict.fromkeys(text for row in texts for text in row)]
    vectors, words = memory(distinct)
    place = {text: row for row, text in enumerate(distinct)}
    rows = np.array([[place[text] for text in row] + [0] * (width - len(row)) for row in texts], dtype=np.int64)
    return Side(torch.from_numpy(vectors[rows]), torch.from_numpy(words[rows]), torch.from_numpy(rows > 0))


def _form(profile: str, said: Phrases) -> list[float]:
    """What shows without knowing what words mean: the verdict of the grammar, counts, repetition, length."""
    status = grammar.parse(profile).status
    identity, interests = ([p.casefold() for p in part] for part in (said.identity, said.interests))
    both = [*identity, *interests]
    words = [len(phrase.split()) for phrase in both] or [0]
    return [
        *(float(status == one) for one in grammar.STATUSES),
        float(grammar.INTERESTS_LABEL in profile),
        len(identity) / 5,
        len(interests) / 5,
        float(len(identity) <= 1),
        float(len(interests) <= 1),
        float(len(interests) <= 3),
        _distinct_share(identity),
        _distinct_share(interests),
        _distinct_share(both),
        float(len(set(identity) & set(interests))),
        float(np.mean(words)),
        float(words[-1]),
        float(len(both[-1]) / 10) if both else 0.0,
    ]


def _distinct_share(phrases: Sequence[str]) -> float:
    return len(set(phrases)) / len(phrases) if phrases else 1.0


def judging_module(
    score: Callable[[list[Reading], list[str]], NDArray[np.float32]], tokenizer: PreTrainedTokenizerBase
) -> nn.Module:
    """What TRL's PPOTrainer takes for a reward model: a backbone that reads the tokens of request and answer back as
    text, and whose last hidden state, of width 1, is the answer's score at every token.
    """
    import torch
    from torch import nn

    split = Splitter(tokenizer)

    class Backbone(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            rows = zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True)
            pairs = [split([i for i, kept in zip(ids, mask, strict=True) if kept]) for ids, mask in rows]
            scores = score([reading for reading, _ in pairs], [answer for _, answer in pairs])
            values = torch.tensor(scores, device=input_ids.device)
            hidden = values[:, None, None].expand(*input_ids.shape, 1)
            return SimpleNamespace(hidden_states=(hidden,))

    class Module(nn.Module):
        base_model_prefix = "backbone"

        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone()
            self.score = nn.Identity()

    return Module().eval()


def train_encoder_reward(
    settings: Settings, pairs: Sequence[Pair], encoder: Encoder | None = None
) -> tuple[EncoderReward, list[dict[str, Any]]]:
    """The head trained on the pairs of the fold `train`, and its curve as rows of (step, metric, value).

    A tenth of their entities is kept aside to stop by. Raises ModelError when there are too few pairs to learn from.
    """
    import torch

    from reclm.llm.encoder_head import Head

    learned, aside = (
        [_lesson(pair) for pair in part]
        for part in _set_aside([pair for pair in pairs if pair.fold == "train"], settings.seed)
    )
    if len(learned) < 2 or not aside:
        raise ModelError(
            f"{len(pairs)} reward pairs are too few to learn from; see that the teacher wrote of train users"
        )
    memory = _memory(settings, encoder)
    memory.learn(islice(dict.fromkeys(text for lesson in (*aside, *learned) for text in _texts(lesson)), REMEMBERED))
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
    said, other = read_phrases(lesson.chosen), read_phrases(lesson.rejected)
    asked = (*lesson.reading.own, *lesson.reading.around)
    return (*asked, *said.identity, *said.interests, *other.identity, *other.interests)


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
            looked = sum(float(_misjudged(head, part, memory)) * len(part) for part in _batches(aside)) / len(aside)
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


def _misjudged(head: Head, lessons: Sequence[_Lesson], memory: Memory) -> torch.Tensor:
    """Bradley-Terry on the pairs alone."""
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
