"""Adjust TRL 1.12 to the other packages of this environment.

In: a trainer. Out: the trainer, adjusted. `prepare` must run before any other import of trl. It tells TRL that there is
no vLLM: TRL 1.12 knows vLLM 0.19 to 0.27, fails at import beside a later one, and takes any folder called `vllm` for
it; our own vLLM engine does not use TRL. It also keeps trainers from sending usage reports. Nothing outside trl is
changed. Each patch is bound to this version.
"""

from __future__ import annotations

import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError
from reclm.progress import detail
from reclm.settings.machine import device_of, dtype_of

if TYPE_CHECKING:
    from transformers import Trainer

    from reclm.settings.tree import Settings

SUPPORTED = "1.12."


def prepare() -> None:
    """Make trl importable. Raises ModelError for a release of trl that these patches were not written for."""
    version = metadata.version("trl")
    if not version.startswith(SUPPORTED):
        raise ModelError(f"trl {version} is installed, but {SUPPORTED}x is needed: pip install 'trl>=1.12,<1.13'")
    from trl import import_utils

    import_utils.is_vllm_available = _no
    from trl.trainer.base_trainer import _BaseTrainer

    setattr(_BaseTrainer, "_send_telemetry", _nothing)  # noqa: B010


def _no(min_version: str | None = None) -> bool:
    return False


def _nothing(trainer: Any) -> None:
    return None


def trainer_options(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the options that every trainer of TRL is given here: where it writes, its device and its seed."""
    on_cpu = device_of(settings.runtime) == "cpu"
    return {
        "output_dir": str(folder),
        "report_to": settings.trl.report_to.split(","),
        "disable_tqdm": True,
        "use_cpu": on_cpu,
        "bf16": str(dtype_of(settings.runtime)) == "torch.bfloat16",
        "gradient_checkpointing": settings.llm.gradient_checkpointing,
        "dataloader_pin_memory": not on_cpu,
        "seed": settings.seed,
    }


def unwrap_policy(trainer: Trainer) -> None:
    """Let PPOTrainer find its policy under several processes, where it looks for it on the wrapper of the model."""
    wrapper: Any = trainer.model
    model = trainer.accelerator.unwrap_model(wrapper)
    if model is not wrapper:
        wrapper.__dict__["policy"] = model.policy  # an attribute, so that torch does not register the module twice


def report_progress(trainer: Trainer, rate: str) -> None:
    """Make a trainer report its loss by `progress.say`, ten times a run, in place of its own prints.

    It then raises ModelError when the loss is not finite; by itself it would report 0 and go on. `rate` is the settings
    key of its learning rate, for the message.
    """
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class ProgressReporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            values = logs or {}
            loss = float(values.get("loss", values.get("train_loss", 0.0)))
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is {loss} at step {state.global_step} of {state.max_steps}; lower {rate} (now "
                    f"{args.learning_rate:g})"
                )
            every = max(1, state.max_steps // 10)
            due = state.global_step // every > (state.global_step - args.logging_steps) // every
            if state.is_world_process_zero and due and "loss" in values:
                detail(f"step {state.global_step} of {state.max_steps}: loss {loss:.3f}")

    trainer.args.logging_nan_inf_filter = False
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressReporter())
