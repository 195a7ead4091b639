"""What TRL 1.12 needs in order to work beside the other packages of this environment: patches, each bound to its version.

`prepare` goes before any other import of trl. It says no for TRL when asked for vLLM, because TRL 1.12 knows vLLM 0.19 to
0.27 and fails at import beside a later one, and because any folder called `vllm` convinces it; our own vLLM engine does
not ask TRL. It also keeps trainers from reporting their use to anybody. Nothing outside trl is changed.
"""

from __future__ import annotations

import math
from importlib import metadata
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError
from reclm.progress import say

if TYPE_CHECKING:
    from transformers import Trainer

KNOWN = "1.12."


def prepare() -> None:
    """Makes trl importable. Raises ModelError for a release of trl that these patches were not written for."""
    version = metadata.version("trl")
    if not version.startswith(KNOWN):
        raise ModelError(f"trl {version} is installed; this works with {KNOWN}x: pip install 'trl>=1.12,<1.13'")
    from trl import import_utils

    import_utils.is_vllm_available = _no
    from trl.trainer.base_trainer import _BaseTrainer

    setattr(_BaseTrainer, "_send_telemetry", _nothing)  # noqa: B010


def _no(min_version: str | None = None) -> bool:
    return False


def _nothing(trainer: Any) -> None:
    return None


def unwrap_policy(trainer: Trainer) -> None:
    """Lets TRL 1.12's PPOTrainer find its policy where several processes train: it looks on the wrapper round the model."""
    wrapper: Any = trainer.model
    model = trainer.accelerator.unwrap_model(wrapper)
    if model is not wrapper:
        wrapper.__dict__["policy"] = model.policy  # seen, and not registered as a part a second time


def report_progress(trainer: Trainer, rate: str) -> None:
    """Has a trainer speak through `progress.say`, ten times a run, in place of its own prints on standard output, and raise
    ModelError when its loss is no number any more: by itself it would report 0 and go on. `rate` is the settings key of its
    step size."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class Teller(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            found = logs or {}
            loss = float(found.get("loss", found.get("train_loss", 0.0)))
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is {loss} at step {state.global_step} of {state.max_steps}; lower {rate} (now "
                    f"{args.learning_rate:g})"
                )
            every = max(1, state.max_steps // 10)
            due = state.global_step // every > (state.global_step - args.logging_steps) // every
            if state.is_world_process_zero and due and "loss" in found:
                say(f"    step {state.global_step} of {state.max_steps}: loss {loss:.3f}")

    trainer.args.logging_nan_inf_filter = False
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Teller())
