"""A toy world whose answers are known: three circles of users, each fond of its own circle of items. Every user knows
all items of the circle but one, the withheld; one item a circle is cold, known by its text and profile alone.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse

from reclm.backbones.base import Backbone
from reclm.backbones.fitted import ColdStart
from reclm.backbones.loading import create_backbone
from reclm.dataset import EVALUATION_SETTINGS, EvaluationTask, TrainingData
from reclm.settings.loading import load
from reclm.settings.tree import Settings

CIRCLES, USERS_EACH, WARM_EACH = 3, 8, 8
ITEMS_EACH = WARM_EACH + 1  # the last of a circle is cold
N_USERS, N_ITEMS = CIRCLES * USERS_EACH, CIRCLES * ITEMS_EACH
WORDS = ("dragon wizard sword", "kitchen recipe oven", "rocket planet orbit")
USER_CIRCLE = np.repeat(np.arange(CIRCLES), USERS_EACH)
ITEM_CIRCLE = np.repeat(np.arange(CIRCLES), ITEMS_EACH)
COLD = np.arange(N_ITEMS) % ITEMS_EACH == WARM_EACH
WITHHELD = USER_CIRCLE * ITEMS_EACH + np.arange(N_USERS) % WARM_EACH


def toy_settings(*flags: str) -> Settings:
    quick = ("runtime.threads=1", "train.dim=16", "train.epochs=40", "fusion.hidden=16", "train.factors=8")
    return load(
        [*quick, "train.bpr_iterations=60", "train.learning_rate=0.02", "train.weight_decay=1e-4", *flags],
        environment={},
    )


def toy_backbone(name: str, *flags: str) -> Backbone:
    """An unfitted backbone with the settings of the toy world."""
    settings = toy_settings(*flags)
    return create_backbone(name, settings.train, settings.fusion, settings.runtime)


def toy_fitted(
    name: str,
    variant: str = "augment",
    *flags: str,
    data: TrainingData | None = None,
    epochs: int | Mapping[str, int] | None = None,
    cold_start: ColdStart | None = None,
) -> Backbone:
    """A backbone fitted on the toy data for `epochs`, by default for all epochs of its settings."""
    backbone = toy_backbone(name, *flags)
    selection = backbone.default_selection()
    if isinstance(epochs, Mapping):
        selection = replace(selection, epochs=epochs)
    elif epochs is not None:
        selection = replace(selection, epochs=dict.fromkeys(EVALUATION_SETTINGS, epochs))
    if cold_start is not None:
        selection = replace(selection, cold_start=dict.fromkeys(EVALUATION_SETTINGS, cold_start))
    backbone.refit(toy_data() if data is None else data, variant, selection, seed=1)
    return backbone


def toy_data() -> TrainingData:
    random = np.random.default_rng(11)
    known = (USER_CIRCLE[:, None] == ITEM_CIRCLE) & ~COLD
    known[np.arange(N_USERS), WITHHELD] = False
    directions = random.standard_normal((CIRCLES, 12))

    def vectors(circle: np.ndarray) -> np.ndarray:
        return (directions[circle] + 0.3 * random.standard_normal((len(circle), 12))).astype(np.float32)

    return TrainingData(
        snapshot="final",
        user_ids=np.array([f"user {u}" for u in range(N_USERS)]),
        item_ids=np.array([f"item '{i}'" for i in range(N_ITEMS)]),
        interactions=sparse.csr_matrix(known.astype(np.float32)),
        texts=[f"{WORDS[circle]} title{item}" for item, circle in enumerate(ITEM_CIRCLE)],
        item_content=vectors(ITEM_CIRCLE),
        item_profile=vectors(ITEM_CIRCLE),
        user_profile=vectors(USER_CIRCLE),
    )


def toy_tasks(data: TrainingData) -> list[EvaluationTask]:
    withheld, fond = np.zeros((N_USERS, N_ITEMS)), (USER_CIRCLE[:, None] == ITEM_CIRCLE) & COLD
    withheld[np.arange(N_USERS), WITHHELD] = 1
    nothing, both = sparse.csr_matrix((N_USERS, N_ITEMS)), np.ones(N_ITEMS, dtype=bool)
    return [
        EvaluationTask("select", "full_shot", sparse.csr_matrix(withheld), data.interactions, ~COLD),
        EvaluationTask("select", "zero_shot", sparse.csr_matrix(fond.astype(float)), nothing, COLD),
        EvaluationTask("select", "mixed", sparse.csr_matrix(withheld + fond), data.interactions, both),
    ]


def with_features(data: TrainingData, change) -> TrainingData:
    """The same world with `change` applied to both profile tables and the item content."""
    names = ("item_content", "item_profile", "user_profile")
    return replace(data, **{name: change(getattr(data, name)) for name in names})


def without(data: TrainingData, gone: np.ndarray) -> TrainingData:
    """The data set without the items marked in `gone` (n_items,)."""
    assert data.item_content is not None and data.item_profile is not None
    return replace(
        data,
        item_ids=data.item_ids[~gone],
        interactions=data.interactions[:, ~gone],
        texts=[text for text, away in zip(data.texts, gone, strict=True) if not away],
        item_content=data.item_content[~gone],
        item_profile=data.item_profile[~gone],
    )
