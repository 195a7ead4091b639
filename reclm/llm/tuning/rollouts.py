"""Sample answers during the refinement.

In: requests of a TRL trainer. Out: answers, decoded as for serving. Answers are sampled by the structured decoding that
serving uses (`reclm.llm.engines.decoding`), so that the refinement does not spend its updates on learning the form. The
log probabilities are those of the policy, before decoding excludes any token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reclm.llm.engines.decoding import NoPhraseTwice

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


def draw_as_served(policy: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make `policy.generate` write by structured decoding, up to the end token, when a TRL trainer calls it."""
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
