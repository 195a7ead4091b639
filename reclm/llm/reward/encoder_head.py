"""Score profiles with the trained head of the encoder reward.

In: an embedded request and an embedded profile. Out: a score. Late interaction (ColBERT: Khattab and Zaharia 2020,
arXiv 2004.12832): every phrase is matched with the nearest piece of the request and every piece with its nearest
phrase, in the encoder's own space and in a learned one. The mean shows whether the profile describes this entity, the
minimum shows a single phrase that belongs to another entity, and pieces without a phrase show an answer that was cut
off. A small network weighs these features together with shared words and the form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SHARED_WIDTH = 64
HIDDEN = 32
GROUPS = 2  # pieces of the entity itself, pieces of its neighbours
PARTS = 2  # identity and interests
POOLS = 4
NAMED = 4
FORM = 18
COUNTS = 3
N_FEATURES = GROUPS * PARTS * (2 * POOLS + NAMED + 1) + FORM + COUNTS
_FAR = -1.0


@dataclass(frozen=True)
class PaddedTexts:
    """Lists of texts, padded: `vectors` (n, length, dim), `words` (n, length, buckets), `mask` (n, length)."""

    vectors: Tensor
    words: Tensor
    mask: Tensor


@dataclass(frozen=True)
class EmbeddedRequests:
    """Requests: pieces of the entity itself, pieces of its neighbours, and `counts` (n, COUNTS)."""

    own: PaddedTexts
    neighbours: PaddedTexts
    counts: Tensor


@dataclass(frozen=True)
class EmbeddedProfiles:
    """Profiles: identity phrases, interest phrases, and features of their `form` (n, FORM)."""

    identity: PaddedTexts
    interests: PaddedTexts
    form: Tensor


class Head(nn.Module):
    """Scores profiles as answers to requests: row by row, `paired`, (n,), or every one with every other, (n, m)."""

    mean: Tensor
    deviation: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pieces = nn.Linear(dim, SHARED_WIDTH, bias=False)
        self.identity = nn.Linear(dim, SHARED_WIDTH, bias=False)
        self.interests = nn.Linear(dim, SHARED_WIDTH, bias=False)
        self.hidden = nn.Linear(N_FEATURES, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        self.direct = nn.Linear(N_FEATURES, 1, bias=False)
        self.register_buffer("mean", torch.zeros(N_FEATURES))
        self.register_buffer("deviation", torch.ones(N_FEATURES))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def start_from(self, vectors: NDArray[np.float32]) -> None:
        """Start the learned space as the first principal directions of text vectors, (n, dim)."""
        _, _, directions = np.linalg.svd(vectors, full_matrices=False)
        start = torch.zeros_like(self.pieces.weight)
        start[: len(directions)] = torch.from_numpy(directions[:SHARED_WIDTH].copy())
        for layer in (self.pieces, self.identity, self.interests):
            layer.weight.data.copy_(start)

    def standardise(self, features: Tensor) -> None:
        """Set the mean and deviation that features are standardised by from a sample, (n, N_FEATURES)."""
        self.mean.copy_(features.mean(0))
        deviation = features.std(0)
        self.deviation.copy_(torch.where(deviation > 1e-3, deviation, torch.ones_like(deviation)))

    def forward(self, requests: EmbeddedRequests, profiles: EmbeddedProfiles, *, paired: bool) -> Tensor:
        features = (self.features(requests, profiles, paired=paired) - self.mean) / self.deviation
        features = features.clamp(-5, 5)
        score = self.out(torch.tanh(self.hidden(features))) + self.direct(features)
        return (score.squeeze(-1) - self.shift) / self.scale

    def features(self, requests: EmbeddedRequests, profiles: EmbeddedProfiles, *, paired: bool) -> Tensor:
        """Compute the features before standardisation, (n, N_FEATURES) or (n, m, N_FEATURES)."""
        found = []
        for pieces in (requests.own, requests.neighbours):
            learned_pieces = _unit(self.pieces(pieces.vectors))
            for phrases, layer in ((profiles.identity, self.identity), (profiles.interests, self.interests)):
                mask = _both(pieces.mask, phrases.mask, paired)
                raw = _similarity(pieces.vectors, phrases.vectors, paired)
                learned = _similarity(learned_pieces, _unit(layer(phrases.vectors)), paired)
                found += [_pooled(raw, mask), _pooled(learned, mask)]
                found.append(_named(pieces, phrases, mask, paired))
                found.append(_shared_words(pieces, phrases, paired).unsqueeze(-1))
        lead = found[0].shape[:-1]
        counts, form = requests.counts, profiles.form
        if not paired:
            counts, form = counts[:, None], form[None]
        return torch.cat([*found, form.expand(*lead, FORM), counts.expand(*lead, COUNTS)], dim=-1)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)


def _similarity(pieces: Tensor, phrases: Tensor, paired: bool) -> Tensor:
    return torch.einsum("nld,npd->nlp" if paired else "nld,mpd->nmlp", pieces, phrases)


def _both(pieces: Tensor, phrases: Tensor, paired: bool) -> Tensor:
    if paired:
        return pieces[:, :, None] & phrases[:, None, :]
    return pieces[:, None, :, None] & phrases[None, :, None, :]


def _pooled(similarity: Tensor, mask: Tensor) -> Tensor:
    """(…, POOLS): mean and minimum over phrases of the nearest piece, mean over pieces of the nearest phrase, mean of
    all; 0 where there are no phrases or no pieces."""
    far = torch.where(mask, similarity, torch.full_like(similarity, _FAR))
    of_phrase, of_piece = far.amax(dim=-2), far.amax(dim=-1)
    phrases, pieces = mask.any(dim=-2), mask.any(dim=-1)
    lowest = torch.where(phrases, of_phrase, torch.ones_like(of_phrase)).amin(dim=-1)
    any_there = mask.flatten(-2).any(dim=-1)
    pools = torch.stack(
        [
            _mean(of_phrase, phrases),
            lowest,
            _mean(of_piece, pieces),
            _mean(similarity.flatten(-2), mask.flatten(-2)),
        ],
        dim=-1,
    )
    return pools * any_there.unsqueeze(-1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def _named(pieces: PaddedTexts, phrases: PaddedTexts, mask: Tensor, paired: bool) -> Tensor:
    """(…, NAMED): the share and number of phrases whose words are all in one piece, the number of other phrases, and
    the share of pieces that contain such a phrase."""
    wanted = phrases.words.sum(-1)
    wanted = wanted[:, None, :] if paired else wanted[None, :, None, :]
    held = (_similarity(pieces.words, phrases.words, paired) >= wanted) & (wanted > 0) & mask
    of_phrase, of_piece = held.any(dim=-2), held.any(dim=-1)
    there = phrases.mask if paired else phrases.mask[None]
    found, missed = of_phrase.sum(-1).float(), (there & ~of_phrase).sum(-1).float()
    share = found / (found + missed).clamp(min=1)
    return torch.stack([share, found / 5, missed / 5, _mean(of_piece, mask.any(dim=-1))], dim=-1)


def _shared_words(pieces: PaddedTexts, phrases: PaddedTexts, paired: bool) -> Tensor:
    """Mean over phrases of the share of their words that the pieces contain."""
    all_words = pieces.words.amax(dim=1)
    shared = torch.einsum("nw,npw->np" if paired else "nw,mpw->nmp", all_words, phrases.words)
    share = shared / phrases.words.sum(-1).clamp(min=1)
    return _mean(share, phrases.mask)
