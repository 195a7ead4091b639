"""Monitor the refinement.

In: a policy after some updates. Out: held-out metrics, and a stop when a guard rejects them. Metrics are measured on
the requests of held-out dialogues, without the item that turn 2 asks about, since `ranking` is measured on it. Answers
are written as for serving: greedy, by structured decoding, malformed ones asked for again. The KL divergence from the
tuned model is exact at every token (over the whole vocabulary) and summed over an answer. `ranking` is a proxy for
recommending: how often a withheld item that the entity did interact with is nearer to the written profile, by the
sentence encoder, than the items that other dialogues ask about. The guards are in `reclm.llm.tuning.guards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import ENTITY_KINDS
from reclm.errors import WorkspaceError
from reclm.llm.models.batches import PaddedBatch, batches_by_length, pad
from reclm.llm.models.processes import is_main_process
from reclm.llm.prompts.corpus import ProfileSource, first_prompts
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import encode, prompt_and_answer, token_counter
from reclm.llm.tuning import guards
from reclm.llm.tuning.guards import HeldOutMetrics, Verdict
from reclm.llm.tuning.heldout import profile_rows, sample, write_answers
from reclm.profiles import grammar
from reclm.progress import detail, say
from reclm.text.encoder import CachingEncoder, caching_encoder

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.llm.reward.model import RewardModel
    from reclm.settings.tree import Settings

PROFILE_METRICS = ("distinct", "own_minus_other")


class HeldOutMonitor:
    """Measures a policy on fixed held-out requests: at most `refine.held_out_sample`, half of each kind.

    Raises WorkspaceError when there is no held-out dialogue.
    """

    def __init__(
        self,
        settings: Settings,
        dialogues: Sequence[Dialogue],
        teacher: ProfileSource,
        reward: RewardModel,
        tokenizer: PreTrainedTokenizerBase,
        embed: CachingEncoder | None = None,
    ) -> None:
        self._settings, self._teacher, self._reward, self._tokenizer = settings, teacher, reward, tokenizer
        self._embed = caching_encoder(settings) if embed is None else embed
        limit = settings.refine.held_out_sample // len(ENTITY_KINDS)
        samples = [sample(dialogues, teacher, kind, limit, settings.seed) for kind in ENTITY_KINDS]
        self._dialogues_by_kind = [found for found in samples if len(found) > 1]
        if not self._dialogues_by_kind:
            raise WorkspaceError(
                "there are no held-out dialogues to measure the refinement on: the teacher wrote too few profiles; "
                "bring a longer log"
            )
        self._dialogues = [dialogue for found in self._dialogues_by_kind for dialogue in found]
        self._prompts = first_prompts(self._dialogues, shape_of(settings), token_counter(tokenizer))

    @property
    def size(self) -> int:
        """Number of requests that each measurement answers."""
        return len(self._dialogues)

    def measure(self, policy: PeftModel, step: int) -> HeldOutMetrics:
        """Measure the held-out answers after `step` updates; `policy` with its adapter off is the tuned model."""
        settings = self._settings
        was_training = policy.training
        policy.eval()
        model = cast("PreTrainedModel", policy)
        texts = write_answers(settings, model, self._tokenizer, self._prompts, structured=True)
        divergences = divergence(policy, self._tokenizer, self._prompts, texts, settings.profiles.batch_size)
        policy.train(was_training)
        known = [dialogue.known for dialogue in self._dialogues]
        rewards = self._reward.score(self._prompts, texts, known).astype(np.float64)
        well_formed = np.mean([grammar.parse(text).ok for text in texts])
        by_kind: dict[str, list[tuple[float, int]]] = {name: [] for name in PROFILE_METRICS}
        aucs, start = [], 0
        for dialogues in self._dialogues_by_kind:
            own_texts = texts[start : start + len(dialogues)]
            start += len(dialogues)
            for row in profile_rows(dialogues[0].kind, dialogues, own_texts, self._teacher, self._embed):
                if row["metric"] in by_kind:
                    by_kind[row["metric"]].append((row["value"], row["n"]))
            aucs.append(ranking(dialogues, self._embed(own_texts), self._embed))
        ranked = np.concatenate(aucs)
        return HeldOutMetrics(
            step=step,
            reward=float(rewards.mean()),
            reward_error=float(rewards.std(ddof=1) / np.sqrt(len(rewards))),
            kl=float(divergences.mean()),
            format=float(well_formed),
            ranking=float(ranked.mean()) if len(ranked) else float("nan"),
            **{name: _weighted_mean(values) for name, values in by_kind.items()},
        )


class RefinementStopped(Exception):
    """Raised out of a trainer when a guard rejects the policy, because TRL's PPOTrainer cannot be told to stop."""


class RefinementMonitor:
    """Measures the policy every `refine.validate_every` updates, saves it, and stops when a guard rejects it."""

    def __init__(self, settings: Settings, held_out: HeldOutMonitor, folder: Path) -> None:
        self._settings, self._held_out, self._folder = settings.refine, held_out, folder
        self.history: list[HeldOutMetrics] = []
        self.curve: list[dict[str, Any]] = []
        self.verdict: Verdict | None = None

    def record(self, step: int, values: dict[str, float]) -> None:
        """Add what the trainer logged for an update to the curve."""
        self.curve += [{"step": step, "metric": name, "value": float(value)} for name, value in values.items()]
        if "reward" in values:
            detail(f"update {step} of {self._settings.steps}: reward {values['reward']:.3f}, KL {values['kl']:.3f}")

    def after_update(self, step: int, policy: PeftModel) -> None:
        """Measure and save the policy when it is due. Call it with step 0 before the first update, then after each one.

        Raises RefinementStopped when a guard rejects the policy.
        """
        if step % self._settings.validate_every and step != self._settings.steps:
            return
        metrics = self._held_out.measure(policy, step)
        self.history.append(metrics)
        values = {name: value for name, value in asdict(metrics).items() if name != "step"}
        self.curve += [{"step": step, "metric": f"held_out/{name}", "value": value} for name, value in values.items()]
        detail(
            f"held out after {step}: reward {metrics.reward:.3f} ± {metrics.reward_error:.3f}, KL {metrics.kl:.2f}, "
            f"format {metrics.format:.3f}, distinct {metrics.distinct:.3f}, own-minus-other "
            f"{metrics.own_minus_other:.3f}, ranking {metrics.ranking:.3f}"
        )
        self.verdict = guards.verdict(self.history, self._settings)
        if self.verdict is not None:
            say(f"refinement stopped by the guard {self.verdict.guard}: {self.verdict.reason}")
            raise RefinementStopped
        if is_main_process():
            policy.save_pretrained(str(self.adapter_folder(step)))

    def adapter_folder(self, step: int) -> Path:
        """Return the folder of the adapter after `step` updates."""
        return self._folder / f"step-{step}"

    @property
    def best(self) -> HeldOutMetrics:
        """Metrics of the best policy that no guard rejects."""
        return guards.best(self.history, self._settings)


def _weighted_mean(values: Sequence[tuple[float, int]]) -> float:
    return sum(value * n for value, n in values) / sum(n for _, n in values) if values else float("nan")


def ranking(dialogues: Sequence[Dialogue], profiles: NDArray[np.float32], embed: CachingEncoder) -> NDArray[np.float64]:
    """Return, for each dialogue answered Yes, the share of the other dialogues' questions farther from its profile.

    `profiles` is (n_dialogues, dim). A question's vector is the mean of the vectors of its lines. A tie counts half.
    """
    lines = sorted({line for dialogue in dialogues for line in dialogue.question if line})
    if not lines:
        return np.zeros(0)
    row_of = {line: row for row, line in enumerate(lines)}
    vectors = embed(lines)
    questions = [[row_of[line] for line in dialogue.question if line] for dialogue in dialogues]
    means = np.stack([vectors[rows].mean(axis=0) if rows else np.zeros(vectors.shape[1]) for rows in questions])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    shares = []
    for row, dialogue in enumerate(dialogues):
        others = [other for other, rows in enumerate(questions) if rows and set(rows) != set(questions[row])]
        if dialogue.answer and questions[row] and others:
            own, away = profiles[row] @ means[row], means[others] @ profiles[row]
            shares.append(float(np.mean((away < own) + 0.5 * (away == own))))
    return np.array(shares)


def divergence(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    texts: Sequence[str],
    batch_size: int,
) -> NDArray[np.float64]:
    """Return each answer's KL divergence from the model with its adapter off: (n,), in nats, summed over its tokens."""
    import torch

    sequences = [
        tokenizer(prompt_and_answer(tokenizer, prompt, text)[1], add_special_tokens=False)["input_ids"]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    starts = [len(encode(tokenizer, prompt)) for prompt in prompts]
    divergences = np.zeros(len(prompts))
    for rows in batches_by_length([len(sequence) for sequence in sequences], batch_size):
        batch = pad([sequences[row] for row in rows], tokenizer.pad_token_id, side="right", device=policy.device)
        begin = min(starts[row] for row in rows) - 1
        in_answer = torch.tensor(
            [
                [starts[row] - 1 <= at < len(sequences[row]) - 1 for at in range(begin, batch.input_ids.shape[1])]
                for row in rows
            ]
        )

        with torch.inference_mode():
            new = _log_probabilities(policy, batch, begin)
            with policy.disable_adapter():
                old = _log_probabilities(policy, batch, begin)
        of_tokens = (new.exp() * (new - old)).sum(-1).cpu()
        divergences[rows] = (of_tokens * in_answer).sum(-1).double().numpy()
    return np.maximum(divergences, 0.0)


def _log_probabilities(policy: PeftModel, batch: PaddedBatch, begin: int) -> Tensor:
    """(batch, width - begin, vocabulary), of the token after each place from `begin` on."""
    logits = policy(**batch.inputs(), use_cache=False).logits
    return cast("Tensor", logits[:, begin:].float().log_softmax(-1))
