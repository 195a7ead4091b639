"""Settings of the system that runs by itself: schedule, promotion, health, retention, serving, tracking. Part of the tree in `settings.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from reclm.settings.section import Names, Section

CHECKS = (
    "volume",
    "category_mix",
    "new_item_share",
    "neighbour_sparsity",
    "profile_distinct",
    "profile_similarity",
    "profile_format",
    "reward_against_ranking",
    "embedding_norm",
    "embedding_shift",
    "train_serve_skew",
)
DRIFT_CHECKS = ("category_mix", "new_item_share")


class ScheduleSettings(Section):
    """When the DAGs run, and whom they tell."""

    inbox: str = Field(
        "inbox",
        description="Folder that new logs and item tables are dropped into; a relative one is inside the workspace.",
    )
    features: str = Field("0 2 * * *", description="Cron of reclm_features; empty: only by hand.")
    tuning: str = Field(
        "0 4 * * 0", description="Cron of reclm_tuning, which drift starts too; empty: drift and hand alone."
    )
    cold_items: str = Field("*/5 * * * *", description="Cron of reclm_cold_items; empty: only by hand.")
    maintenance: str = Field("0 1 * * *", description="Cron of reclm_maintenance; empty: only by hand.")
    retries: int = Field(2, ge=0, description="Times a failed task is tried again.")
    retry_seconds: int = Field(60, ge=0, description="Seconds before the first retry; doubled each time.")
    deadline_minutes: int = Field(
        720, ge=1, description="Minutes a DAG run may take from its queueing before it is reported."
    )
    approval: bool = Field(False, description="A person approves in Airflow before a candidate is promoted.")
    approval_hours: float = Field(
        24.0, gt=0, description="Hours an approval is waited for; the champion stays when none comes."
    )
    webhook: str = Field("", description="URL that failures and missed deadlines are posted to as JSON; empty: none.")
    email: Names = Field(
        (), description="Addresses that failures and missed deadlines are mailed to, by schedule.smtp."
    )
    smtp: str = Field("localhost:25", description="Mail server, host:port.")


class PromotionSettings(Section):
    """When a candidate becomes champion. Everything is measured on the validation slice."""

    metric: Literal["ndcg", "recall"] = Field(
        "ndcg", description="Primary metric, at 20, over warm candidates (full-shot)."
    )
    min_gain: float = Field(
        0.0,
        description="A candidate of another kind must be better than the champion's kind by more than this: lower bound of the paired difference.",
    )
    max_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A candidate whose upper bound lies more than this share below the champion's recorded value is kept out.",
    )
    max_cold_drop: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The same for the metric over cold items (zero-shot), by value, where both were measured.",
    )
    min_coverage: float = Field(
        0.02, ge=0, le=1, description="Share of the candidates that the lists of 20 must show at least."
    )
    max_popularity_lift: float = Field(
        0.5,
        ge=0,
        description="Mean popularity rank (0 rarest, 1 most popular) of recommended items may exceed that of the users' own items by this.",
    )
    max_latency_ms: float = Field(
        50.0, gt=0, description="Milliseconds that ranking all items for one user may take, median."
    )
    min_format: float = Field(
        0.999, ge=0, le=1, description="Share of profiles that obey the grammar, where the candidate uses profiles."
    )
    min_interactions: int = Field(100, ge=0, description="Interactions known at the final snapshot, at least.")
    min_users: int = Field(20, ge=1, description="Users with validation truth, at least; fewer: unmeasurable.")


class HealthSettings(Section):
    """Bounds of the health checks. A breach warns, or fails the run for checks named in `fail`."""

    fail: Names = Field(
        ("profile_format", "embedding_norm", "train_serve_skew"),
        description=f"Checks whose breach fails the run; the others warn. Any of {', '.join(CHECKS)}.",
    )
    window_days: int = Field(7, ge=1, description="Newest days that are held against the time before.")
    min_volume: float = Field(
        0.3, ge=0, description="Interactions a day in the window, as a share of the mean before: at least."
    )
    max_volume: float = Field(3.0, gt=0, description="The same: at most.")
    max_category_shift: float = Field(
        0.3, ge=0, le=1, description="Jensen-Shannon distance (base 2) between the category mixes of window and before."
    )
    max_new_items: float = Field(
        0.5, ge=0, le=1, description="Share of the window's interactions with items first seen in it."
    )
    min_neighbours: float = Field(0.5, ge=0, le=1, description="Share of warm users who have a neighbour.")
    min_distinct: float = Field(
        0.1, ge=0, le=1, description="Distinct share of the profiles of entities something is known of."
    )
    max_similarity: float = Field(
        0.98, ge=0, le=1, description="Mean similarity of a profile to its nearest other (over-smoothing)."
    )
    min_format: float = Field(0.999, ge=0, le=1, description="Share of profiles that obey the grammar.")
    max_ranking_drop: float = Field(
        0.02, ge=0, description="Fall of held-out ranking while the reward climbed, in refinement."
    )
    max_norm_error: float = Field(1e-3, ge=0, description="Largest distance of an embedding's length from one.")
    max_embedding_shift: float = Field(
        0.2, ge=0, le=2, description="One minus the cosine of the mean embeddings of this and the previous set."
    )
    skew_sample: int = Field(
        200, ge=1, description="Rows of each feature view compared between offline and online store."
    )

    @field_validator("fail")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CHECKS:
                raise ValueError(f"no check is called {name!r}; the checks are {', '.join(CHECKS)}")
        return names


class RetentionSettings(Section):
    """What maintenance may remove. Nothing that the champion or the current tables stand on is ever removed."""

    keep: int = Field(
        3,
        ge=1,
        description="Newest artifacts of each kind (of each model, variant and seed) that stay besides those in use.",
    )
    champions: int = Field(2, ge=1, description="Earlier champions that stay, with their online vectors, for rollback.")
    days: float = Field(14.0, ge=0, description="Artifacts younger than this stay.")
    runs: int = Field(500, ge=1, le=10_000, description="Records of stage runs that stay.")


class ServeSettings(Section):
    """The online recommender."""

    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs an API key first.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one, which is printed.")
    max_k: int = Field(200, ge=1, le=10_000, description="Items an answer holds at most; asking for more is an error.")
    max_history: int = Field(500, ge=1, description="Item ids in one list of a request, at most.")
    max_body: int = Field(65_536, ge=1024, description="Bytes of a request's body, at most.")
    max_in_flight: int = Field(
        128, ge=1, description="Requests worked on or waiting at once; more are turned away with 503 and Retry-After."
    )
    rate: float = Field(
        0.0, ge=0, description="Requests a second that one key (without keys, one address) may make; 0: any number."
    )
    burst: int = Field(50, ge=1, description="Requests that one may make at once beyond its rate.")
    store_timeout_ms: float = Field(
        100.0,
        gt=0,
        description="Milliseconds that the feature store may take for a look-up; then the answer does without.",
    )
    breaker_failures: int = Field(
        5, ge=1, description="Look-ups failing in a row after which the feature store is left alone for a while."
    )
    breaker_seconds: float = Field(1.0, gt=0, description="How long it is left alone before it is tried again.")
    reload_seconds: float = Field(
        2.0, gt=0, description="How often the service looks for another champion, new candidates or a new build."
    )
    ann_above: int = Field(
        500_000,
        ge=1,
        description="Items above which the index is approximate (faiss, HNSW); its recall is measured when it is built.",
    )
    open_metrics: bool = Field(False, description="Answer /metrics without a key too; for a network that is shut off.")
    search: bool = Field(
        True, description="Load the text encoder for free-text search; without it /v1/search answers 503."
    )


class TrackingSettings(Section):
    """Experiment tracking."""

    mlflow: bool = Field(False, description="Log each evaluation to MLflow (needs the `tracking` extra).")
    mlflow_uri: str = Field("", description="MLflow tracking URI; empty: `mlruns` inside the workspace.")


class FeastSettings(Section):
    """The feature store."""

    online_store: Literal["sqlite", "redis"] = Field("sqlite", description="Online store: a file, or a Redis server.")
    redis_url: str = Field(
        "localhost:6379", description="Redis connection string in Feast's form: host:port[,password=…,ssl=true]."
    )


class RuntimeSettings(Section):
    """The machine."""

    threads: int = Field(0, ge=0, description="Threads for torch, implicit and DuckDB; 0: all cores.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device for torch; auto takes CUDA when present."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number type of training on CUDA; the CPU always uses float32."
    )
