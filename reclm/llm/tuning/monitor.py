"""A look at held-out requests during the refinement: the policy comes in, one `guards.Look` goes out.

Requests are those of the dialogues, without the item that turn 2 asks about, since `ranking` asks about it. What is looked
at are answers as they are served: greedy, by structured decoding, malformed ones asked for again. The KL divergence from
the tuned model is exact at every token (over the whole vocabulary) and summed over an answer. `ranking` is the downstream
proxy: how often a withheld item, which the entity did pick, lies nearer to the written profile than what others were asked
about, by the sentence encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from reclm.errors import WorkspaceError
from reclm.llm.prompts.corpus import ProfileSource, first_prompts
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import Message
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import answered, encode, token_counter
from reclm.llm.tuning.guards import HeldOutMetrics
from reclm.llm.tuning.heldout import KINDS, profile_rows, sample, write_answers
from reclm.profiles import grammar
from reclm.text.encoder import Embed, embedder

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.llm.reward.stage import RewardModel
    from reclm.settings.tree import Settings

SEEN = ("distinct", "own_minus_other")


class HeldOutMonitor:
    """The held-out requests that every look is taken at, at most `refine.held_out_sample`, half of each kind.

    Raises WorkspaceError when there are none.
    """

    def __init__(
        self,
        settings: Settings,
        dialogues: Sequence[Dialogue],
        teacher: ProfileSource,
        reward: RewardModel,
        tokenizer: PreTrainedTokenizerBase,
        embed: Embed | None = None,
    ) -> None:
        self._settings, self._teacher, self._reward, self._tokenizer = settings, teacher, reward, tokenizer
        self._embed = embedder(settings) if embed is None else embed
        limit = settings.refine.held_out_sample // len(KINDS)
        chosen = [sample(dialogues, teacher, kind, limit, settings.seed) for kind in KINDS]
        self._kinds = [found for found in chosen if len(found) > 1]
        if not self._kinds:
            raise WorkspaceError(
                "no held-out dialogue to watch the refinement by; see that the teacher wrote of enough"
            )
        self._dialogues = [dialogue for found in self._kinds for dialogue in found]
        self._prompts = first_prompts(self._dialogues, shape_of(settings), token_counter(tokenizer))

    @property
    def size(self) -> int:
        """Requests of a look."""
        return len(self._dialogues)

    def look(self, policy: PeftModel, step: int) -> HeldOutMetrics:
        """What the held-out answers are like after `step` updates; `policy` with its adapter off is the tuned model."""
        settings = self._settings
        batch = settings.profiles.batch_size
        was_training = policy.training
        policy.eval()
        model = cast("PreTrainedModel", policy)
        served = write_answers(settings, model, self._tokenizer, self._prompts, structured=True)
        divergences = divergence(policy, self._tokenizer, self._prompts, served, batch)
        policy.train(was_training)
        rewards = self._reward.score(self._prompts, served).astype(np.float64)
        well_formed = np.mean([grammar.parse(text).ok for text in served])
        seen: dict[str, list[tuple[float, int]]] = {name: [] for name in SEEN}
        aucs, start = [], 0
        for dialogues in self._kinds:
            mine = served[start : start + len(dialogues)]
            start += len(dialogues)
            for row in profile_rows(dialogues[0].kind, dialogues, mine, self._teacher, self._embed):
                if row["metric"] in seen:
                    seen[row["metric"]].append((row["value"], row["n"]))
            aucs.append(ranking(dialogues, self._embed(mine), self._embed))
        ranked = np.concatenate(aucs)
        return HeldOutMetrics(
            step=step,
            reward=float(rewards.mean()),
            reward_error=float(rewards.std(ddof=1) / np.sqrt(len(rewards))),
            kl=float(divergences.mean()),
            format=float(well_formed),
            ranking=float(ranked.mean()) if len(ranked) else float("nan"),
            **{name: _weighted(values) for name, values in seen.items()},
        )


def _weighted(values: Sequence[tuple[float, int]]) -> float:
    return sum(value * n for value, n in values) / sum(n for _, n in values) if values else float("nan")


def ranking(dialogues: Sequence[Dialogue], profiles: NDArray[np.float32], embed: Embed) -> NDArray[np.float64]:
    """For each dialogue answered Yes, the share of what the others were asked about that lies farther from the profile.

    `profiles` is (n_dialogues, dim); what a dialogue asks about is the mean vector of its lines. A tie counts half.
    """
    lines = sorted({line for dialogue in dialogues for line in dialogue.question if line})
    if not lines:
        return np.zeros(0)
    place = {line: row for row, line in enumerate(lines)}
    vectors = embed(lines)
    asked = [[place[line] for line in dialogue.question if line] for dialogue in dialogues]
    means = np.stack([vectors[rows].mean(axis=0) if rows else np.zeros(vectors.shape[1]) for rows in asked])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    found = []
    for row, dialogue in enumerate(dialogues):
        others = [other for other, rows in enumerate(asked) if rows and set(rows) != set(asked[row])]
        if dialogue.answer and asked[row] and others:
            own, away = profiles[row] @ means[row], means[others] @ profiles[row]
            found.append(float(np.mean((away < own) + 0.5 * (away == own))))
    return np.array(found)


def divergence(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    texts: Sequence[str],
    batch_size: int,
) -> NDArray[np.float64]:
    """(n,) KL divergence from the model with its adapter off, in nats, summed over the tokens of each answer."""
    import torch

    wholes = [
        tokenizer(answered(tokenizer, prompt, text)[1], add_special_tokens=False)["input_ids"]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    starts = [len(encode(tokenizer, prompt)) for prompt in prompts]
    found = np.zeros(len(prompts))
    order = sorted(range(len(wholes)), key=lambda row: len(wholes[row]))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        width = max(len(wholes[row]) for row in rows)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([wholes[row] + [pad] * (width - len(wholes[row])) for row in rows], device=policy.device)
        mask = torch.tensor(
            [[1] * len(wholes[row]) + [0] * (width - len(wholes[row])) for row in rows], device=ids.device
        )
        begin = min(starts[row] for row in rows) - 1
        said = torch.tensor(
            [[starts[row] - 1 <= at < len(wholes[row]) - 1 for at in range(begin, width)] for row in rows]
        )
        with torch.inference_mode():
            new = policy(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, begin:].float().log_softmax(-1)
            with policy.disable_adapter():
                old = (
                    policy(input_ids=ids, attention_mask=mask, use_cache=False)
                    .logits[:, begin:]
                    .float()
                    .log_softmax(-1)
                )
        each = (new.exp() * (new - old)).sum(-1).cpu()
        found[rows] = (each * said).sum(-1).double().numpy()
    return np.maximum(found, 0.0)
