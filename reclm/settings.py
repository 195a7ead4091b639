"""One typed settings tree: a TOML file < `RECLM_…` environment variables < `--set key=value` flags.

Every key has a default that works and a description; `reclm settings` prints them all. An unknown key, wherever it
comes from, is an error that names the nearest right one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from reclm.errors import SettingsError
from reclm.llm.settings import (
    LlmSettings,
    OpenAISettings,
    RefineSettings,
    RewardSettings,
    TeacherSettings,
    TrainerSettings,
    TuneSettings,
)
from reclm.model_settings import (
    ARMS,
    BACKBONES,
    BASELINES,
    EXTRAS,
    AblateSettings,
    EvaluationSettings,
    FusionSettings,
    TrainSettings,
)
from reclm.operations_settings import (
    HealthSettings,
    PromotionSettings,
    RetentionSettings,
    ScheduleSettings,
    ServeSettings,
    TrackingSettings,
)
from reclm.section import Names, Section
from reclm.workspace import Workspace

ENVIRONMENT_PREFIX = "RECLM_"
SETTINGS_FILE = "reclm.toml"
NOT_SETTINGS = {"RECLM_SETTINGS", "RECLM_REPOSITORY", "RECLM_EXTERNAL_ROOT", "RECLM_SHARED_DATA"}


class DataSettings(Section):
    """Where a log comes from and how its columns are called."""

    importer: Literal["auto", "columns", "movielens", "mind", "mind_raw", "presplit", "demo"] = Field(
        "auto",
        description="Format of the folder given to ingest: `columns` (any CSV/parquet/JSONL with the mapping below), "
        "`movielens` (100K, 1M, latest, 25M), `mind_raw` (behaviors.tsv, news.tsv), `mind` (RecLM's published files as "
        "parquet), `presplit` (interactions with a split column), `demo`; `auto` looks at the file names.",
    )
    regime: Literal["dense", "sparse"] = Field(
        "dense", description="`sparse` lets models know only the train rows marked in_sparse_train (1 to 5 a user)."
    )
    interactions: str = Field("", description="File of the log, when the folder holds several candidates.")
    items: str = Field(
        "", description="File of the item table; empty: the file whose name begins with `items`, if any."
    )
    users: str = Field(
        "", description="File of the user table; empty: the file whose name begins with `users`, if any."
    )
    user_column: str = Field("", description="Column of the user id; empty: user_id, or a usual synonym.")
    item_column: str = Field("", description="Column of the item id; empty: item_id, or a usual synonym.")
    timestamp_column: str = Field(
        "", description="Column of the event time; empty: event_ts, or a usual synonym; a log may have none."
    )
    weight_column: str = Field(
        "", description="Column of a rating or weight; empty: weight, or a usual synonym; a log may have none."
    )
    title_column: str = Field("", description="Column of an item's title; empty: title, or a usual synonym.")
    text_columns: Names = Field(
        (), description="Columns of an item that make its text; empty: every column not mapped elsewhere."
    )
    categories_column: str = Field(
        "", description="Column of an item's categories; empty: categories, or a usual synonym."
    )
    created_column: str = Field(
        "", description="Column of the time an item appeared; empty: created_ts, or a usual synonym."
    )
    as_of: str = Field(
        "",
        description="Moment of knowledge, ISO 8601 (UTC unless it says otherwise): interactions at or after it "
        "are landed but not yet known. Empty: all that has landed.",
    )
    min_weight: float | None = Field(
        None, description="Rows with a lower weight are not likes and are set apart (MovieLens: 4)."
    )

    @field_validator("as_of")
    @classmethod
    def _as_utc(cls, text: str) -> str:
        if not text:
            return ""
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


class DemoSettings(Section):
    """The seeded demo world."""

    users: int = Field(1500, ge=10, description="Users of the shop.")
    items: int = Field(1000, ge=20, description="Items of the shop.")
    interactions: int = Field(45_000, ge=100, description="Interactions, about.")
    days: int = Field(90, ge=4, description="Days the log spans.")
    late_items: float = Field(
        0.15, ge=0, lt=0.9, description="Share of items that arrive late and are cold at the test cut-off."
    )
    missing_texts: float = Field(0.05, ge=0, le=1, description="Share of items without a text.")
    misleading_texts: float = Field(0.03, ge=0, le=1, description="Share of items whose text speaks of something else.")


class SplitSettings(Section):
    """How history is cut into train, valid and test when the data does not say."""

    train_share: float = Field(0.8, gt=0, lt=1, description="Share of interactions, by time, before the first cut-off.")
    valid_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share between the first and the second cut-off (pre-assigned splits without a valid slice: share of train rows set aside).",
    )
    zero_shot_share: float = Field(
        0.0, ge=0, lt=1, description="Share of items held out as zero-shot besides those first seen after the cut-off."
    )
    pseudo_cold_share: float = Field(
        0.1, ge=0, lt=0.9, description="Share of train items held out as if cold while models are selected."
    )


class FeatureSettings(Section):
    """Neighbourhoods, prompts and activity."""

    neighbours: int = Field(20, ge=1, le=200, description="Neighbours kept per user and per item.")
    recent_items: int = Field(
        50, ge=2, description="Most recent items of a user that count for item-item co-occurrence."
    )
    prompt_history: int = Field(
        20, ge=1, description="Items of the target kept for prompts, half of them the latest, half the most typical."
    )
    prompt_neighbours: int = Field(5, ge=0, description="Neighbours shown in a prompt.")
    max_text_length: int = Field(
        2000, ge=50, description="Characters of an item's text that are used; the rest is kept in staging."
    )


class ProfileSettings(Section):
    """Who writes the profiles."""

    engine: Literal["transformers", "vllm", "openai", "extractive"] = Field(
        "transformers",
        description="Engine that writes profiles: the tuned language model by `transformers` or `vllm` (in process), an "
        "OpenAI-compatible endpoint, or keywords (`extractive`, no language model).",
    )
    model: Literal["refined", "tuned", "base"] = Field(
        "refined", description="Which stage's language model writes (transformers, vllm)."
    )
    batch_size: int = Field(64, ge=1, description="Prompts answered at once (transformers).")
    temperature: float = Field(0.0, ge=0, description="Sampling temperature of the first try; 0: greedy.")
    retries: int = Field(
        3, ge=0, description="Times a malformed answer is asked for again, sampled, before it is counted as such."
    )
    shard_size: int = Field(512, ge=1, description="Answers per shard; a killed run repeats at most one shard.")
    identities: int = Field(
        3, ge=1, le=10, description="Identity phrases of a user profile (an item's has `item_phrases`)."
    )
    interests: int = Field(8, ge=1, le=20, description="Interest phrases of a user profile.")
    item_phrases: int = Field(5, ge=1, le=10, description="Phrases of each part of an item profile.")


class EmbeddingSettings(Section):
    """The text encoder."""

    model: str = Field(
        "packaged-minilm",
        description="`packaged-minilm` (all-MiniLM-L6-v2, ships with a package), a local folder or a Hub id of a sentence-transformers model.",
    )
    batch_size: int = Field(32, ge=1, description="Texts encoded at once.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number type inside the encoder; bfloat16 is over twice as fast on processors that have it, at a cosine of 0.9999 to float32.",
    )
    max_tokens: int = Field(128, ge=8, description="Tokens of a text that are read.")
    shard_size: int = Field(
        4096, ge=1, description="Vectors written per shard; a killed run repeats at most one shard."
    )


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


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    workspace: Path = Field(Path("workspace"), description="Folder that holds everything one data set produced.")
    seed: int = Field(
        42, ge=0, description="The seed of everything that draws: demo world, splits, samples, intervals."
    )
    data: DataSettings = DataSettings()
    demo: DemoSettings = DemoSettings()
    split: SplitSettings = SplitSettings()
    features: FeatureSettings = FeatureSettings()
    profiles: ProfileSettings = ProfileSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    llm: LlmSettings = LlmSettings()
    teacher: TeacherSettings = TeacherSettings()
    openai: OpenAISettings = OpenAISettings()
    tune: TuneSettings = TuneSettings()
    reward: RewardSettings = RewardSettings()
    refine: RefineSettings = RefineSettings()
    trainer: TrainerSettings = TrainerSettings()
    feast: FeastSettings = FeastSettings()
    fusion: FusionSettings = FusionSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    ablate: AblateSettings = AblateSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    tracking: TrackingSettings = TrackingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    promotion: PromotionSettings = PromotionSettings()
    health: HealthSettings = HealthSettings()
    retention: RetentionSettings = RetentionSettings()
    serve: ServeSettings = ServeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` merges file, environment and flags itself, to name the nearest key in errors

    @property
    def paths(self) -> Workspace:
        return Workspace(self.workspace.expanduser().resolve())


def bound_libraries(settings: Settings) -> None:
    """Lets numpy and torch use `runtime.threads` threads: to be called before they are imported, when OpenBLAS and OpenMP look."""
    if settings.runtime.threads:
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", str(settings.runtime.threads))


def describe(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(key, type, default, description) of every leaf of the tree, in order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from describe(kind, f"{prefix}{name}.")
        else:
            shown = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind).replace("typing.", "")
            yield f"{prefix}{name}", shown, field.default, field.description or ""


def known_keys() -> list[str]:
    return [key for key, *_ in describe()]


def _reject_unknown(key: str, origin: str) -> None:
    keys = known_keys()
    if key in keys:
        return
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or [k for k in keys if k.endswith(f".{key}")]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SettingsError(f"unknown settings key {key!r} in {origin}{hint} (`reclm settings` lists all)")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plant(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def _from_file(file: Path | None) -> Iterator[tuple[str, Any]]:
    if file is None:
        return
    try:
        tree = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise SettingsError(f"settings file {file} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None
    for key, value in _flatten(tree):
        _reject_unknown(key, str(file))
        yield key, value


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _reject_unknown(key, f"environment variable {name}")
            yield key, environment[name]


def _from_flags(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            raise SettingsError(f"--set {flag!r} is not of the form key=value")
        _reject_unknown(key.strip(), f"--set {flag}")
        yield key.strip(), value


def load(
    flags: Sequence[str] = (),
    *,
    workspace: Path | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force. `file` defaults to `RECLM_SETTINGS`, else `reclm.toml` of the current folder if it exists.

    Raises SettingsError naming the key, what was given, and the nearest right key or the allowed values.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get(f"{ENVIRONMENT_PREFIX}SETTINGS"):
        file = Path(environment[f"{ENVIRONMENT_PREFIX}SETTINGS"])
    if file is None and Path(SETTINGS_FILE).exists():
        file = Path(SETTINGS_FILE)
    tree: dict[str, Any] = {}
    for source in (_from_file(file), _from_environment(environment), _from_flags(flags)):
        for key, value in source:
            _plant(tree, key, value)
    if workspace is not None:
        tree["workspace"] = workspace
    try:
        settings = Settings(**tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"settings key {key!r}: {first['msg']} (given: {first['input']!r})") from None
    _check_names("train.models", settings.train.models, BACKBONES)
    _check_names("train.variants", settings.train.variants, ("base", "augment", "shuffled"))
    _check_names("evaluation.baselines", settings.evaluation.baselines, BASELINES)
    _check_names("ablate.arms", settings.ablate.arms, ARMS)
    _check_names("ablate.models", settings.ablate.models, BACKBONES)
    _check_names("ablate.extras", settings.ablate.extras, EXTRAS)
    if settings.split.train_share + settings.split.valid_share >= 1:
        raise SettingsError("split.train_share + split.valid_share must stay below 1, or no test slice is left")
    return settings


def _check_names(key: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{key}: unknown name {name!r}{hint} (allowed: {', '.join(allowed)})")
