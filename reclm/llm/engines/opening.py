"""Open the engine that the settings name.

In: settings and a model folder. Out: an `Engine`. `transformers` and `vllm` load a model folder into this process;
`openai` sends prompts to any compatible endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reclm.errors import ModelError
from reclm.llm.engines.base import Engine

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


@contextmanager
def open_engine(settings: Settings, model_folder: str, model_version: str = "") -> Iterator[Engine]:
    """Open the engine named by `profiles.engine` and close it when the block ends.

    `model_folder` is a folder or a Hub id; `openai` ignores it, because its endpoint has a model of its own. Raises
    ModelError when the engine's package is not installed, and for `extractive`, which reads no prompts.
    """
    name = settings.profiles.engine
    if name not in _ENGINES:
        raise ModelError(
            f"profiles.engine = {name!r} answers no prompts; the engines that do are {', '.join(_ENGINES)}"
        )
    engine = _ENGINES[name](settings, model_folder, model_version)
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


_ENGINES: dict[str, Callable[[Settings, str, str], Engine]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "openai": _openai,
}
