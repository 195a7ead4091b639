"""The default reward model: a frozen sentence encoder reads request and profile, a small trained head judges.

Why an encoder and not a small causal model: RecLM's reward model (arXiv 2412.19302, section 3.3) is a 7B model that knows
what words mean. A causal model of a million parameters, tuned on the same pairs, learned the form alone: it told a
neighbour's profile from the own one at chance (0.55), and refinement against it proves nothing. A sentence encoder of 22
million parameters brings the meaning along and costs less to run; what is learned is how requests and profiles of this
world meet (`reclm.llm.reward.encoder_head`), by Bradley-Terry loss on the pairs and a contrast with the other profiles of a batch
(InfoNCE, van den Oord et al. 2018, arXiv 1807.03748), which is what the neighbour kind needs. Only pieces and phrases are
embedded, never whole prompts, and remembered: they recur, so that a batch of samples is scored in milliseconds.
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.parsing import Phrases, Reading, Splitter, informed, read_phrases, read_request
from reclm.profiles import grammar
from reclm.profiles.terms import words_of
from reclm.storage.files import read_json, write_json
from reclm.text.encoder import Encoder, embed_texts, load_encoder, model_name

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from reclm.llm.reward.encoder_head import Answers, Head, Requests, Side
    from reclm.settings.tree import Settings

HEAD_FILE, CONFIG_FILE = "head.safetensors", "config.json"
BUCKETS = 512
REMEMBERED = 40_000
AT_ONCE = 256
UNDERSTOOD = 10_000
"""Profiles whose phrases and form are kept: every pair of an epoch comes again in the next."""


class Memory:
    """Vectors and words of texts, the latest REMEMBERED of them kept. Many at once are embedded faster than a few at a time."""

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._known: OrderedDict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n, dim) unit vectors, and (n, BUCKETS) with 1 where a word of the text falls."""
        self._add(texts)
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        self._forget()
        return np.stack([vector for vector, _ in found]), np.stack([words for _, words in found])

    def learn(self, texts: Iterable[str]) -> None:
        """Embeds those of `texts` that are new, at most REMEMBERED of them."""
        self._add(islice(texts, REMEMBERED))
        self._forget()

    def _add(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vectors = embed_texts(self._encoder, new, self._batch_size)
        self._known.update((text, (vector, _words(text))) for text, vector in zip(new, vectors, strict=True))

    def _forget(self) -> None:
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


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

    def add_context(self, requests: Sequence[list[Message]], known: Sequence[Sequence[str]]) -> None:
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

    from reclm.llm.reward.encoder_head import Head

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
    return EncoderReward(head, memory_of(settings, encoder), name)


def memory_of(settings: Settings, encoder: Encoder | None = None) -> Memory:
    """An empty one that reads by `encoder`, or by the settings' own."""
    return Memory(load_encoder(settings) if encoder is None else encoder, settings.embedding.batch_size)


def requests_of(readings: Sequence[Reading], memory: Memory) -> Requests:
    import torch

    from reclm.llm.reward.encoder_head import Requests

    counts = [[len(r.own) / 4, len(r.around) / 8, float(r.kind == "item")] for r in readings]
    own = _side([reading.own for reading in readings], memory)
    return Requests(own, _side([reading.around for reading in readings], memory), torch.tensor(counts))


def answers_of(profiles: Sequence[str], memory: Memory) -> Answers:
    import torch

    from reclm.llm.reward.encoder_head import Answers

    phrases, form = zip(*map(_understood, profiles), strict=True)
    identity = _side([said.identity for said in phrases], memory)
    return Answers(identity, _side([said.interests for said in phrases], memory), torch.tensor(form))


@lru_cache(UNDERSTOOD)
def _understood(profile: str) -> tuple[Phrases, tuple[float, ...]]:
    """The phrases of a profile, and its form."""
    said = read_phrases(profile)
    return said, tuple(_form(profile, said))


def _side(texts: Sequence[Sequence[str]], memory: Memory) -> Side:
    import torch

    from reclm.llm.reward.encoder_head import Side

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
