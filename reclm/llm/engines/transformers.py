"""Answer prompts with Hugging Face `transformers`, in this process.

In: prompts. Out: answers, batch by batch. Prompts of similar length are answered together, padded on the left, with one
key-value cache per batch. A small model leaves most CPU cores idle, so on a CPU several of its batches run at once, one
thread each. A sampled token is the largest of logits / temperature + Gumbel noise (Maddison et al. 2014, arXiv
1411.0030). The noise of an answer depends only on its prompt and the seed, so neither the batches nor a resumed run
change an answer.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

from reclm.dataset import EntityKind
from reclm.errors import ModelError
from reclm.llm.engines.base import Answer
from reclm.llm.prompts.messages import Message

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.settings.tree import Settings


MAX_CONCURRENT_BATCHES = 4
"""More bring nothing, because Python runs one thread at a time."""
SMALL_MODEL = 50_000_000
"""Number of parameters up to which one batch does not keep the CPU cores busy."""
BatchAnswer = tuple[list[list[int]], float]
"""The tokens of each answer, and the milliseconds that the batch took."""


class TransformersEngine:
    """Answers with a causal language model from a folder or Hub id, loaded with the first prompt, or with `model`."""

    name = "transformers"

    def __init__(
        self,
        settings: Settings,
        model_folder: str,
        model_version: str = "",
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.settings, self.model_folder, self.model_version = settings, model_folder, model_version
        self.version = metadata.version("transformers")
        self._model, self._tokenizer = model, tokenizer

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
        from reclm.llm.models.loading import load_model, load_tokenizer
        from reclm.llm.prompts.templates import decode, encode

        if not prompts:
            return
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model_folder)
        if self._model is None:
            self._model = load_model(self.model_folder, self.settings)
        encoded = [encode(self._tokenizer, prompt) for prompt in prompts]
        require_room(self._model.config.get_text_config().max_position_embeddings, encoded, max_tokens)
        order = sorted(range(len(prompts)), key=lambda row: (len(encoded[row]), encoded[row]))
        size = self.settings.profiles.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]

        def write(rows: Sequence[int]) -> BatchAnswer:
            started = time.monotonic()
            ids = self._write([encoded[row] for row in rows], temperature, seed, max_tokens, structured)
            return ids, (time.monotonic() - started) * 1000

        for rows, (written, elapsed) in zip(batches, self._run_batches(batches, write), strict=True):
            ended = [ids[-1] == self._tokenizer.eos_token_id for ids in written]
            texts = decode(self._tokenizer, written, ended)
            answers = [Answer(text, len(ids), elapsed) for text, ids in zip(texts, written, strict=True)]
            yield from zip(rows, answers, strict=True)

    def _run_batches(
        self, batches: Sequence[list[int]], write: Callable[[Sequence[int]], BatchAnswer]
    ) -> Iterator[BatchAnswer]:
        """Yield the result of `write` for each batch, in order; several batches run at once."""
        import torch

        assert self._model is not None
        small = self._model.device.type == "cpu" and self._model.num_parameters() <= SMALL_MODEL
        threads = torch.get_num_threads()
        workers = min(threads, MAX_CONCURRENT_BATCHES, len(batches)) if small else 1
        if workers == 1:
            yield from map(write, batches)
            return
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
                running: deque[Future[BatchAnswer]] = deque()
                try:
                    for batch in batches:
                        running.append(pool.submit(write, batch))
                        if len(running) > workers:  # one batch is queued so that no thread is idle
                            yield running.popleft().result()
                    while running:
                        yield running.popleft().result()
                finally:
                    for one in running:
                        one.cancel()
        finally:
            torch.set_num_threads(threads)

    def _write(
        self, encoded: Sequence[list[int]], temperature: float, seed: int, max_tokens: int, structured: bool
    ) -> list[list[int]]:
        """Return the tokens of each answer, including the end token."""
        import torch

        from reclm.llm.engines.decoding import NoPhraseTwice
        from reclm.llm.models.batches import pad

        model, tokenizer = self._model, self._tokenizer
        assert model is not None and tokenizer is not None
        batch = pad(encoded, tokenizer.pad_token_id, side="left", device=model.device)
        width = batch.input_ids.shape[1]
        processors: list[Any] = [NoPhraseTwice(tokenizer, width, len(encoded))] if structured else []
        if temperature > 0:
            processors.append(_noise(encoded, temperature, seed))
        with torch.inference_mode():
            written = cast(Any, model).generate(
                **batch.inputs(),
                max_new_tokens=max_tokens,
                do_sample=False,
                logits_processor=processors,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )[:, width:]
        return [ids[: _length(ids, tokenizer.eos_token_id)] for ids in written.tolist()]

    def close(self) -> None:
        self._model = None
        self._tokenizer = None


def require_room(positions: int, encoded: Sequence[list[int]], max_tokens: int) -> None:
    """Raise ModelError when a prompt and its answer are longer than the model's context of `positions` tokens."""
    longest = max(map(len, encoded))
    if longest + max_tokens > positions:
        raise ModelError(
            f"a prompt of {longest} tokens and an answer of {max_tokens} exceed the model's context of {positions} "
            "tokens; lower llm.max_prompt_tokens or llm.max_profile_tokens"
        )


def _length(ids: list[int], end: int) -> int:
    return ids.index(end) + 1 if end in ids else len(ids)


def _noise(encoded: Sequence[list[int]], temperature: float, seed: int) -> Any:
    """Return a logits processor after which the largest logit is a sample; noise depends on (prompt, seed)."""
    import torch
    from transformers import LogitsProcessor

    class GumbelNoise(LogitsProcessor):
        def __init__(self) -> None:
            self.generators = [torch.Generator().manual_seed(_seed_of(ids, seed)) for ids in encoded]

        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
            noise = torch.empty(scores.shape, dtype=torch.float32)
            for row, generator in enumerate(self.generators):
                noise[row].exponential_(generator=generator)
            return cast("torch.FloatTensor", scores.float() / temperature - noise.log().to(scores.device))

    return GumbelNoise()


def _seed_of(ids: list[int], seed: int) -> int:
    digest = hashlib.sha256(f"{seed}:{ids}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
