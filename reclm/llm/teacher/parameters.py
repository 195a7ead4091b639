"""List what a teacher's version depends on.

In: settings. Out: the parameters of the `teacher` artifact.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from reclm.llm.engines.openai import request_parameters
from reclm.llm.prompts.messages import Shape
from reclm.llm.prompts.shape import ENDPOINT_TOKENS
from reclm.llm.teacher.table import find_tables
from reclm.profiles.keywords import ENGINE_VERSION

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def teacher_parameters(settings: Settings) -> dict[str, Any]:
    """Return what the settings' teacher depends on besides the warehouse.

    The endpoint's model and revision are given as the settings name them. Raises InputError when the teacher's table
    cannot be read.
    """
    return {**settings.teacher.model_dump(exclude={"table"}), **_PARAMETERS[settings.teacher.engine](settings)}


def endpoint_shape(settings: Settings) -> Shape:
    """Return the shape of prompts to an endpoint: full wording, and every fact that the warehouse keeps."""
    llm = settings.llm
    return Shape("full", settings.features.prompt_history, llm.neighbours, llm.neighbour_items, ENDPOINT_TOKENS)


def _keyword_parameters(settings: Settings) -> dict[str, Any]:
    return {
        "engine_version": ENGINE_VERSION,
        "phrases": settings.profiles.model_dump(include={"identities", "interests", "item_phrases"}),
        "max_text_length": settings.features.max_text_length,
        "seed": settings.seed,
    }


def _table_parameters(settings: Settings) -> dict[str, Any]:
    files = {kind: path.read_bytes() for kind, path in find_tables(settings).items()}
    digests = {kind: hashlib.sha256(data).hexdigest()[:16] for kind, data in files.items()}
    return {"files": digests, "seed": settings.seed}


def _endpoint_parameters(settings: Settings) -> dict[str, Any]:
    return {
        "base_url": settings.openai.base_url,
        "model": settings.openai.model,
        **({"revision": settings.openai.revision} if settings.openai.revision else {}),
        "shape": vars(endpoint_shape(settings)),
        "temperature": settings.profiles.temperature,
        **request_parameters(settings),
        "seed": settings.seed,
    }


_PARAMETERS = {"extractive": _keyword_parameters, "table": _table_parameters, "openai": _endpoint_parameters}
