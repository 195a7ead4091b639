"""The whole settings tree: every section under one name, the workspace and the seed.

Every key has a default that works and a description; `reclm settings` prints them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, PrivateAttr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from reclm.settings.data import DataSettings, DemoSettings, FeatureSettings, SplitSettings
from reclm.settings.llm import (
    EmbeddingSettings,
    LlmSettings,
    OpenAISettings,
    ProfileSettings,
    RefineSettings,
    RewardSettings,
    TeacherSettings,
    TrlSettings,
    TuneSettings,
)
from reclm.settings.operations import (
    FeastSettings,
    HealthSettings,
    PromotionSettings,
    RetentionSettings,
    RuntimeSettings,
    ScheduleSettings,
    ServeSettings,
    TrackingSettings,
)
from reclm.settings.recommenders import AblateSettings, EvaluationSettings, FusionSettings, TrainSettings
from reclm.storage.workspace import Workspace

ENVIRONMENT_PREFIX = "RECLM_"


class Given(NamedTuple):
    """A value that is not the default, as it was written, and where it comes from: `remembered`, `file`, `environment`,
    `flag`, or `preset` (`llm.preset`)."""

    value: Any
    source: str


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
    trl: TrlSettings = TrlSettings()
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
    _given: Mapping[str, Given] = PrivateAttr(default_factory=dict)

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
    def given(self) -> Mapping[str, Given]:
        """The settings that are not by default: {key: what was given, and where}."""
        return self._given

    @property
    def paths(self) -> Workspace:
        return Workspace(self.workspace.expanduser().resolve(), self.runtime.lock_minutes * 60)
