"""How answers are drawn while a policy is refined: requests come in as TRL has them, answers go out as they are served.

Answers are sampled by the structured decoding that serves profiles (`reclm.llm.engines.decoding`). Unaided, most answers of
a small model fail by form on a log of many genres, and what a refinement learns of them is mostly form, which decoding gives
for nothing. The log probabilities are the policy's own, before decoding ruled anything out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reclm.llm.engines.decoding import NoPhraseTwice

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


def draw_as_served(policy: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """From now on `policy.generate` writes by structured decoding, up to the end token, when a trainer of TRL calls it."""
    generate = policy.generate

    def drawn(*args: Any, **options: Any) -> Any:
        config = options.get("generation_config")
        if config is None:  # only TRL brings one
            return generate(*args, **options)
        rows, width = options["input_ids"].shape
        options |= {
            "logits_processor": [NoPhraseTwice(tokenizer, width, rows)],
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if not options.pop("output_scores", False):
            return generate(*args, **options)
        answers = generate(*args, **options, output_logits=True)
        answers.scores = tuple(logits.div_(config.temperature) for logits in answers.logits)
        answers.logits = None  # one copy of them is enough for a large vocabulary
        return answers

    setattr(policy, "generate", drawn)  # noqa: B010
