"""How ids, item texts and profiles become the initial user and item vectors that every neural backbone starts from.
A vector is the sum of what is known of an entity: its id embedding (warm ones only), an item's content tower over its
text, a user's history map over the texts of the items in it, a profile tower over its profile (RecLM, arXiv 2412.19302,
section 3.1). Three variants: `base` (ids, item texts and histories of them),
`augment` (plus user and item profiles), `shuffled` (augment with profiles dealt out anew among those who have one: the
control that shows what a profile's content is worth beyond extra parameters). While training, the ids of a random
share of items are withheld (Volkovs et al., "DropoutNet", NIPS 2017), so that their towers learn to stand alone for
the unseen. Users' are not: who comes later is folded in (`fold_in.py`), and a step that tells items apart by profiles
alone teaches them less. Inputs are whitened, and a missing one is zeros beside a flag that has weights of its own. What
reads texts begins matched: the same words get the same vector on both sides before anything is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from reclm.backbones.features import EMBEDDING_WIDTH, Matrix, Whitening, landmarks, present, text_features, unit_length
from reclm.backbones.graph import scipy_csr
from reclm.dataset import TrainingData, Variant
from reclm.settings.recommenders import FusionSettings

INITIAL_SCALE = 0.1  # standard deviation of id vectors, and about that of a tower's output, at the start
# Share of a tower's rows that a step hides: the profile of somebody known was written with knowledge of the very items
# to be told, that of a cold item was not.
HIDDEN_SHARE = {"content": 0.0, "item_profile": 0.8, "user_profile": 0.5}
TEXT_WIDTH = 256
SPREAD_SAMPLE = 1000
ALIKE = 1e-6  # spread of the cosines of texts that differ by rounding alone
QUIET_SCALE = 0.01  # in place of INITIAL_SCALE where a tower begins with something to say
HISTORY_WIDTH = 128
NEXT_TO_NOTHING = 1e-3  # length of a sum of texts (each about 1 long) that rounding alone may leave
PROFILE_SPREAD = 0.1  # of the spread of histories
HISTORY_SHRINKAGE = 2.0  # in interactions
RIDGE_PENALTIES = np.logspace(-2, 4, 13)


def profiles_of(data: TrainingData, variant: Variant, seed: int) -> tuple[Matrix | None, Matrix | None]:
    """The user and item profile vectors a variant may see; `shuffled` permutes the rows that are not missing, seeded."""
    if variant == "base":
        return None, None
    if variant == "augment":
        return data.user_profile, data.item_profile
    random = np.random.default_rng([seed, 7])
    return _permuted(data.user_profile, random), _permuted(data.item_profile, random)


def _permuted(rows: Matrix | None, random: np.random.Generator) -> Matrix | None:
    if rows is None:
        return None
    holders = np.flatnonzero(present(rows))
    dealt = rows.copy()
    dealt[holders] = rows[random.permutation(holders)]
    return dealt


def content_features(data: TrainingData) -> list[Matrix]:
    """What is known of items besides ids and profiles: text kernel coordinates and whitened text embeddings, NaN = missing."""
    warm = data.warm_items
    texts = [_text_features(tuple(data.texts), warm.tobytes())] if any(data.texts) else []
    return texts + whitened(data.item_content, warm)


@lru_cache(maxsize=2)  # every model and variant of a run asks for the same one of two snapshots, at seconds each
def _text_features(texts: tuple[str, ...], warm: bytes) -> Matrix:
    return text_features(list(texts), np.frombuffer(warm, dtype=np.bool_), TEXT_WIDTH)


def whitened(rows: Matrix | None, fit_rows: NDArray[np.bool_]) -> list[Matrix]:
    """[whitened rows], or [] when the data set has none. The transformation is that of `fit_rows`."""
    return [] if rows is None else [Whitening.fit(rows[fit_rows], EMBEDDING_WIDTH).apply(rows)]


@dataclass(frozen=True)
class Features:
    """Input of a tower: `rows` (n, width), and `missing` (width,), the row of an entity about which nothing is known.

    `start` (width, dim) is the linear map that the tower begins with; None: a small random one.
    """

    rows: Matrix
    missing: Matrix
    start: Matrix | None = None


def flagged(parts: list[Matrix]) -> Features | None:
    """Parts (n, w) side by side, each at unit mean square; zeros, and a 1 in its flag column, where a row is missing."""
    blocks, absent = [], []
    for part in (p for p in parts if p.shape[1]):
        there = present(part)
        filled = np.where(there[:, None], part, 0)
        mean_square = np.square(filled[there]).mean() if there.any() else 1.0
        blocks += [filled / np.sqrt(mean_square or 1.0), ~there[:, None]]
        absent += [*[0.0] * part.shape[1], 1.0]
    return Features(np.hstack(blocks).astype(np.float32), np.array(absent, dtype=np.float32)) if blocks else None


@dataclass(frozen=True)
class Text:
    """Encoder vectors `rows` (n, d), NaN = missing, of a text that `towers[kind]` has, whitened to `width` columns, as its
    last block."""

    towers: dict[str, Features]
    kind: str
    rows: Matrix
    warm: NDArray[np.bool_]
    width: int

    def centred(self) -> NDArray[np.float64]:
        """Unit rows less their mean over the warm; zeros where missing."""
        rows, there = unit_length(self.rows).astype(np.float64), present(self.rows)
        fitted = there & self.warm
        mean = rows[fitted].mean(axis=0) if fitted.any() else np.zeros(rows.shape[1])
        return np.where(there[:, None], rows - mean, 0.0)

    def start(self, target: NDArray[np.float64]) -> None:
        """Lets the tower begin with the linear map of its last block that comes nearest to `target` (n, dim)."""
        features = self.towers[self.kind]
        flag = features.rows.shape[1] - 1
        block = slice(flag - self.width, flag)
        fitted = present(self.rows) & self.warm
        weights, *_ = np.linalg.lstsq(features.rows[fitted, block].astype(np.float64), target[fitted], rcond=1e-6)
        start = np.zeros((features.rows.shape[1], target.shape[1]), dtype=np.float32)
        start[block] = weights
        self.towers[self.kind] = replace(features, start=start)
        for kind, other in self.towers.items():
            if other.start is None:
                self.towers[kind] = replace(
                    other, start=np.zeros((other.rows.shape[1], target.shape[1]), dtype=np.float32)
                )


def start_matched(
    items: Text, users: Text | None, interactions: sparse.csr_matrix, dim: int, spread: float
) -> History | None:
    """The history map of users, begun, like the towers of texts, with one projection for all texts. What a user's
    history and profile say and what an item's text says are read by one encoder, so they match, as far as they do,
    before anything is learned: a log of a few interactions a user cannot teach that.

    The projection is on the `dim` leading directions of the warm items' texts. `spread` is the standard deviation of
    the scores that long histories begin with; profiles, where a step shows them, begin with PROFILE_SPREAD of it. At 0
    towers begin at random, the map at zero; None: texts are all alike. Vectors of two encoders cannot match: raises
    ValueError.
    """
    if users is not None and users.rows.shape[1] != items.rows.shape[1]:
        raise ValueError(f"profiles of {users.rows.shape[1]} and texts of {items.rows.shape[1]} columns: two encoders")
    rows = items.centred()
    directions = np.linalg.eigh(rows[items.warm].T @ rows[items.warm])[1][:, ::-1]
    basis = np.hstack([directions[:, :dim], np.zeros((rows.shape[1], max(dim - rows.shape[1], 0)))])
    things = rows[items.warm] @ basis
    asked = _sample(interactions.getnnz(axis=1) > 0)
    about = unit_length(interactions[asked] @ rows)
    deviation = _deviation(about[about.any(axis=1)] @ basis, things)
    if deviation < ALIKE:
        return None
    gain = np.sqrt(spread / deviation)
    if spread:
        items.start(rows @ basis * gain)
    if spread and users is not None:
        people = users.centred() @ basis
        heard = _deviation(people[_sample(users.warm & present(users.rows))], things)
        users.start(people * PROFILE_SPREAD * spread / gain / max(heard, ALIKE))
    wide = directions[:, :HISTORY_WIDTH]
    return History((rows @ wide).astype(np.float32), (wide.T @ basis * gain).astype(np.float32), interactions)


def _sample(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """At most SPREAD_SAMPLE positions of True, evenly spread over them."""
    return landmarks(np.flatnonzero(rows).astype(np.int64), SPREAD_SAMPLE)


def _deviation(asked: NDArray[np.floating], things: NDArray[np.float64]) -> float:
    return float((asked @ things.T).std()) if len(asked) and len(things) else 0.0


class Tower(nn.Module):
    """Features (n, width) to vectors (n, dim): one hidden layer beside a linear path.

    In training a random `hidden_share` of the rows is seen as missing; what serves is the mean over that chance, as after
    dropout (Srivastava et al., JMLR 2014): the rest of a vector learned beside a tower that was there so often.
    """

    features: Tensor
    missing: Tensor

    def __init__(self, features: Features, dim: int, settings: FusionSettings, hidden_share: float) -> None:
        super().__init__()
        width = features.rows.shape[1]
        self.hidden_share = hidden_share
        self.register_buffer("features", torch.from_numpy(features.rows), persistent=False)
        self.register_buffer("missing", torch.from_numpy(features.missing), persistent=False)
        self.drop = nn.Dropout(settings.dropout)
        self.hidden = nn.Linear(width, settings.hidden)
        self.output = nn.Linear(settings.hidden, dim)
        self.direct = nn.Linear(width, dim, bias=False)
        scale = INITIAL_SCALE if features.start is None else QUIET_SCALE
        nn.init.normal_(self.output.weight, std=scale * settings.hidden**-0.5)
        nn.init.zeros_(self.output.bias)
        if features.start is None:
            nn.init.normal_(self.direct.weight, std=INITIAL_SCALE * width**-0.5)
        else:
            self.direct.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(features.start.T)))

    def forward(self, rows: Tensor | None) -> Tensor:
        features = self.features if rows is None else self.features[rows]
        if self.training and self.hidden_share:
            hidden = torch.rand(len(features), 1, device=features.device) < self.hidden_share
            features = torch.where(hidden, self.missing, features)
        told = self._vectors(features)
        if self.training or not self.hidden_share:
            return told
        return torch.lerp(told, self._vectors(self.missing), self.hidden_share)

    def _vectors(self, features: Tensor) -> Tensor:
        hidden = self.drop(nn.functional.gelu(self.hidden(features)))
        return self.output(hidden) + self.direct(features)


@dataclass(frozen=True)
class HistorySums:
    """Histories as they are read: the sums of their items' texts (r, w), and how many items they have (r, 1)."""

    sums: Tensor
    count: Tensor

    def without(self, rows: Tensor, texts: Tensor) -> HistorySums:
        """These histories less single items: `texts` (n, w), of the histories `rows` (n,)."""
        ones = torch.ones(len(rows), 1, device=rows.device)
        return HistorySums(self.sums.index_add(0, rows, texts, alpha=-1), self.count.index_add(0, rows, ones, alpha=-1))


class History(nn.Module):
    """What a user's history is about: the direction of the sum of its items' texts, longer the more items there are,
    n / (n + HISTORY_SHRINKAGE), through a linear map that begins as `start` (w, dim).

    `texts` (n_items, w) are the leading coordinates of centred text vectors, zeros where an item has none.
    """

    texts: Tensor
    sums: Tensor
    count: Tensor

    def __init__(self, texts: Matrix, start: Matrix, interactions: sparse.csr_matrix) -> None:
        super().__init__()
        width = texts.shape[1]
        self.scale = width**0.5  # to entries of unit mean square, as a tower's inputs have
        self.register_buffer("texts", torch.from_numpy(texts), persistent=False)
        whole = self.read(scipy_csr(interactions))
        self.register_buffer("sums", whole.sums, persistent=False)
        self.register_buffer("count", whole.count, persistent=False)
        self.map = nn.Linear(width, start.shape[1], bias=False)
        self.map.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(start.T) / self.scale).float())

    def read(self, given: Tensor) -> HistorySums:
        """The histories of a CSR matrix (r, n_items) of ones and zeros."""
        return HistorySums(given @ self.texts, given @ torch.ones(given.shape[1], 1, device=given.device))

    def all(self, rows: Tensor | None) -> HistorySums:
        """All that `rows` (everybody, when None) know: for models that serve, never for one that learns."""
        return HistorySums(self.sums, self.count) if rows is None else HistorySums(self.sums[rows], self.count[rows])

    def forward(self, read: HistorySums) -> Tensor:
        """Vectors (r, dim)."""
        about = nn.functional.normalize(read.sums, dim=1, eps=NEXT_TO_NOTHING) * (
            read.count / (read.count + HISTORY_SHRINKAGE)
        )
        return self.map(about * self.scale)


class Side(nn.Module):
    """The vectors of one side, users or items: id embedding of the `known` (n,), plus a tower for each kind of feature
    and, for users, what their `history` is about."""

    known: Tensor

    def __init__(
        self, known: NDArray[np.bool_], features: dict[str, Features], dim: int, settings: FusionSettings, scale: float
    ) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.all_known = bool(known.all())
        self.ids = nn.Parameter(torch.randn(len(known), dim) * scale)
        self.unknown = nn.Parameter(torch.zeros(dim))
        self.towers = nn.ModuleDict(
            {kind: Tower(part, dim, settings, HIDDEN_SHARE[kind]) for kind, part in features.items()}
        )
        self.history: History | None = None

    def forward(
        self, rows: Tensor | None, withheld: Tensor | None = None, history: HistorySums | None = None
    ) -> Tensor:
        """Vectors (r, dim) of `rows` (all when None); `withheld` (n,) marks entities to treat as unseen, `history` is the
        part of their histories to read (all of it when None, which a training step must not ask for)."""
        has_id = self.known if withheld is None else self.known & ~withheld
        ids, has_id = (self.ids, has_id) if rows is None else (self.ids[rows], has_id[rows])
        all_known = withheld is None and self.all_known
        vectors = ids if all_known else torch.where(has_id.unsqueeze(1), ids, self.unknown)
        for tower in self.towers.values():
            vectors = vectors + tower(rows)
        if self.history is not None:
            if self.training and history is None:
                raise ValueError("a training step must say which part of the histories it gives")
            vectors = vectors + self.history(self.history.all(rows) if history is None else history)
        return vectors


class Fusion(nn.Module):
    """Initial vectors of users (n_users, dim) and items (n_items, dim), and item biases (n_items,).

    A warm item's bias starts at the log of its popularity, split into what a ridge regression on its content (where there
    is none, its profile) predicts and the rest, which belongs to its id; so a cold item starts at its predicted popularity.
    """

    bias_features: Tensor

    def __init__(
        self,
        data: TrainingData,
        variant: Variant,
        dim: int,
        settings: FusionSettings,
        seed: int,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        warm_users = np.asarray(data.interactions.getnnz(axis=1) > 0).ravel()
        user_profile, item_profile = profiles_of(data, variant, seed)
        content, of_items = content_features(data), whitened(item_profile, data.warm_items)
        of_users = whitened(user_profile, warm_users)
        item_features = _those_there(content=flagged(content), item_profile=flagged(of_items))
        user_features = _those_there(user_profile=flagged(of_users))
        texts, people, history = data.item_content, None, None
        if user_profile is not None and of_users and of_users[0].shape[1]:
            people = Text(user_features, "user_profile", user_profile, warm_users, of_users[0].shape[1])
        if texts is not None and content[-1].shape[1]:
            things = Text(item_features, "content", texts, data.warm_items, content[-1].shape[1])
            history = start_matched(things, people, data.interactions, dim, settings.matched_spread / sharpness)
        scale = INITIAL_SCALE * sharpness**-0.5
        self.users = Side(warm_users, user_features, dim, settings, scale)
        self.items = Side(data.warm_items, item_features, dim, settings, scale)
        self.users.history = history
        self.item_withholding = settings.id_dropout if item_features else 0.0
        known = item_features.get("content", item_features.get("item_profile"))
        self._start_bias(data, None if known is None else known.rows)

    def tables(self) -> list[nn.Parameter]:
        """Parameters with a row per entity."""
        return [self.users.ids, self.items.ids, self.own_bias]

    def weights(self) -> list[nn.Parameter]:
        """Parameters that every entity shares."""
        own = {id(table) for table in self.tables()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def _start_bias(self, data: TrainingData, features: Matrix | None) -> None:
        warm = data.warm_items
        popularity = np.log(np.asarray(data.interactions.sum(axis=0)).ravel()[warm] + 0.5)
        centred = popularity - popularity.mean()
        features = np.zeros((len(warm), 1), dtype=np.float32) if features is None else features
        weights = ridge_by_leave_one_out(features[warm], centred)
        own = np.zeros(len(warm))
        own[warm] = centred - features[warm] @ weights
        self.register_buffer("bias_features", torch.from_numpy(features), persistent=False)
        self.bias_weights = nn.Parameter(torch.from_numpy(weights.astype(np.float32)))
        self.own_bias = nn.Parameter(torch.from_numpy(own.astype(np.float32)))

    def bias(self, rows: Tensor | None, withheld: Tensor | None = None) -> Tensor:
        """Item biases (r,) of `rows`, all when None."""
        has_id = self.items.known if withheld is None else self.items.known & ~withheld
        own, features = torch.where(has_id, self.own_bias, 0.0), self.bias_features
        if rows is not None:
            own, features = own[rows], features[rows]
        return features @ self.bias_weights + own


def _those_there(**features: Features | None) -> dict[str, Features]:
    return {kind: part for kind, part in features.items() if part is not None}


def ridge_by_leave_one_out(features: Matrix, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge weights (width,) of the penalty with the least leave-one-out error (Golub, Heath & Wahba 1979)."""
    wide = features.astype(np.float64)
    left, values, right = np.linalg.svd(wide, full_matrices=False)
    along = left.T @ target
    best = (np.inf, np.zeros(features.shape[1]))
    for penalty in RIDGE_PENALTIES:
        shrink = values**2 / (values**2 + penalty)
        leverage = np.square(left) @ shrink
        error = float(np.square((target - left @ (shrink * along)) / (1 - leverage).clip(1e-6)).mean())
        if error < best[0]:
            best = (error, right.T @ (shrink * along / np.where(values == 0, 1, values)))
    return best[1]
