"""The arms of an ablation: each is one way to write profiles.

In: the name of an arm. Out: its profiles of each snapshot, as vectors in the order of the training data. The arms are
those of RecLM (arXiv 2412.19302, section 4.4): keywords without a language model, the untuned base model, tuning with
one turn and with two turns, and refinement; extras change one more thing each. The artifacts that an arm needs are made
as the stages make them, so later runs reuse them. None of them becomes current, and nothing is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.dataset import TrainingData, Variant
from reclm.errors import WorkspaceError
from reclm.generation.embeddings import write_embeddings
from reclm.generation.stage import write_profiles
from reclm.llm.pipeline import ModelPipeline, why_no_model
from reclm.profiles import grammar
from reclm.progress import say
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import PROFILE_FILES
from reclm.text.encoder import text_hash
from reclm.text.reader import embedding_name

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Stage = Literal["keywords", "base", "tuned", "refined"]
SIZES = ("small", "medium", "large")
JUDGES = ("encoder", "causal")
COMPARED_VARIANTS: tuple[Variant, ...] = ("augment", "shuffled")


@dataclass(frozen=True)
class Arm:
    """One way to write profiles, and the variants of the backbones that are trained with them.

    `stage` is how far the language model is trained, `overrides` the settings that differ ({section: {key: value}}),
    `extra` the extra comparison that the arm belongs to, '' for a main arm.
    """

    name: str
    stage: Stage
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variants: tuple[Variant, ...] = COMPARED_VARIANTS
    extra: str = ""

    def settings(self, settings: Settings) -> Settings:
        """Return the settings with this arm's overrides."""
        return overridden(settings, self.overrides)


TWO_TURNS: dict[str, dict[str, Any]] = {"tune": {"turns": "two", "masking": True}}
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("extractive", "keywords", {"profiles": {"engine": "extractive"}}),
        Arm("base", "base", TWO_TURNS),
        Arm("single_turn", "tuned", {"tune": {"turns": "one", "masking": True}}),
        Arm("two_turn", "tuned", TWO_TURNS),
        Arm("refined", "refined", TWO_TURNS),
    )
}


def overridden(settings: Settings, overrides: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return the settings with other values, {section: {key: value}}."""
    sections = {
        name: getattr(settings, name).model_copy(update=dict(values)) for name, values in overrides.items() if values
    }
    return settings.model_copy(update=sections)


def chosen_arms(settings: Settings) -> list[Arm]:
    """Return the arms that the settings name, then those of the extras, without repeating an arm."""
    ablation, llm = settings.ablate, settings.llm
    arms = [ARMS[name] for name in ablation.arms]
    if "masking" in ablation.extras:
        arms.append(Arm("unmasked", "tuned", {"tune": {"turns": "two", "masking": False}}, ("augment",), "masking"))
    if "sizes" in ablation.extras and llm.base_model == "tiny":
        sizes = [size for size in SIZES if size != llm.tiny_size or "two_turn" not in ablation.arms]
        arms += [
            Arm(f"two_turn_{size}", "tuned", {**TWO_TURNS, "llm": {"tiny_size": size}}, ("augment",), "sizes")
            for size in sizes
        ]
    if "reward" in ablation.extras:
        judges = [judge for judge in JUDGES if judge != settings.reward.model or "refined" not in ablation.arms]
        arms += [
            Arm(f"refined_{judge}", "refined", {**TWO_TURNS, "reward": {"model": judge}}, ("augment",), "reward")
            for judge in judges
        ]
    return arms


def with_possible_arms(settings: Settings) -> Settings:
    """Return the settings, with the keyword arm alone where no language model can be trained.

    Raises WorkspaceError when the settings name no keyword arm then.
    """
    wanted, keywords = settings.ablate, ("extractive",)
    if wanted.arms == keywords and not wanted.extras:
        return settings
    reason = why_no_model(settings)
    if not reason:
        return settings
    if keywords[0] not in wanted.arms:
        raise WorkspaceError(
            f"every writer of ablate.arms is a language model, and none can be trained: {reason}; set ablate.arms to "
            "extractive, or bring more data"
        )
    say(f"only keywords are compared, no language model can be trained: {reason}")
    return settings.model_copy(update={"ablate": wanted.model_copy(update={"arms": keywords, "extras": ()})})


@dataclass
class ArmOutput:
    """The artifacts of an arm: its language models by artifact kind (none for keywords), and its profiles."""

    arm: Arm
    models: dict[str, Artifact]
    profiles: Artifact


def make_arm(settings: Settings, arm: Arm) -> ArmOutput:
    """Make or reuse the arm's models, write its profiles, and embed their texts."""
    own = arm.settings(settings)
    models: dict[str, Artifact] = {}
    if arm.stage != "keywords":
        own = overridden(own, {"profiles": {"engine": _engine(own)}})
        pipeline = ModelPipeline(own)
        models["base"] = pipeline.base_model()
        if arm.stage != "base":
            models["sft"] = pipeline.tuned_model()
        if arm.stage == "refined":
            models["reward"], models["refine"] = pipeline.reward_model(), pipeline.refined_model()
    writer = models.get("refine") or models.get("sft") or models.get("base")
    profiles = write_profiles(own, model=writer, current=False)
    write_embeddings(settings, profiles=profiles)
    return ArmOutput(arm, models, profiles)


def _engine(settings: Settings) -> str:
    return settings.profiles.engine if settings.profiles.engine in ("transformers", "vllm") else "transformers"


Vectors = dict[str, NDArray[np.float32]]


def load_vectors(settings: Settings, wanted: set[str]) -> Vectors:
    """Return {text_hash: vector} of the wanted texts, from all embeddings artifacts of the settings' encoder."""
    model, found = embedding_name(settings), Vectors()
    for artifact in artifacts.all_of(settings.paths, "embeddings"):
        if artifact.manifest["parameters"]["model"] != model:
            continue
        for shard in sorted(artifact.path.glob("vectors-*.parquet")):
            table = pq.read_table(shard, columns=["text_hash", "embedding"])
            table = table.filter(pc.is_in(table["text_hash"], pa.array(sorted(wanted), pa.string())))
            vectors = table["embedding"].to_pylist()
            found.update(
                (key, np.asarray(vector, dtype=np.float32))
                for key, vector in zip(table["text_hash"].to_pylist(), vectors, strict=True)
            )
    return found


def texts_of(profiles: Artifact, kind: str, snapshot: str) -> dict[str, str]:
    """Return {id: profile} of the profiles that publishing would accept: well formed, and not empty."""
    table = pq.read_table(profiles.path / PROFILE_FILES["user" if kind == "user" else "item"])
    return {
        row[f"{kind}_id"]: row["profile"]
        for row in table.select([f"{kind}_id", "snapshot", "profile", "parse_status"]).to_pylist()
        if row["snapshot"] == snapshot and row["parse_status"] == grammar.OK and (row["profile"] or "").strip()
    }


def with_profiles(settings: Settings, data: TrainingData, profiles: Artifact) -> TrainingData:
    """Return the data with an artifact's profiles in place of the published ones; NaN rows where there is none."""
    texts = {kind: texts_of(profiles, kind, data.snapshot) for kind in ("user", "item")}
    vectors = load_vectors(settings, {text_hash(text) for known in texts.values() for text in known.values()})
    return replace(
        data,
        user_profile=_matrix(data.user_ids.tolist(), texts["user"], vectors),
        item_profile=_matrix(data.item_ids.tolist(), texts["item"], vectors),
    )


def _matrix(ids: Sequence[str], texts: Mapping[str, str], vectors: Vectors) -> NDArray[np.float32] | None:
    rows = {one: vectors[text_hash(texts[one])] for one in ids if one in texts}
    if not rows:
        return None
    matrix = np.full((len(ids), len(next(iter(rows.values())))), np.nan, dtype=np.float32)
    for position, one in enumerate(ids):
        if one in rows:
            matrix[position] = rows[one]
    return matrix
