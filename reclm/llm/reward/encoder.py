"""The default reward model: requests and profiles come in; a sentence encoder with a small trained head scores them.

RecLM's reward model (arXiv 2412.19302, section 3.3) is a 7B language model that knows the meaning of words; a small
causal model trained on the same pairs learns only the form. A sentence encoder of 22 million parameters brings the
meaning and costs less to run. What is learned is how requests and profiles of this data set fit together
(`reclm.llm.reward.encoder_head`), by the Bradley-Terry loss on the pairs and a contrast with the other profiles of a
batch (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748), which the neighbour pairs need. Only short pieces of
requests and phrases of profiles are embedded, never whole prompts. They recur, so their vectors are cached and a
batch of samples is scored in milliseconds.
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
from reclm.llm.prompts.parsing import Phrases, Reading, Splitter, read_phrases, read_request, with_known_facts
from reclm.llm.reward.model import Asked, mean_of_groups
from reclm.profiles import grammar
from reclm.profiles.terms import words_of
from reclm.storage.files import read_json, write_json
from reclm.text.encoder import Encoder, embed_texts, load_encoder, model_name

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from reclm.llm.reward.encoder_head import EmbeddedProfiles, EmbeddedRequests, Head, PaddedTexts
    from reclm.settings.tree import Settings

HEAD_FILE, CONFIG_FILE = "head.safetensors", "config.json"
BUCKETS = 512
"""Width of the hashed bag of words of a text."""
CACHED_TEXTS = 40_000
SCORING_BATCH = 256
CACHED_PROFILES = 10_000
"""Profiles whose phrases and form are cached: every epoch reads the same pairs."""


class TextCache:
    """Vectors and bags of words of texts; the CACHED_TEXTS most recently used are kept."""

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._known: OrderedDict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return unit vectors, (n, dim), and hashed bags of words, (n, BUCKETS), with 1 for the words of a text."""
        self._add(texts)
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        self._drop_oldest()
        return np.stack([vector for vector, _ in found]), np.stack([words for _, words in found])

    def fill(self, texts: Iterable[str]) -> None:
        """Embed the first CACHED_TEXTS of `texts` together, which is faster than a few at a time."""
        self._add(islice(texts, CACHED_TEXTS))
        self._drop_oldest()

    def _add(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vectors = embed_texts(self._encoder, new, self._batch_size)
        self._known.update((text, (vector, _bag_of_words(text))) for text, vector in zip(new, vectors, strict=True))

    def _drop_oldest(self) -> None:
        while len(self._known) > CACHED_TEXTS:
            self._known.popitem(last=False)


def _bag_of_words(text: str) -> NDArray[np.float32]:
    row = np.zeros(BUCKETS, dtype=np.float32)
    for word in words_of(text):
        row[zlib.crc32(word.removesuffix("s").encode()) % BUCKETS] = 1
    return row


class EncoderReward:
    """A reward model made of a sentence encoder and a trained head."""

    def __init__(self, head: Head, texts: TextCache, encoder: str) -> None:
        self.head, self._texts, self._encoder = head.eval(), texts, encoder

    def score(
        self, requests: Sequence[list[Message]], profiles: Sequence[str], known: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float32]:
        """Return how good profile i is as the answer to request i, (n,), by what it shows and the lines `known[i]`.

        On its stopping pairs the variance is 1.
        """
        readings = [read_request(messages) for messages in requests]
        if known is not None:
            readings = [with_known_facts(reading, lines) for reading, lines in zip(readings, known, strict=True)]
        return self.score_readings(readings, profiles)

    def score_readings(self, readings: Sequence[Reading], profiles: Sequence[str]) -> NDArray[np.float32]:
        """Return the scores of profiles, (n,), as `score` does, for requests that are parsed already."""
        import torch

        parts = []
        for start in range(0, len(readings), SCORING_BATCH):
            batch = slice(start, start + SCORING_BATCH)
            with torch.inference_mode():
                requests = embed_requests(readings[batch], self._texts)
                answers = embed_profiles(profiles[batch], self._texts)
                parts.append(self.head(requests, answers, paired=True).numpy())
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def as_module(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Asked]) -> nn.Module:
        """Return the model in the form that TRL's PPOTrainer takes, which hands over the text of a request alone.

        Whoever the `requests` with that text are made for is found again by it.
        """
        entities: dict[Reading, dict[Reading, None]] = {}
        for asked in requests:
            reading = read_request(asked.messages)
            entities.setdefault(reading, {}).update((with_known_facts(reading, own), None) for own in asked.known)

        def score(readings: list[Reading], answers: list[str]) -> NDArray[np.float32]:
            known = [list(entities.get(reading, (reading,))) for reading in readings]
            repeated = [text for text, found in zip(answers, known, strict=True) for _ in found]
            scores = self.score_readings([one for found in known for one in found], repeated)
            return mean_of_groups(scores, map(len, known))

        return reward_module(score, tokenizer)

    def save(self, folder: Path) -> None:
        """Write the head and its configuration to `folder`."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, folder / HEAD_FILE)
        config = {"encoder": self._encoder, "dim": self.head.pieces.in_features, "buckets": BUCKETS}
        write_json(folder / CONFIG_FILE, config)


def load_encoder_reward(settings: Settings, folder: Path, encoder: Encoder | None = None) -> EncoderReward:
    """Load the reward model in `folder`. Raises ModelError when the settings name another encoder than its own."""
    from safetensors.torch import load_file

    from reclm.llm.reward.encoder_head import Head

    try:
        config = read_json(folder / CONFIG_FILE)
        tensors = load_file(folder / HEAD_FILE)
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder} holds no reward model that can be read ({error}); run `reclm reward`") from None
    name = model_name(settings.embedding)
    if config["encoder"] != name or config["buckets"] != BUCKETS:
        raise ModelError(
            f"the reward model was trained with {config['encoder']}, the settings say {name}; run `reclm reward`"
        )
    head = Head(config["dim"])
    head.load_state_dict(tensors)
    return EncoderReward(head, text_cache(settings, encoder), name)


def text_cache(settings: Settings, encoder: Encoder | None = None) -> TextCache:
    """Return an empty cache that embeds with `encoder`, or with the settings' own."""
    return TextCache(load_encoder(settings) if encoder is None else encoder, settings.embedding.batch_size)


def embed_requests(readings: Sequence[Reading], cache: TextCache) -> EmbeddedRequests:
    """Embed the pieces of requests, padded to the longest."""
    import torch

    from reclm.llm.reward.encoder_head import EmbeddedRequests

    counts = [[len(r.own) / 4, len(r.neighbours) / 8, float(r.kind == "item")] for r in readings]
    own = _padded_texts([reading.own for reading in readings], cache)
    return EmbeddedRequests(
        own, _padded_texts([reading.neighbours for reading in readings], cache), torch.tensor(counts)
    )


def embed_profiles(profiles: Sequence[str], cache: TextCache) -> EmbeddedProfiles:
    """Embed the phrases of profiles, padded to the longest."""
    import torch

    from reclm.llm.reward.encoder_head import EmbeddedProfiles

    phrases, form = zip(*map(_phrases_and_form, profiles), strict=True)
    identity = _padded_texts([found.identity for found in phrases], cache)
    return EmbeddedProfiles(identity, _padded_texts([found.interests for found in phrases], cache), torch.tensor(form))


@lru_cache(CACHED_PROFILES)
def _phrases_and_form(profile: str) -> tuple[Phrases, tuple[float, ...]]:
    phrases = read_phrases(profile)
    return phrases, tuple(_form(profile, phrases))


def _padded_texts(texts: Sequence[Sequence[str]], cache: TextCache) -> PaddedTexts:
    import torch

    from reclm.llm.reward.encoder_head import PaddedTexts

    width = max(1, max(map(len, texts), default=1))
    distinct = ["", *dict.fromkeys(text for row in texts for text in row)]
    vectors, words = cache(distinct)
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = np.array([[row_of[text] for text in row] + [0] * (width - len(row)) for row in texts], dtype=np.int64)
    return PaddedTexts(torch.from_numpy(vectors[rows]), torch.from_numpy(words[rows]), torch.from_numpy(rows > 0))


def _form(profile: str, phrases: Phrases) -> list[float]:
    """Features that need no meaning of words: the grammar's status, counts, repetition, length."""
    status = grammar.parse(profile).status
    identity, interests = ([p.casefold() for p in part] for part in (phrases.identity, phrases.interests))
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


def reward_module(
    score: Callable[[list[Reading], list[str]], NDArray[np.float32]], tokenizer: PreTrainedTokenizerBase
) -> nn.Module:
    """Wrap `score` as the reward model that TRL's PPOTrainer takes.

    Its backbone turns the tokens of a request and an answer back into text. Its last hidden state, of width 1, is the
    answer's score at every token.
    """
    import torch
    from torch import nn

    split = Splitter(tokenizer)

    class Backbone(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            rows = zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True)
            pairs = [split([token for token, real in zip(ids, mask, strict=True) if real]) for ids, mask in rows]
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
