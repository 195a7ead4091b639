"""Tune the base model on two-turn dialogues (stage `tune`).

In: dialogues and their teacher's profiles. Out: a tuned language model. TRL's SFTTrainer tunes a LoRA adapter (Hu et
al. 2021, arXiv 2106.09685) on all linear layers, with the loss on the assistant's turns only (RecLM, arXiv 2412.19302,
section 3.2). Dialogues reach it as tokens and labels, built by `templates.examples`, so that every model is trained
with the template it is served with; no answer is ever cut. This module puts them in order, epoch by epoch in seeded
batches of similar length, so that a run resumed from a checkpoint sees the batches that the interrupted one would have
seen. The adapter is merged into the base for use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.errors import ModelError, WorkspaceError
from reclm.llm.models.compat import prepare, report_progress, trainer_options
from reclm.llm.models.loading import load_model, load_tokenizer, model_location, without_base_path
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.versions import find_reusable, shared_parameters
from reclm.llm.prompts.corpus import Conversation, ProfileSource, make_conversations
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import Example, examples, token_counter
from reclm.progress import detail, quiet, step
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft, content_hash
from reclm.storage.files import write_rows
from reclm.storage.schemas import DIALOGUES, HELD_OUT, LANGUAGE_MODEL_CURVE

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig

    from reclm.settings.tree import Settings

KIND = "sft"
LOGGED = {"loss", "learning_rate", "grad_norm", "mean_token_accuracy", "entropy"}
BATCHES_SORTED_TOGETHER = 32


def write_sft(
    settings: Settings,
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    base: Artifact,
    parents: dict[str, str] | None = None,
) -> Artifact:
    """Tune the base model and return the artifact: `adapter/`, `model/` (merged), three parquet files.

    An artifact of the same settings and parents is returned as it is. Only dialogues of the fold `train` are trained
    on; the held-out ones are measured (`reclm.llm.tuning.heldout`). The files are `curve`, `held_out` and
    `dialogues`. `parents` holds the versions of the teacher and the warehouse. Raises WorkspaceError when no dialogue
    can be trained on, ModelError when a dialogue is longer than the model reads.
    """
    parents = {"base": base.version, **(parents or {})}
    parameters = {
        "tune": settings.tune.model_dump(mode="json"),
        **shared_parameters(settings),
        "dialogues": _fingerprint(dialogues, teacher),
    }
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    with write_in_main_process(settings.paths, KIND, parameters, parents, resumable=True) as draft:
        _tune(settings, dialogues, teacher, model_location(settings, base), draft)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))


def _fingerprint(dialogues: Sequence[Dialogue], teacher: ProfileSource) -> str:
    return content_hash([(repr(dialogue), teacher.of(dialogue.kind, dialogue.entity_id)) for dialogue in dialogues])


def _tune(
    settings: Settings, dialogues: Sequence[Dialogue], teacher: ProfileSource, location: str, draft: Draft
) -> None:
    from reclm.llm.tuning.heldout import measure

    tokenizer = load_tokenizer(location)
    tune = settings.tune
    conversations = make_conversations(
        dialogues,
        teacher,
        shape_of(settings),
        token_counter(tokenizer),
        fold="train",
        two_turns=tune.turns == "two",
        masking=tune.masking,
    )
    if not conversations.found:
        left_out = ", ".join(f"{count} {reason}" for reason, count in conversations.left_out.items()) or "none exist"
        raise WorkspaceError(
            f"no dialogue to learn from ({left_out}); run `reclm build` on a log whose items have texts"
        )
    sequences = examples(tokenizer, [conversation.messages for conversation in conversations.found])
    draft.metrics.update(
        dialogues=len(conversations.found),
        sequences=len(sequences),
        trimmed=conversations.trimmed,
        left_out=dict(conversations.left_out),
        longest=max(len(sequence.input_ids) for sequence in sequences),
        answer_tokens=sum(label >= 0 for sequence in sequences for label in sequence.labels),
    )
    detail(
        f"{len(conversations.found):,} dialogues to learn from, {conversations.trimmed:,} trimmed to "
        f"{settings.llm.max_prompt_tokens} tokens, {sum(conversations.left_out.values()):,} left out"
    )
    with step("supervised tuning"), quiet():
        curve = train_adapter(settings, location, tokenizer, sequences, draft.path)
    if not is_main_process():
        return
    with quiet():
        model = merge_adapter(settings, location, tokenizer, draft.path / "adapter", draft.path / "model")
    write_rows(draft.path / "curve.parquet", curve, LANGUAGE_MODEL_CURVE)
    _write_dialogues(draft.path / "dialogues.parquet", conversations.found)
    with step("measuring held-out users and items"):
        rows = measure(settings, dialogues, teacher, model, tokenizer)
    write_rows(draft.path / "held_out.parquet", rows, HELD_OUT)
    draft.metrics["held_out"] = {f"{row['metric']}/{row['kind']}": round(row["value"], 4) for row in rows}
    shutil.rmtree(draft.path / "trainer", ignore_errors=True)


def train_adapter(
    settings: Settings,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Example],
    folder: Path,
) -> list[dict[str, Any]]:
    """Tune a LoRA adapter on the base at `location` into `folder/adapter`; return the curve as (step, metric, value).

    With `trl.checkpoint_steps`, checkpoints are written to `folder/trainer` and a later call resumes from the last
    complete one. Raises ModelError when the loss is not finite.
    """
    prepare()
    import torch
    from trl import SFTTrainer

    torch.manual_seed(settings.seed)
    model = load_model(location, settings)
    _require_room(model, sequences)
    model.train()
    trainer = SFTTrainer(
        model=model,
        args=_config(settings, folder / "trainer"),
        processing_class=tokenizer,
        train_dataset=ordered(sequences, settings),
        peft_config=lora(settings.tune.lora_rank, settings.tune.lora_alpha),
    )
    report_progress(trainer, "tune.learning_rate")
    checkpoint = last_checkpoint(folder / "trainer")
    if checkpoint is not None:
        detail(f"resuming from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if is_main_process():
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder / "adapter")
    return [
        {"step": entry["step"], "metric": metric, "value": float(value)}
        for entry in trainer.state.log_history
        for metric, value in entry.items()
        if metric in LOGGED
    ]


def lora(rank: int, alpha: int) -> LoraConfig:
    """Return the configuration of a LoRA adapter on every linear layer except the output layer."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def _config(settings: Settings, folder: Path) -> SFTConfig:
    from trl import SFTConfig

    tune, checkpoints = settings.tune, settings.trl.checkpoint_steps
    return SFTConfig(
        **trainer_options(settings, folder),
        per_device_train_batch_size=tune.batch_size,
        gradient_accumulation_steps=tune.accumulation,
        num_train_epochs=1,  # the data holds all epochs, one after another
        max_steps=tune.max_steps or -1,
        train_sampling_strategy="sequential",
        learning_rate=tune.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=10,
        save_strategy="steps" if checkpoints else "no",
        save_steps=checkpoints or 500,
        save_total_limit=2,
    )


def _require_room(model: PreTrainedModel, sequences: Sequence[Example]) -> None:
    positions = model.config.get_text_config().max_position_embeddings
    longest = max(len(sequence.input_ids) for sequence in sequences)
    if longest > positions:
        raise ModelError(
            f"a dialogue of {longest} tokens is longer than the {positions} that the model reads, and answers are "
            "never cut; lower llm.max_prompt_tokens"
        )


def ordered(sequences: Sequence[Example], settings: Settings) -> Dataset:
    """Return the sequences of all epochs in training order.

    Each epoch is shuffled, then sorted by length within a few batches, so that little of a batch is padding, and the
    batches are shuffled again.
    """
    from datasets import Dataset

    tune, rng = settings.tune, np.random.default_rng(settings.seed)
    lengths = np.array([len(sequence.input_ids) for sequence in sequences])
    total = max(1, round(tune.epochs * len(sequences)))
    order: list[int] = []
    while len(order) < total:
        order += _epoch(lengths, tune.batch_size, rng)
    rows = [sequences[row] for row in order[:total]]
    return Dataset.from_dict(
        {"input_ids": [sequence.input_ids for sequence in rows], "labels": [sequence.labels for sequence in rows]}
    )


def _epoch(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[int]:
    rows = rng.permutation(len(lengths))
    span = batch_size * BATCHES_SORTED_TOGETHER
    chunks = [rows[start : start + span] for start in range(0, len(rows), span)]
    sorted_rows = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
    whole = len(rows) // batch_size * batch_size
    batches = sorted_rows[:whole].reshape(-1, batch_size)
    return [*batches[rng.permutation(len(batches))].ravel().tolist(), *sorted_rows[whole:].tolist()]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a trainer's folder and remove incomplete ones; None when there is none.

    A checkpoint is complete when its `trainer_state.json`, which is written last, can be read.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / "trainer_state.json").exists() and _is_json(path / "trainer_state.json"):
            found.append(path)
        elif is_main_process():
            shutil.rmtree(path)
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except json.JSONDecodeError:
        return False
    return True


def merge_adapter(
    settings: Settings, location: str, tokenizer: PreTrainedTokenizerBase, adapter: Path, folder: Path
) -> PreTrainedModel:
    """Merge the adapter into the base at `location`, save it with its tokenizer in `folder`, and return the model.

    A base that was tuned in 8 or 4 bits is merged in full precision.
    """
    from peft import PeftModel

    base = load_model(location, settings, load_in="full")
    merged: PreTrainedModel = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    without_base_path(adapter)
    shutil.rmtree(folder, ignore_errors=True)
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return merged.eval()


def _write_dialogues(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write the training dialogues, each with the user whose history it shows, so that a user's can be deleted."""
    rows = [
        {
            "dialogue_id": about.dialogue_id,
            "user_id": about.entity_id if about.kind == "user" else about.withheld_id,
            "messages": json.dumps(conversation.messages),
        }
        for conversation in conversations
        for about in [conversation.dialogue]
    ]
    write_rows(path, rows, DIALOGUES)
