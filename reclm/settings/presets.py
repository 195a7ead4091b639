"""Settings that belong together: what a language model of some size wants.

In: the name `llm.preset`. Out: {settings key: value} in place of the defaults; whatever a person gives comes first. The
step sizes of large models follow RecLM (arXiv 2412.19302: LoRA of rank 8, 1e-5 in the refinement).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reclm.errors import SettingsError

PRESET = "preset"
"""The source of a setting that comes from here."""
_PRETRAINED: dict[str, Any] = {
    "llm.neighbours": 5,
    "llm.neighbour_items": 5,
    "runtime.dtype": "bfloat16",
    "tune.lora_rank": 8,
    "tune.lora_alpha": 16,
    "trl.checkpoint_steps": 50,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {},
    "smollm2": {
        **_PRETRAINED,
        "llm.base_model": "smollm2",
        "embedding.reader": "smollm2",
        "llm.history": 20,
        "llm.max_prompt_tokens": 1024,
        "tune.batch_size": 4,
        "tune.accumulation": 4,
        "tune.learning_rate": 5e-4,
        "refine.batch_size": 32,
        "refine.learning_rate": 1e-4,
        "profiles.batch_size": 16,
    },
    "qwen3-0.6b": {
        **_PRETRAINED,
        "llm.base_model": "Qwen/Qwen3-0.6B",
        "embedding.reader": "Qwen/Qwen3-0.6B",
        "embedding.dtype": "bfloat16",
        "llm.history": 20,
        "llm.max_prompt_tokens": 1536,
        "tune.batch_size": 4,
        "tune.accumulation": 4,
        "tune.learning_rate": 2e-4,
        "refine.batch_size": 32,
        "refine.learning_rate": 3e-5,
        "profiles.batch_size": 32,
    },
    "llama3-8b": {
        **_PRETRAINED,
        "llm.base_model": "meta-llama/Llama-3.1-8B-Instruct",
        "embedding.reader": "meta-llama/Llama-3.1-8B-Instruct",
        "embedding.dtype": "bfloat16",
        "llm.history": 30,
        "llm.max_prompt_tokens": 2048,
        "llm.gradient_checkpointing": True,
        "features.prompt_history": 30,
        "tune.batch_size": 1,
        "tune.accumulation": 16,
        "tune.learning_rate": 1e-4,
        "refine.batch_size": 16,
        "refine.learning_rate": 1e-5,
        "refine.lora_rank": 4,
        "refine.lora_alpha": 8,
        "profiles.batch_size": 16,
    },
}


def settings_of_preset(name: str) -> Mapping[str, Any]:
    """Return {settings key: value} of a preset. Raises SettingsError when there is none of that name."""
    if name not in PRESETS:
        raise SettingsError(f"llm.preset: unknown name {name!r} (allowed: {', '.join(PRESETS)})")
    return PRESETS[name]
