"""Choose how prompts are worded and how much they show.

In: settings. Out: a `Shape` for the prompt builder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from reclm.llm.models.tiny import TINY
from reclm.llm.prompts.messages import Shape

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

ENDPOINT_TOKENS = 2048
"""Budget of a prompt to an endpoint, in tokens: its model reads longer prompts than `tiny`."""


def style_of(settings: Settings, *, endpoint: bool = False) -> Literal["compact", "full"]:
    """Return the wording of prompts: `auto` means compact for `tiny`, full for any other model and for an endpoint."""
    if settings.llm.style == "auto":
        return "compact" if settings.llm.base_model == TINY and not endpoint else "full"
    return settings.llm.style


def shape_of(settings: Settings, *, endpoint: bool = False) -> Shape:
    """Return how much a prompt shows and how it is worded; prompts to an `endpoint` may be longer."""
    llm, style = settings.llm, style_of(settings, endpoint=endpoint)
    least = ENDPOINT_TOKENS if endpoint and style == "full" else 0
    return Shape(style, llm.history, llm.neighbours, llm.neighbour_items, max(least, llm.max_prompt_tokens))
