"""What every engine that answers prompts with a language model offers: messages come in, answers go out as they are ready.

Three stand behind it: `transformers` and `vllm` load a model folder into this process, `openai` asks any compatible
endpoint. An engine loads nothing before its first prompt, so that its name and version can be had for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Kind, Message

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


class Answer(NamedTuple):
    """What a model said: the text without special tokens, stripped; its tokens, the end token included; and the
    milliseconds from the moment it was asked, together with what was asked at the same time."""

    text: str
    tokens: int
    latency_ms: float


class Engine(Protocol):
    """`name` and `version` are those of the software, `model_version` tells what it runs; all three stand with every answer."""

    name: str
    version: str
    model_version: str

    def answer(
        self,
        prompts: Sequence[list[Message]],
        *,
        kinds: Sequence[Kind],
        temperature: float,
        seed: int,
        max_tokens: int,
        structured: bool,
    ) -> Iterator[tuple[int, Answer]]:
        """(position in `prompts`, answer) of every prompt once, in any order.

        Temperature 0 is greedy. `kinds[i]` says what `prompts[i]` asks for. `structured` confines answers to the profile
        grammar where the engine can, and is ignored where it cannot. Raises ModelError.
        """

    def close(self) -> None:
        """Frees what the engine holds."""


@contextmanager
def open_engine(settings: Settings, model_folder: str, model_version: str = "") -> Iterator[Engine]:
    """The engine of `profiles.engine` over the model in `model_folder` (a Hub id will do); `openai` has its own model.

    Raises ModelError when its package is not installed, or for `extractive`, which reads no prompts.
    """
    name = settings.profiles.engine
    if name not in _MAKERS:
        raise ModelError(f"profiles.engine = {name!r} answers no prompts; those that do are {', '.join(_MAKERS)}")
    engine = _MAKERS[name](settings, model_folder, model_version)
    try:
        yield engine
    finally:
        engine.close()


def _transformers(settings: Settings, model_folder: str, model_version: str) -> Engine:
    from reclm.llm.engines.transformers import TransformersEngine

    return TransformersEngine(settings, model_folder, model_version)


def _vllm(settings: Settings, model_folder: str, model_version: str) -> Engine:
    from reclm.llm.engines.vllm import VllmEngine

    return VllmEngine(settings, model_folder, model_version)


def _openai(settings: Settings, model_folder: str, model_version: str) -> Engine:
    from reclm.llm.engines.openai import OpenAIEngine

    return OpenAIEngine(settings)


_MAKERS: dict[str, Callable[[Settings, str, str], Engine]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "openai": _openai,
}
