"""Optimise the policy of the refinement with TRL's PPO or RLOO.

In: a tuned model and requests. Out: refined policies. After every update the policy is handed to a `RefinementMonitor`,
which measures and saves it and may stop the training. Where settings differ from TRL's defaults, they are chosen for a
small model on a CPU: two passes of PPO over a batch instead of four (each costs as much as writing the answers),
returns that are not discounted along the answer (its first phrase counts as much as its last), no sample tables, no
checkpoints, and no garbage collection of the whole process after every batch.
"""

from __future__ import annotations

import gc
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reclm.errors import ModelError
from reclm.llm.models.compat import prepare, trainer_options, unwrap_policy
from reclm.llm.models.loading import load_model
from reclm.llm.prompts.templates import encode, render
from reclm.llm.reward.model import Asked, score_shared
from reclm.llm.tuning.rollouts import draw_as_served
from reclm.llm.tuning.sft import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from reclm.llm.reward.model import RewardModel
    from reclm.llm.tuning.monitor import RefinementMonitor
    from reclm.settings.tree import Settings

PPO_EPOCHS = 2
MISSING_END_PENALTY = 1.0
"""What an answer without its end token loses, by either method."""
GENERATIONS = 4
DIVERGED = ("probability tensor", "device-side assert")
"""Parts of torch's messages, on a CPU and on CUDA, when it samples from probabilities that are NaN."""
PPO_METRICS = {
    "objective/scores": "reward",
    "objective/kl": "kl",
    "policy/entropy_avg": "entropy",
    "policy/clipfrac_avg": "clipped",
    "loss/policy_avg": "policy_loss",
    "loss/value_avg": "value_loss",
}
RLOO_METRICS = {"reward": "reward", "kl": "kl", "entropy": "entropy", "loss": "policy_loss"}


def ppo(
    settings: Settings,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Asked],
    reward: RewardModel,
    monitor: RefinementMonitor,
    folder: Path,
) -> None:
    """Run proximal policy optimisation, with a critic that starts from the tuned model.

    `requests` ask for profiles, `folder` is the trainer's own. Raises what `monitor.after_update` raises, and
    ModelError when the training diverges.
    """
    prepare()
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
        from trl.experimental.ppo import PPOConfig, PPOTrainer

    set_seed(settings.seed)
    refine, batch = settings.refine, _batch_size(settings, len(requests))
    policy = load_model(location, settings)
    critic = _critic(settings, location)
    if settings.llm.gradient_checkpointing:
        policy.gradient_checkpointing_enable()
        policy.enable_input_require_grads()
    config = PPOConfig(
        **_options(settings, folder),
        per_device_train_batch_size=batch,
        local_rollout_forward_batch_size=batch,
        total_episodes=refine.steps * batch * _processes(),
        num_ppo_epochs=PPO_EPOCHS,
        num_mini_batches=1,
        lam=1.0,
        response_length=settings.llm.max_profile_tokens,
        stop_token="eos",
        missing_eos_penalty=MISSING_END_PENALTY,
        kl_coef=refine.kl,
        num_sample_generations=0,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=cast("PreTrainedModel", reward.as_module(tokenizer, requests)),
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": [encode(tokenizer, asked.messages) for asked in requests]}),
        peft_config=lora(refine.lora_rank, refine.lora_alpha),
    )
    trainer.remove_callback(PrinterCallback)
    unwrap_policy(trainer)
    model = trainer.accelerator.unwrap_model(trainer.model).policy
    trainer.add_callback(_callback(monitor, lambda: model, PPO_METRICS))
    _run(trainer, monitor, model)


def _critic(settings: Settings, location: str) -> PreTrainedModel:
    """Return the value model: the tuned model, frozen, with a head of one output that starts at 0 and is trained."""
    import torch

    critic = load_model(location, settings, task="score")
    critic.requires_grad_(False)
    head = cast(torch.nn.Linear, critic.score)
    head.requires_grad_(True)
    torch.nn.init.zeros_(head.weight)
    return critic


def rloo(
    settings: Settings,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Asked],
    reward: RewardModel,
    monitor: RefinementMonitor,
    folder: Path,
) -> None:
    """Run REINFORCE with leave-one-out baselines: the other answers to a request are an answer's baseline; no critic.

    The arguments and errors are those of `ppo`.
    """
    prepare()
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import RLOOConfig, RLOOTrainer

    set_seed(settings.seed)
    refine, batch = settings.refine, settings.refine.batch_size
    generations = next(n for n in (*range(GENERATIONS, 1, -1), batch) if batch % n == 0)
    batch = min(batch // generations, max(1, len(requests) // _processes())) * generations
    texts = [_without_bos(tokenizer, render(tokenizer, asked.messages, generation=True)) for asked in requests]

    def judge(
        prompts: list[str], completions: list[str], row: list[int], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        scores = score_shared(reward, [requests[number] for number in row], [text.strip() for text in completions])
        ended = [ids[-1:] == [tokenizer.eos_token_id] for ids in completion_ids]
        return [float(score) - (0 if end else MISSING_END_PENALTY) for score, end in zip(scores, ended, strict=True)]

    config = RLOOConfig(
        **_options(settings, folder),
        per_device_train_batch_size=batch,
        num_generations=generations,
        max_steps=refine.steps,
        max_completion_length=settings.llm.max_profile_tokens,
        beta=refine.kl,
        use_vllm=False,
    )
    trainer = RLOOTrainer(
        model=load_model(location, settings),
        reward_funcs=judge,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(texts)))}),
        peft_config=lora(refine.lora_rank, refine.lora_alpha),
    )
    trainer.remove_callback(PrinterCallback)
    model = trainer.accelerator.unwrap_model(trainer.model)
    trainer.add_callback(_callback(monitor, lambda: model, RLOO_METRICS))
    _run(trainer, monitor, model)


METHODS: Mapping[str, Callable[..., None]] = {"ppo": ppo, "rloo": rloo}


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Remove the start token that the template wrote, because RLOOTrainer lets the tokenizer add its own."""
    adds = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(str(tokenizer.bos_token)) if adds else text


def _batch_size(settings: Settings, available: int) -> int:
    return max(2, min(settings.refine.batch_size, available) // _processes())


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _options(settings: Settings, folder: Path) -> dict[str, Any]:
    return trainer_options(settings, folder) | {
        "learning_rate": settings.refine.learning_rate,
        "temperature": settings.refine.temperature,
        "logging_steps": 1,
        "save_strategy": "no",
    }


def _callback(monitor: RefinementMonitor, policy: Callable[[], Any], names: Mapping[str, str]) -> TrainerCallback:
    from transformers import TrainerCallback

    class Monitoring(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            values = {names[key]: value for key, value in (logs or {}).items() if key in names}
            if not all(math.isfinite(value) for value in values.values()):
                raise _diverged(args.learning_rate)
            if values:
                monitor.record(state.global_step, values)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            monitor.after_update(state.global_step, policy())

    return Monitoring()


def _diverged(rate: float) -> ModelError:
    return ModelError(
        f"the refinement diverged: the model's probabilities are NaN; lower refine.learning_rate (now {rate:g})"
    )


def _run(trainer: Any, monitor: RefinementMonitor, policy: Any) -> None:
    draw_as_served(policy, trainer.processing_class)
    with _no_full_collections(), redirect_stdout(io.StringIO()):
        monitor.after_update(0, policy)
        try:
            trainer.train()
        except RuntimeError as error:
            if not any(part in str(error) for part in DIVERGED):
                raise
            raise _diverged(trainer.args.learning_rate) from error


@contextmanager
def _no_full_collections() -> Iterator[None]:
    """Exclude the objects that exist already from garbage collection, which PPOTrainer runs twice an update."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
