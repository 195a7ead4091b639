"""Settings of the recommenders: fusion, training, evaluation, ablation. Part of the tree in `tree.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reclm.dataset import VARIANTS
from reclm.settings.section import Names, Numbers, Section

BACKBONES = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl", "als", "bpr", "itemknn", "ease", "kernel")
BASELINES = (
    "random",
    "popularity",
    "predicted_popularity",
    "itemknn",
    "ease",
    "content_cosine",
    "content_knn",
    "ridge",
    "itemknn_tuned",
    "ease_tuned",
    "content_knn_tuned",
    "ridge_tuned",
)
ARMS = ("extractive", "base", "single_turn", "two_turn", "refined")
EXTRAS = ("masking", "sizes", "reward")


class FusionSettings(Section):
    """How id, content and profile vectors become a backbone's initial vectors."""

    hidden: int = Field(
        128,
        ge=1,
        description="Width of the hidden layer of the networks that turn content and profile embeddings into vectors.",
    )
    id_dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Share of training steps in which an item's id vector is left out, so that items without one "
        "are ranked well. Raise it when many items are cold.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout inside the content and profile networks.")
    matched_spread: float = Field(
        0.75,
        ge=0,
        description="Standard deviation, in nats, of the scores that text similarity alone gives before "
        "training. 0: those networks start at random.",
    )


class TrainSettings(Section):
    """Backbones and their training."""

    models: Names = Field(BACKBONES, description=f"Backbones to train: any of {', '.join(BACKBONES)}.")
    variants: Names = Field(
        VARIANTS,
        description="Variants of each backbone: `base` (without profiles), `augment` (with profiles), `shuffled` "
        "(with profiles of other users and items: the control).",
    )
    seeds: Numbers = Field((42,), description="Seeds; each gives one trained model.")
    jobs: int = Field(
        2,
        ge=1,
        description="Models trained at once, each in a process with its share of runtime.threads and a copy of "
        "the data in memory; on CUDA always one, and on a small log too unless you set it.",
    )
    dim: int = Field(64, ge=2, description="Width of user and item vectors.")
    layers: int = Field(2, ge=1, le=6, description="Graph layers of LightGCN, SGL and SimGCL.")
    loss: Literal["softmax", "bpr"] = Field(
        "softmax",
        description="`softmax` scores a user's items against the whole catalogue (or a sample of it), `bpr` "
        "against sampled negatives.",
    )
    epochs: int = Field(40, ge=1, description="Largest number of epochs.")
    patience: int = Field(4, ge=1, description="Validations without improvement after which training stops.")
    validate_every: int = Field(2, ge=1, description="Epochs between validations.")
    batch_size: int = Field(512, ge=1, description="Users (softmax) or pairs (bpr) in one step.")
    learning_rate: float = Field(1e-2, gt=0, description="Step size of Adam.")
    warmup: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the epochs in which the step size grows to learning_rate; 0: it is full from the "
        "first step.",
    )
    weight_decay: float = Field(1e-2, ge=0, description="L2 penalty on the id, content and profile vectors of a batch.")
    max_candidates: int = Field(
        8192,
        ge=2,
        description="Items scored in a softmax step; a larger catalogue is sampled anew in each step. Lower it "
        "to save memory.",
    )
    contrast_weight: float = Field(0.1, ge=0, description="Weight of SGL's and SimGCL's contrastive loss.")
    contrast_temperature: float = Field(0.2, gt=0, description="Temperature of the contrastive loss.")
    edge_dropout: float = Field(0.1, ge=0, lt=1, description="Share of edges left out of each view of the graph (SGL).")
    noise: float = Field(0.1, ge=0, description="Length of the noise added in each layer (SimGCL).")
    factors: int = Field(128, ge=2, description="Width of the vectors of implicit's ALS and BPR.")
    als_iterations: int = Field(15, ge=1, description="ALS iterations.")
    als_regularization: float = Field(0.05, ge=0, description="L2 penalty of ALS.")
    als_alpha: float = Field(10.0, gt=0, description="Confidence that ALS gives an observed interaction.")
    bpr_iterations: int = Field(100, ge=1, description="Epochs of implicit's BPR.")
    bpr_learning_rate: float = Field(0.05, gt=0, description="Step size of implicit's BPR.")
    bpr_regularization: float = Field(0.01, ge=0, description="L2 penalty of implicit's BPR.")


class EvaluationSettings(Section):
    """Metrics, intervals and baselines."""

    ks: Numbers = Field((5, 10, 20, 40), description="List lengths K of the metrics.")
    baselines: Names = Field(BASELINES, description=f"Baselines to report: any of {', '.join(BASELINES)}.")
    bootstrap: int = Field(
        1000, ge=10, description="Bootstrap samples of a confidence interval; more make it steadier and slower."
    )
    batch_size: int = Field(512, ge=1, description="Users ranked at once.")


class AblateSettings(Section):
    """What `reclm ablate` compares."""

    arms: Names = Field(ARMS, min_length=1, description=f"Writers of profiles to compare: any of {', '.join(ARMS)}.")
    models: Names = Field(
        ("biasmf", "lightgcn"), min_length=1, description="Backbones that are trained with each writer's profiles."
    )
    seeds: Numbers = Field((42, 43, 44), min_length=1, description="One training per seed.")
    epochs: int = Field(0, ge=0, description="Largest number of epochs; 0: train.epochs.")
    extras: Names = Field(
        (),
        description="More to compare: masking (tuned without withholding the item), sizes (tiny small, medium, large), "
        "reward (encoder against causal).",
    )
