"""The refinement stage: the tuned model and the reward model come in, a model the reward likes better goes out.

PPO (Schulman et al. 2017, arXiv 1707.06347) as RecLM has it (arXiv 2412.19302, section 3.3), or RLOO (Ahmadian et al. 2024,
arXiv 2402.14740), tunes a fresh LoRA adapter on the merged tuned model, held near it by a KL penalty; the model with its
adapter off is the reference. Every few updates held-out requests are looked at (`reclm.llm.tuning.monitor`) and guards
(`reclm.llm.tuning.guards`) may stop it; what is kept is the best of the states that no guard rejects, the tuned model included. An
interrupted refinement begins anew: it is short, and the same every time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.errors import WorkspaceError
from reclm.llm.models.loading import load_tokenizer, model_location
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.versions import find_reusable, shared_parameters
from reclm.llm.prompts.corpus import ProfileSource, first_prompts
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import Message, is_silent
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import token_counter
from reclm.llm.reward.pairs import fingerprint
from reclm.llm.reward.stage import RewardModel, load_reward
from reclm.llm.tuning import guards
from reclm.llm.tuning.guards import HeldOutMetrics, Verdict
from reclm.llm.tuning.heldout import Row, decoding_settings, measure
from reclm.llm.tuning.monitor import HeldOutMonitor
from reclm.llm.tuning.sft import merge_adapter
from reclm.progress import quiet, say, step
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft
from reclm.storage.files import write_rows
from reclm.storage.schemas import HELD_OUT, LANGUAGE_MODEL_CURVE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from reclm.settings.tree import Settings

KIND = "refine"
RECIPE = 2
"""How it is done; raised when a change here or in `policy` or `rollouts` changes the model."""


class Stopped(Exception):
    """Raised out of a trainer when a guard rejects the policy: TRL's PPOTrainer asks nobody whether to go on."""


class RefinementMonitor:
    """Looks at held-out requests every `validate_every` updates, keeps each state's adapter, and stops by the guards."""

    def __init__(self, settings: Settings, lookout: HeldOutMonitor, folder: Path) -> None:
        self._settings, self._lookout, self._folder = settings.refine, lookout, folder
        self.looks: list[HeldOutMetrics] = []
        self.curve: list[dict[str, Any]] = []
        self.verdict: Verdict | None = None

    def logged(self, step: int, values: dict[str, float]) -> None:
        self.curve += [{"step": step, "metric": name, "value": float(value)} for name, value in values.items()]
        if "reward" in values:
            say(f"  update {step} of {self._settings.steps}: reward {values['reward']:.3f}, KL {values['kl']:.3f}")

    def updated(self, step: int, policy: PeftModel) -> None:
        """Called after every update, and with step 0 before the first. Raises Stopped when a guard says so."""
        if step % self._settings.validate_every and step != self._settings.steps:
            return
        look = self._lookout.look(policy, step)
        self.looks.append(look)
        values = {name: value for name, value in asdict(look).items() if name != "step"}
        self.curve += [{"step": step, "metric": f"held_out/{name}", "value": value} for name, value in values.items()]
        say(
            f"  held out after {step}: reward {look.reward:.3f} ± {look.reward_error:.3f}, KL {look.kl:.2f}, format "
            f"{look.format:.3f}, distinct {look.distinct:.3f}, own-minus-other {look.own_minus_other:.3f}, ranking "
            f"{look.ranking:.3f}"
        )
        self.verdict = guards.verdict(self.looks, self._settings)
        if self.verdict is not None:
            say(f"  stopped by the guard {self.verdict.guard}: {self.verdict.reason}")
            raise Stopped
        if is_main_process():
            policy.save_pretrained(str(self.adapter(step)))

    def adapter(self, step: int) -> Path:
        return self._folder / f"step-{step}"

    @property
    def kept(self) -> HeldOutMetrics:
        return guards.best(self.looks, self._settings)


def write_refine(
    settings: Settings,
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    sft: Artifact,
    reward: Artifact,
    parents: dict[str, str] | None = None,
    *,
    judge: RewardModel | None = None,
) -> Artifact:
    """The refined model, made or found standing: `adapter/`, `model/` (merged), `curve` and `held_out` parquet.

    The manifest's metrics tell which guard stopped it and which step was kept. With `refine.method = none` the model is
    the tuned one. `parents` name the teacher and the warehouse; `judge` replaces the reward model (for tests). Raises
    WorkspaceError when there is no request to train on or to look at.
    """
    parents = {"sft": sft.version, "reward": reward.version, **(parents or {})}
    parameters = {
        "refine": settings.refine.model_dump(mode="json"),
        "recipe": RECIPE,
        **shared_parameters(settings),
        "decoding": decoding_settings(settings),
        "tune": {"turns": settings.tune.turns, "held_out_sample": settings.tune.held_out_sample},
        "dialogues": fingerprint(dialogues, teacher),
    }
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    location = model_location(settings, sft)
    with write_in_main_process(settings.paths, KIND, parameters, parents) as draft:
        if settings.refine.method == "none":
            _copy(sft, location, draft)
        else:
            _refine(settings, dialogues, teacher, sft, judge or load_reward(settings, reward), location, draft)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))


def _copy(sft: Artifact, location: str, draft: Draft) -> None:
    draft.metrics.update(method="none", kept_step=0, stopped="")
    if is_main_process():
        shutil.copytree(location, draft.path / "model")
        write_rows(draft.path / "curve.parquet", [], LANGUAGE_MODEL_CURVE)
        _inherit_held_out(sft, draft, [])


def _inherit_held_out(sft: Artifact, draft: Draft, rows: list[Row]) -> None:
    """What was measured of the tuned model holds for an unchanged one."""
    measured = sft.path / "held_out.parquet"
    inherited: list[Any] = pq.read_table(measured).to_pylist() if measured.exists() else []
    write_rows(draft.path / "held_out.parquet", [*inherited, *rows], HELD_OUT)


def _refine(
    settings: Settings,
    dialogues: Sequence[Dialogue],
    teacher: ProfileSource,
    sft: Artifact,
    reward: RewardModel,
    location: str,
    draft: Draft,
) -> None:
    from reclm.llm.tuning import policy

    tokenizer = load_tokenizer(location)
    requests = training_requests(settings, dialogues, tokenizer)
    shown = first_prompts(dialogues, shape_of(settings), token_counter(tokenizer))
    reward.add_context(shown, [dialogue.known for dialogue in dialogues])
    lookout = HeldOutMonitor(settings, dialogues, teacher, reward, tokenizer)
    states = draft.path / "states"
    watch = RefinementMonitor(settings, lookout, states)
    optimise: Callable[..., None] = policy.METHODS[settings.refine.method]
    with step(f"refining by {settings.refine.method}"), quiet(), suppress(Stopped):
        optimise(settings, location, tokenizer, requests, reward, watch, draft.path / "trainer")
    shutil.rmtree(draft.path / "trainer", ignore_errors=True)
    kept, first = watch.kept, watch.looks[0]
    draft.metrics.update(
        method=settings.refine.method,
        requests=len(requests),
        kept_step=kept.step,
        last_step=watch.looks[-1].step,
        stopped=watch.verdict.guard if watch.verdict else "",
        reason=watch.verdict.reason if watch.verdict else "",
        before=asdict(first),
        after=asdict(kept),
    )
    say(f"  kept step {kept.step}: held-out reward {first.reward:.3f} before, {kept.reward:.3f} after")
    if not is_main_process():
        return
    watch.adapter(kept.step).rename(draft.path / "adapter")
    shutil.rmtree(states)
    write_rows(draft.path / "curve.parquet", watch.curve, LANGUAGE_MODEL_CURVE)
    with quiet():
        model = merge_adapter(settings, location, tokenizer, draft.path / "adapter", draft.path / "model")
    rows = [_reward_row("reward_before", first, lookout), _reward_row("reward", kept, lookout)]
    if kept.step == 0:
        _inherit_held_out(sft, draft, rows)
    else:
        with step("measuring held-out users and items"):
            rows = [*measure(settings, dialogues, teacher, model, tokenizer), *rows]
        write_rows(draft.path / "held_out.parquet", rows, HELD_OUT)


def _reward_row(metric: str, look: HeldOutMetrics, lookout: HeldOutMonitor) -> Row:
    return {"metric": metric, "kind": "all", "value": look.reward, "error": look.reward_error, "n": lookout.size}


def training_requests(
    settings: Settings, dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase
) -> list[list[Message]]:
    """Turn 1 of every dialogue of the fold `train` about whose entity something is known, each request once.

    Raises WorkspaceError when they do not fill a batch of two.
    """
    known = [dialogue for dialogue in dialogues if dialogue.fold == "train" and not is_silent(dialogue.facts)]
    prompts = first_prompts(known, shape_of(settings), token_counter(tokenizer))
    distinct = {str(prompt): prompt for prompt in prompts}
    if len(distinct) < 2:
        raise WorkspaceError("fewer than two requests to refine on; run `reclm build` on a log with texts")
    return list(distinct.values())
