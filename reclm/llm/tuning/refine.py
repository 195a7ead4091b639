"""Refine the tuned model (stage `refine`).

In: the tuned model and the reward model. Out: a model with a higher held-out reward. PPO (Schulman et al. 2017, arXiv
1707.06347), as RecLM uses it (arXiv 2412.19302, section 3.3), or RLOO (Ahmadian et al. 2024, arXiv 2402.14740) tunes a
new LoRA adapter on the merged tuned model, with a KL penalty; the model with its adapter off is the reference. Every
few updates the policy is measured on held-out requests (`reclm.llm.tuning.monitor`) and guards
(`reclm.llm.tuning.guards`) may stop it. The best policy that no guard rejects is kept; it may be the tuned model
itself. An interrupted refinement starts again from the beginning: it is short and deterministic.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.errors import WorkspaceError
from reclm.llm.models.loading import load_tokenizer, model_location
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.versions import find_reusable, shared_parameters
from reclm.llm.prompts.corpus import ProfileSource, first_prompts
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import has_no_facts
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import token_counter
from reclm.llm.reward.model import Asked, RewardModel, distinct_requests
from reclm.llm.reward.pairs import dialogues_fingerprint
from reclm.llm.reward.stage import load_reward
from reclm.llm.tuning import policy
from reclm.llm.tuning.guards import HeldOutMetrics
from reclm.llm.tuning.heldout import Row, decoding_settings, measure
from reclm.llm.tuning.monitor import HeldOutMonitor, RefinementMonitor, RefinementStopped
from reclm.llm.tuning.sft import merge_adapter
from reclm.progress import detail, quiet, step
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft
from reclm.storage.files import write_rows
from reclm.storage.schemas import HELD_OUT, LANGUAGE_MODEL_CURVE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reclm.settings.tree import Settings

KIND = "refine"
RECIPE = 3
"""Part of the version; raise it when a change here, in `policy` or in `rollouts` changes the model."""


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
    """Refine the tuned model and return the artifact: `adapter/`, `model/` (merged), `curve` and `held_out` parquet.

    An artifact of the same settings and parents is returned as it is. The manifest's metrics record which guard stopped
    the refinement and which step was kept. With `refine.method = none` the model is the tuned one. `parents` holds the
    versions of the teacher and the warehouse; `judge` replaces the reward model (for tests). Raises WorkspaceError when
    there is no request to train on or no held-out request to measure on.
    """
    parents = {"sft": sft.version, "reward": reward.version, **(parents or {})}
    parameters = {
        "refine": settings.refine.model_dump(mode="json"),
        "recipe": RECIPE,
        **shared_parameters(settings),
        "decoding": decoding_settings(settings),
        "tune": {"turns": settings.tune.turns, "held_out_sample": settings.tune.held_out_sample},
        "dialogues": dialogues_fingerprint(dialogues, teacher),
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
    """Write the held-out metrics of the tuned model, which are valid for an unchanged one, and `rows` after them."""
    path = sft.path / "held_out.parquet"
    inherited: list[Any] = pq.read_table(path, schema=HELD_OUT).to_pylist() if path.exists() else []
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
    tokenizer = load_tokenizer(location)
    requests = training_requests(settings, dialogues, tokenizer)
    held_out = HeldOutMonitor(settings, dialogues, teacher, reward, tokenizer)
    adapters = draft.path / "adapters"
    monitor = RefinementMonitor(settings, held_out, adapters)
    optimise: Callable[..., None] = policy.METHODS[settings.refine.method]
    with step(f"refining by {settings.refine.method}"), quiet(), suppress(RefinementStopped):
        optimise(settings, location, tokenizer, requests, reward, monitor, draft.path / "trainer")
    shutil.rmtree(draft.path / "trainer", ignore_errors=True)
    best, first = monitor.best, monitor.history[0]
    draft.metrics.update(
        method=settings.refine.method,
        requests=len(requests),
        kept_step=best.step,
        last_step=monitor.history[-1].step,
        stopped=monitor.verdict.guard if monitor.verdict else "",
        reason=monitor.verdict.reason if monitor.verdict else "",
        before=asdict(first),
        after=asdict(best),
    )
    detail(f"step {best.step} is kept: held-out reward {first.reward:.3f} before, {best.reward:.3f} after")
    if not is_main_process():
        return
    monitor.adapter_folder(best.step).rename(draft.path / "adapter")
    shutil.rmtree(adapters)
    write_rows(draft.path / "curve.parquet", monitor.curve, LANGUAGE_MODEL_CURVE)
    with quiet():
        model = merge_adapter(settings, location, tokenizer, draft.path / "adapter", draft.path / "model")
    rows = [_reward_row("reward_before", first, held_out), _reward_row("reward", best, held_out)]
    if best.step == 0:
        _inherit_held_out(sft, draft, rows)
    else:
        with step("measuring held-out users and items"):
            rows = [*measure(settings, dialogues, teacher, model, tokenizer), *rows]
        write_rows(draft.path / "held_out.parquet", rows, HELD_OUT)


def _reward_row(metric: str, metrics: HeldOutMetrics, held_out: HeldOutMonitor) -> Row:
    return {"metric": metric, "kind": "all", "value": metrics.reward, "error": metrics.reward_error, "n": held_out.size}


def training_requests(
    settings: Settings, dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase
) -> list[Asked]:
    """Return turn 1 of every train dialogue whose entity has known facts, each distinct request once, for whom it is.

    Raises WorkspaceError when there are fewer than two.
    """
    known = [dialogue for dialogue in dialogues if dialogue.fold == "train" and not has_no_facts(dialogue.facts)]
    prompts = first_prompts(known, shape_of(settings), token_counter(tokenizer))
    distinct = distinct_requests(prompts, [dialogue.known for dialogue in known])
    if len(distinct) < 2:
        raise WorkspaceError("fewer than two requests to refine on; run `reclm build` on a log with texts")
    return distinct
