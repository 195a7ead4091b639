"""Settings of recommenders: fusion, training, evaluation, ablation. Part of the tree in `settings.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reclm.settings.section import Names, Numbers, Section

BACKBONES = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl", "als", "bpr")
BASELINES = (
    "random",
    "popularity",
    "predicted_popularity",
    "itemknn",
    "ease",
    "content_cosine",
    "content_knn",
    "ridge",
)
ARMS = ("extractive", "base", "single_turn", "two_turn", "refined")
EXTRAS = ("masking", "sizes", "reward")


class FusionSettings(Section):
    """How id, content and profile vectors become a backbone's initial vectors."""

    hidden: int = Field(128, ge=1, description="Width of the hidden layer of the content and profile towers.")
    id_dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Share of training steps in which an item's id vector is withheld, so that unseen items are served well.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout inside the towers.")
    matched_spread: float = Field(
        0.75,
        ge=0,
        description="Standard deviation, in nats, of the scores that the texts of a long history and items' texts give by "
        "matching alone, before anything is learned; 0: towers begin at random.",
    )
    whiten: bool = Field(
        True, description="Whiten content and profile vectors before the towers (anisotropic encoders)."
    )


class TrainSettings(Section):
    """Backbones and their training."""

    models: Names = Field(BACKBONES, description=f"Backbones to train: any of {', '.join(BACKBONES)}.")
    variants: Names = Field(
        ("base", "augment", "shuffled"), description="base (no profiles), augment (with), shuffled (profiles permuted)."
    )
    seeds: Numbers = Field((42,), description="One training per seed.")
    jobs: int = Field(
        2,
        ge=1,
        description="Models trained at once, each by a process of its own with its share of runtime.threads and a copy of the "
        "data in memory; on CUDA always one.",
    )
    dim: int = Field(64, ge=2, description="Width of user and item vectors.")
    layers: int = Field(2, ge=1, le=6, description="Graph layers of LightGCN, SGL and SimGCL.")
    loss: Literal["softmax", "bpr"] = Field(
        "softmax",
        description="softmax: a user's items against a whole (sub)catalogue; bpr: pairs with sampled negatives.",
    )
    epochs: int = Field(40, ge=1, description="Epochs at most.")
    patience: int = Field(4, ge=1, description="Validations without a better result before training stops.")
    validate_every: int = Field(2, ge=1, description="Epochs between validations.")
    batch_size: int = Field(512, ge=1, description="Users (softmax) or pairs (bpr) per step.")
    learning_rate: float = Field(1e-2, gt=0, description="Adam's step size.")
    warmup: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the epochs over which the step size grows to its full size; 0: full from the first.",
    )
    weight_decay: float = Field(1e-2, ge=0, description="L2 on the layer-0 vectors of a batch.")
    max_candidates: int = Field(
        8192, ge=2, description="Items scored per softmax step; larger catalogues are sampled anew each step."
    )
    contrast_weight: float = Field(0.1, ge=0, description="Weight of SGL's and SimGCL's contrastive loss.")
    contrast_temperature: float = Field(0.2, gt=0, description="Its temperature.")
    edge_dropout: float = Field(0.1, ge=0, lt=1, description="SGL: share of edges dropped in each view.")
    noise: float = Field(0.1, ge=0, description="SimGCL: length of the noise added per layer.")
    factors: int = Field(128, ge=2, description="Factors of implicit's ALS and BPR.")
    als_iterations: int = Field(15, ge=1, description="ALS sweeps.")
    als_regularization: float = Field(0.05, ge=0, description="ALS ridge penalty.")
    als_alpha: float = Field(10.0, gt=0, description="ALS confidence of an observed interaction.")
    bpr_iterations: int = Field(100, ge=1, description="implicit BPR epochs.")
    bpr_learning_rate: float = Field(0.05, gt=0, description="implicit BPR step size.")
    bpr_regularization: float = Field(0.01, ge=0, description="implicit BPR L2 penalty.")


class EvaluateSettings(Section):
    """Metrics, intervals and baselines."""

    ks: Numbers = Field((5, 10, 20, 40), description="Cut-offs K of the metrics.")
    baselines: Names = Field(BASELINES, description=f"Baselines to report: any of {', '.join(BASELINES)}.")
    bootstrap: int = Field(1000, ge=10, description="Bootstrap samples of an interval.")
    batch_size: int = Field(512, ge=1, description="Users ranked at once.")


class AblateSettings(Section):
    """What `reclm ablate` compares."""

    arms: Names = Field(ARMS, min_length=1, description=f"Writers of profiles to compare: any of {', '.join(ARMS)}.")
    models: Names = Field(
        ("biasmf", "lightgcn"), min_length=1, description="Backbones that are trained with each writer's profiles."
    )
    seeds: Numbers = Field((42, 43, 44), min_length=1, description="One training per seed.")
    epochs: int = Field(0, ge=0, description="Epochs at most; 0: train.epochs.")
    extras: Names = Field(
        (),
        description="More to compare: masking (tuned without withholding the item), sizes (tiny small, medium, large), "
        "reward (encoder against causal).",
    )
