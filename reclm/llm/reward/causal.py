"""Train RecLM's own reward model.

In: preference pairs. Out: the tuned language model with a head of one output. TRL's RewardTrainer tunes a LoRA adapter
and the head by the Bradley-Terry loss (RecLM, arXiv 2412.19302, section 3.3; InstructGPT, arXiv 2203.02155). Requests
and answers reach it as tokens, built as for serving; the adapter is merged for use. A small model learns only the form
this way; `reclm.llm.reward.encoder` is the default for that reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.models.batches import batches_by_length, pad
from reclm.llm.models.compat import prepare, report_progress, trainer_options
from reclm.llm.models.loading import load_model, load_tokenizer, without_base_path
from reclm.llm.models.processes import is_main_process
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.templates import prompt_and_answer
from reclm.llm.reward.model import Asked
from reclm.llm.reward.pairs import Pair

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import RewardConfig

    from reclm.settings.tree import Settings

LOGGED = {"loss": "loss", "accuracy": "accuracy", "margin": "margin"}
CENTRING = 0.01
"""Weight of the term that keeps the mean of rewards near 0."""
SCALE_PAIRS = 256
"""Train pairs whose scores are scaled to a standard deviation of 1."""


class CausalReward:
    """A reward model made of a sequence-classification model that reads a request and its answer as tokens."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        self.model, self._tokenizer, self._batch_size = model.eval(), tokenizer, batch_size

    def score(
        self, requests: Sequence[list[Message]], profiles: Sequence[str], known: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float32]:
        """Return the output of the head at the end of answer i to request i, (n,).

        It goes by what the request shows, as RecLM's does, not by `known`.
        """
        import torch

        tokens = [_tokens(self._tokenizer, messages, text) for messages, text in zip(requests, profiles, strict=True)]
        row_of = {sequence: row for row, sequence in enumerate(dict.fromkeys(map(tuple, tokens)))}
        distinct = list(row_of)
        scores = np.zeros(len(distinct), dtype=np.float32)
        pad_token = self._tokenizer.pad_token_id
        for rows in batches_by_length([len(row) for row in distinct], self._batch_size):
            batch = pad([distinct[row] for row in rows], pad_token, side="right", device=self.model.device)
            with torch.inference_mode():
                logits = self.model(**batch.inputs(), use_cache=False).logits
            scores[rows] = logits[:, 0].float().cpu().numpy()
        return scores[[row_of[tuple(sequence)] for sequence in tokens]]

    def as_module(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Asked]) -> nn.Module:
        """Return the model, which TRL takes as it is."""
        return self.model


def _tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], profile: str) -> list[int]:
    return list(tokenizer(prompt_and_answer(tokenizer, messages, profile)[1], add_special_tokens=False)["input_ids"])


def load_causal_reward(settings: Settings, folder: Path) -> CausalReward:
    """Load the merged reward model in `folder`. Raises ModelError when there is none."""
    if not folder.is_dir():
        raise ModelError(f"{folder} holds no reward model; run `reclm reward`")
    model = load_model(folder, settings, task="score", load_in="full")
    return CausalReward(model, load_tokenizer(folder), settings.profiles.batch_size)


def train_causal_reward(
    settings: Settings, pairs: Sequence[Pair], location: str, folder: Path
) -> tuple[CausalReward | None, list[dict[str, Any]], int]:
    """Train on the pairs of the fold `train` and save `folder/adapter` and `folder/model`.

    Returns the model (None in a process that is not the first), its curve as rows of (step, metric, value), and how
    many pairs were left out because they are longer than the model reads. Raises ModelError when none is left.
    """
    prepare()
    from datasets import Dataset
    from transformers import set_seed
    from trl import RewardTrainer

    set_seed(settings.seed)
    tokenizer = load_tokenizer(location, padding_side="right")
    model = load_model(location, settings, task="score")
    positions = model.config.get_text_config().max_position_embeddings
    train = [pair for pair in pairs if pair.fold == "train"]
    rows = [
        {f"{side}_ids": _tokens(tokenizer, pair.messages, getattr(pair, side)) for side in ("chosen", "rejected")}
        for pair in train
    ]
    fitting = [row for row in rows if max(map(len, row.values())) <= positions]
    if not fitting:
        raise ModelError(
            f"every reward pair is longer than the {positions} tokens the model reads; lower llm.max_prompt_tokens"
        )
    model.train()
    trainer = RewardTrainer(
        model=model,
        args=_config(settings, folder / "trainer"),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(fitting),
        peft_config=_lora(settings),
    )
    report_progress(trainer, "reward.learning_rate")
    trainer.train()
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    if not is_main_process():
        return None, [], 0
    tuned.save_pretrained(folder / "adapter")
    _merge(settings, tokenizer, train[:SCALE_PAIRS], location, folder)
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    curve = [
        {"step": entry["step"], "metric": LOGGED[name], "value": float(value)}
        for entry in trainer.state.log_history
        for name, value in entry.items()
        if name in LOGGED
    ]
    return load_causal_reward(settings, folder / "model"), curve, len(rows) - len(fitting)


def _merge(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], location: str, folder: Path
) -> None:
    """Save the merged model, with a head whose scores of some train pairs have a standard deviation of 1."""
    from peft import PeftModel

    base = load_model(location, settings, task="score", load_in="full")
    merged = PeftModel.from_pretrained(base, str(folder / "adapter")).merge_and_unload()
    without_base_path(folder / "adapter")
    reward = CausalReward(merged, tokenizer, settings.profiles.batch_size)
    requests = [pair.messages for pair in pairs]
    scores = reward.score([*requests, *requests], [*(p.chosen for p in pairs), *(p.rejected for p in pairs)])
    merged.score.weight.data /= max(1e-3, float(scores.std()))
    merged.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def _lora(settings: Settings) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.reward.lora_rank,
        lora_alpha=settings.reward.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=["score"],
        task_type="SEQ_CLS",
    )


def _config(settings: Settings, folder: Path) -> RewardConfig:
    from trl import RewardConfig

    return RewardConfig(
        **trainer_options(settings, folder),
        per_device_train_batch_size=settings.reward.batch_size,
        num_train_epochs=settings.reward.epochs,
        max_steps=settings.reward.max_steps or -1,
        learning_rate=settings.reward.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_length=None,
        center_rewards_coefficient=CENTRING,
        logging_steps=10,
        save_strategy="no",
    )
