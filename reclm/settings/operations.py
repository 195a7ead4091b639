"""Settings of the running system: schedule, promotion, health, retention, serving, tracking, feature store, machine."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from reclm.settings.section import Names, Section

CHECKS = (
    "inbox_files",
    "set_apart",
    "concentration",
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
    """When the DAGs run, and who is notified."""

    inbox: str = Field(
        "inbox",
        description="Folder for new logs and item tables; a relative path is inside the workspace.",
    )
    settle_seconds: float = Field(
        10.0,
        ge=0,
        description="A new file of the inbox is taken when it has not changed for so long, in seconds; else it is "
        "taken the next time.",
    )
    features: str = Field("0 2 * * *", description="Cron of reclm_features; empty: only by hand.")
    tuning: str = Field(
        "0 4 * * 0", description="Cron of reclm_tuning, which drift starts too; empty: only by drift or by hand."
    )
    cold_items: str = Field("*/5 * * * *", description="Cron of reclm_cold_items; empty: only by hand.")
    maintenance: str = Field("0 1 * * *", description="Cron of reclm_maintenance; empty: only by hand.")
    retries: int = Field(2, ge=0, description="How often a failed task is tried again.")
    retry_seconds: int = Field(60, ge=0, description="Seconds before the first retry; doubled each time.")
    task_minutes: float = Field(
        240.0,
        gt=0,
        description="Minutes after which a task is ended, and tried again as after any failure. Tasks of the pool "
        "`accelerator` have training_minutes.",
    )
    training_minutes: float = Field(
        1440.0,
        gt=0,
        description="The same for tasks that train, or that write with a language model (pool `accelerator`).",
    )
    deadline_minutes: int = Field(
        720, ge=1, description="Minutes after which a DAG run that has not ended is reported, from when it was queued."
    )
    approval: bool = Field(False, description="Wait for a person's approval in Airflow before a candidate is promoted.")
    approval_hours: float = Field(
        24.0, gt=0, description="Hours to wait for an approval; without one the champion stays."
    )
    webhook: str = Field("", description="URL that failures and missed deadlines are posted to as JSON; empty: none.")
    email: Names = Field((), description="Addresses that receive failures and missed deadlines by mail.")
    smtp: str = Field("localhost:25", description="Mail server, as host:port.")


class PromotionSettings(Section):
    """When a candidate becomes champion; all values are measured on the validation slice."""

    metric: Literal["ndcg", "recall"] = Field(
        "ndcg", description="Metric that decides, at 20, over warm and cold items together (mixed)."
    )
    min_gain: float = Field(
        0.0,
        description="How much better a candidate of another backbone or variant must be than the champion: lower "
        "bound of the paired difference.",
    )
    max_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A candidate is kept out when its upper bound is lower than the best value of a champion of the "
        "last `window_days` days by more than this share.",
    )
    max_cold_drop: float = Field(
        0.2,
        ge=0,
        le=1,
        description="A candidate is kept out when its value over cold items (zero-shot) is lower than the best "
        "champion's by more than this share, where both were measured.",
    )
    window_days: int = Field(
        30,
        ge=1,
        description="Days for which the value of a former champion counts as a bound; that of the current champion "
        "always counts.",
    )
    max_below_baseline: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A candidate is kept out when its upper bound is lower than popularity or EASE on the same day by "
        "more than this share, once a champion has kept this bound.",
    )
    min_coverage: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Smallest share of the candidate items that the users' lists of 20 must contain together.",
    )
    max_popularity_lift: float = Field(
        0.5,
        ge=0,
        description="Largest difference between the mean popularity rank (0 rarest, 1 most popular) of "
        "recommended items and that of the users' own items.",
    )
    max_latency_ms: float = Field(
        50.0, gt=0, description="Largest median time to rank all items for one user, in milliseconds."
    )
    min_format: float = Field(
        0.999, ge=0, le=1, description="Smallest share of well-formed profiles, for candidates that use profiles."
    )
    min_interactions: int = Field(
        100,
        ge=0,
        description="Smallest number of interactions known at the snapshot `final`, once a champion had so many.",
    )
    min_users: int = Field(
        20,
        ge=1,
        description="Smallest number of users with validation truth, once a champion had so many; with fewer, models "
        "are not compared. Candidates are chosen on one half of the users and compared on the other where each half "
        "has so many.",
    )
    online_winner: bool = Field(
        False,
        description="A model of another kind becomes champion only after people preferred it: the interval of "
        "fct_trials must favour it.",
    )


class HealthSettings(Section):
    """Bounds of the health checks. A breach warns, or fails the run for checks named in `fail`."""

    fail: Names = Field(
        ("profile_format", "embedding_norm", "train_serve_skew"),
        description=f"Checks whose breach fails the run; the others warn. Any of {', '.join(CHECKS)}.",
    )
    max_set_apart: float = Field(
        0.05, ge=0, le=1, description="Largest share of a landing table's rows, without repeats, that may be set apart."
    )
    max_concentration: float = Field(
        0.5, ge=0, le=1, description="Largest share of the interactions that one user or one item may hold."
    )
    window_days: int = Field(7, ge=1, description="Number of latest days that are compared with the time before them.")
    min_volume: float = Field(
        0.3, ge=0, description="Smallest number of interactions a day in the window, as a share of the mean before it."
    )
    max_volume: float = Field(
        3.0,
        gt=0,
        description="Largest number of interactions a day in the window, as a multiple of the mean before it.",
    )
    max_category_shift: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Largest Jensen-Shannon distance (base 2) between the category mixes of the window and of "
        "the time before it.",
    )
    max_new_items: float = Field(
        0.5, ge=0, le=1, description="Largest share of the window's interactions that are with items first seen in it."
    )
    min_neighbours: float = Field(0.5, ge=0, le=1, description="Smallest share of warm users that have a neighbour.")
    min_distinct: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Smallest share of distinct profiles among users and items with known interactions or texts.",
    )
    max_similarity: float = Field(
        0.98,
        ge=0,
        le=1,
        description="Largest mean similarity of a profile to the most similar other one (over-smoothing).",
    )
    min_format: float = Field(0.999, ge=0, le=1, description="Smallest share of well-formed profiles.")
    max_ranking_drop: float = Field(
        0.02, ge=0, description="Largest fall of the held-out ranking during refinement while the reward rose."
    )
    max_norm_error: float = Field(1e-3, ge=0, description="Largest difference between an embedding's length and one.")
    max_embedding_shift: float = Field(
        0.2,
        ge=0,
        le=2,
        description="Largest value of one minus the cosine between the mean embeddings of this set and the "
        "previous one.",
    )
    skew_sample: int = Field(
        200, ge=1, description="Rows of each feature view that are compared between the offline and the online store."
    )

    @field_validator("fail")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CHECKS:
                raise ValueError(f"no check is called {name!r}; the checks are {', '.join(CHECKS)}")
        return names


class RetentionSettings(Section):
    """What maintenance may remove. What the champion or the current tables depend on is never removed."""

    keep: int = Field(
        3,
        ge=1,
        description="Latest artifacts of each kind (of each model, variant and seed) to keep besides those in use.",
    )
    champions: int = Field(2, ge=1, description="Earlier champions to keep, with their online vectors, for rollback.")
    days: float = Field(14.0, ge=0, description="Artifacts younger than this many days are kept.")
    runs: int = Field(500, ge=1, le=10_000, description="Records of stage runs to keep.")


class ServeSettings(Section):
    """The online recommender."""

    host: str = Field("127.0.0.1", description="Address to listen on; any address but loopback needs an API key first.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one, which is printed.")
    workers: int = Field(
        1, ge=1, le=64, description="Serving processes; each loads the champion and counts its own limits."
    )
    max_k: int = Field(
        200, ge=1, le=10_000, description="Largest number of items in an answer; a request for more is an error."
    )
    max_history: int = Field(
        500,
        ge=1,
        description="Largest number of entries in one list of a request. `items` and `exclude` may be as long as "
        "serve.max_body allows.",
    )
    max_list_body: int = Field(
        33_554_432, ge=1024, description="Largest size of a list of items (`PUT /v1/lists/{name}`), in bytes."
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="How much recommended items should differ, where a request does not say: 0 to 1."
    )
    max_per_category: int = Field(
        0, ge=0, description="Items of one category in a list, where a request does not say; 0: no limit."
    )
    boosts: Names = Field(
        (),
        description="Scores of categories raised or lowered, as `category=number` in standard deviations of a user's "
        "scores.",
    )
    max_body: int = Field(65_536, ge=1024, description="Largest size of a request's body, in bytes.")
    max_in_flight: int = Field(
        128,
        ge=1,
        description="Largest number of requests in work or waiting; further ones are answered 503 with Retry-After.",
    )
    rate: float = Field(
        0.0, ge=0, description="Requests a second allowed to one key (without keys, to one address); 0: no limit."
    )
    burst: int = Field(50, ge=1, description="Requests beyond the rate that a key may make at once.")
    store_timeout_ms: float = Field(
        100.0,
        gt=0,
        description="Milliseconds to wait for the feature store; then the answer is made without it.",
    )
    breaker_failures: int = Field(
        5, ge=1, description="Failed look-ups in a row after which the feature store is not used for a while."
    )
    breaker_seconds: float = Field(1.0, gt=0, description="Seconds until the feature store is tried again.")
    reload_seconds: float = Field(
        2.0, gt=0, description="Seconds between checks for another champion, new candidates or a new build."
    )
    trial: Literal["split", "interleave"] = Field(
        "split",
        description="How a challenger is tried: its users get its lists (`split`), or lists drafted from both models "
        "(`interleave`).",
    )
    challenger_share: float = Field(
        0.1, ge=0, le=1, description="Share of the users who meet the challenger (`reclm challenge`), by a hash."
    )
    exploration: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of the requests of known users, without filters or rules, that get a random list; `reclm "
        "replay` needs some. Rules set for all requests (serve.boosts and others) leave none.",
    )
    exploration_pool: int = Field(
        50,
        ge=1,
        description="Number of best items that a random list is drawn from; a larger pool lets more models be "
        "estimated.",
    )
    ann_above: int = Field(
        500_000,
        ge=1,
        description="Number of items above which the index is approximate (faiss, HNSW); its recall is measured "
        "when it is built.",
    )
    explorer: bool = Field(True, description="Serve the explorer's pages; they show everybody's profile and history.")
    wait: bool = Field(
        False,
        description="Start without a champion or key and refuse requests until there are; for container schedulers.",
    )
    open_metrics: bool = Field(False, description="Answer /metrics without a key; for closed networks only.")
    search: bool = Field(
        True, description="Load the text encoder for free-text search; without it /v1/search answers 503."
    )

    @field_validator("boosts")
    @classmethod
    def _numbers(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            category, _, number = entry.rpartition("=")
            try:
                valid = bool(category.strip()) and math.isfinite(float(number))
            except ValueError:
                valid = False
            if not valid:
                raise ValueError(f"{entry!r} is not of the form category=number, for example Coffee=0.5")
        return entries

    def boost_of_category(self) -> dict[str, float]:
        """Return `boosts` as {category: standard deviations}."""
        stated = (entry.rpartition("=") for entry in self.boosts)
        return {category.strip(): float(number) for category, _, number in stated}


class TrackingSettings(Section):
    """Experiment tracking."""

    mlflow: bool = Field(False, description="Log each evaluation to MLflow (needs the `tracking` extra).")
    mlflow_uri: str = Field("", description="MLflow tracking URI; empty: `mlruns` inside the workspace.")


class FeastSettings(Section):
    """The feature store."""

    online_store: Literal["sqlite", "redis"] = Field(
        "sqlite",
        description="Where online features are kept: `sqlite` (a file of the workspace) or `redis` (a server; "
        "for several service processes).",
    )
    keep_versions: int = Field(
        3,
        ge=0,
        description="Earlier published features to keep, of those that models were trained on: their training data can "
        "be made again.",
    )
    redis_url: str = Field(
        "localhost:6379", description="Redis connection string in Feast's form: host:port[,password=…,ssl=true]."
    )


class RuntimeSettings(Section):
    """The machine."""

    lock_minutes: float = Field(
        120.0, gt=0, description="Minutes to wait for another process that works on the same files, then give up."
    )
    threads: int = Field(0, ge=0, description="Threads for torch, implicit and DuckDB; 0: all cores.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device for torch; auto takes CUDA when present."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number type of language models. `bfloat16` is used on CUDA and on processors with instructions "
        "for it (AMX, AVX512-bf16, ARM's); others compute in float32.",
    )
