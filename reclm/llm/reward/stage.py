"""Train the reward model (stage `reward`).

In: dialogues and their teacher's profiles. Out: a model that scores profiles. Two kinds have one interface: a sentence
encoder with a trained head (`reclm.llm.reward.encoder`, the default), and the tuned language model with a score head
(`reclm.llm.reward.causal`), as in RecLM (arXiv 2412.19302, section 3.3). Both learn from the same pairs and are
measured on the pairs of held-out entities, per kind of negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reclm.errors import WorkspaceError
from reclm.llm.models.loading import load_tokenizer, model_location
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.versions import find_reusable, shared_parameters
from reclm.llm.prompts.corpus import ProfileSource
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.templates import token_counter
from reclm.llm.reward.encoder import load_encoder_reward
from reclm.llm.reward.encoder_training import train_encoder_reward
from reclm.llm.reward.model import RewardModel
from reclm.llm.reward.pairs import Pair, dialogues_fingerprint, make_pairs
from reclm.llm.tuning.heldout import Row
from reclm.progress import detail, quiet, step
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft
from reclm.storage.files import write_rows
from reclm.storage.schemas import HELD_OUT, LANGUAGE_MODEL_CURVE

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KIND = "reward"
ALL = "all"


def write_reward(
    settings: Settings,
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    sft: Artifact,
    parents: dict[str, str] | None = None,
) -> Artifact:
    """Train the reward model and return the artifact: its weights, `curve` and `held_out` parquet.

    An artifact of the same settings and parents is returned as it is. `parents` holds the versions of the teacher and
    the warehouse. Raises WorkspaceError when no pair can be made.
    """
    parents = {"sft": sft.version, **(parents or {})}
    parameters = {
        "reward": settings.reward.model_dump(mode="json"),
        **shared_parameters(settings),
        "dialogues": dialogues_fingerprint(dialogues, teacher),
    }
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    location = model_location(settings, sft)
    pairs = make_pairs(dialogues, teacher, settings, count=token_counter(load_tokenizer(location)))
    if not any(pair.fold == "train" for pair in pairs):
        raise WorkspaceError(
            "no reward pair can be made: the teacher wrote too few profiles, or every rate in the section `reward` is 0"
        )
    with write_in_main_process(settings.paths, KIND, parameters, parents) as draft:
        _train(settings, pairs, location, draft)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))


def _train(settings: Settings, pairs: Sequence[Pair], location: str, draft: Draft) -> None:
    counts = Counter(f"{pair.fold}/{pair.negative}" for pair in pairs)
    draft.metrics.update(pairs=len(pairs), counts=dict(sorted(counts.items())))
    held_out = [pair for pair in pairs if pair.fold == "held_out"]
    detail(f"{len(pairs) - len(held_out):,} pairs to learn from, {len(held_out):,} held out")
    model: RewardModel | None
    if settings.reward.model == "encoder":
        if not is_main_process():
            return
        with step("reward model: encoder and head"):
            encoder_reward, curve = train_encoder_reward(settings, pairs)
        encoder_reward.save(draft.path)
        model = encoder_reward
    else:
        from reclm.llm.reward.causal import train_causal_reward

        with step("reward model: tuned language model with a score head"), quiet():
            model, curve, too_long = train_causal_reward(settings, pairs, location, draft.path)
        draft.metrics["too_long"] = too_long
    if model is None:
        return
    write_rows(draft.path / "curve.parquet", curve, LANGUAGE_MODEL_CURVE)
    rows = accuracy_rows(model, held_out)
    write_rows(draft.path / "held_out.parquet", rows, HELD_OUT)
    draft.metrics["accuracy"] = {row["kind"]: round(row["value"], 4) for row in rows}
    detail("held-out accuracy: " + ", ".join(f"{row['kind']} {row['value']:.3f} ± {row['error']:.3f}" for row in rows))


def accuracy_rows(model: RewardModel, pairs: Sequence[Pair]) -> list[Row]:
    """Compute the share of pairs whose chosen profile scores higher, a tie counting half, in all and per negative."""
    if not pairs:
        return []
    requests = [pair.messages for pair in pairs]
    known = [pair.known for pair in pairs]
    better = model.score(requests, [pair.chosen for pair in pairs], known)
    worse = model.score(requests, [pair.rejected for pair in pairs], known)
    correct = np.where(better == worse, 0.5, better > worse).astype(np.float64)
    kinds = np.array([pair.negative for pair in pairs])
    rows = [_row(ALL, correct)]
    return rows + [_row(str(kind), correct[kinds == kind]) for kind in sorted(set(kinds.tolist()))]


def _row(kind: str, correct: NDArray[np.float64]) -> Row:
    error = float(correct.std(ddof=1) / np.sqrt(len(correct))) if len(correct) > 1 else float("nan")
    return {"metric": "accuracy", "kind": kind, "value": float(correct.mean()), "error": error, "n": len(correct)}


def load_reward(settings: Settings, artifact: Artifact) -> RewardModel:
    """Load the reward model of an artifact, of either kind. Raises ModelError when it cannot be read."""
    if artifact.manifest["parameters"]["reward"]["model"] == "encoder":
        return load_encoder_reward(settings, artifact.path)
    from reclm.llm.reward.causal import load_causal_reward

    return load_causal_reward(settings, artifact.path / "model")
