"""How prompts are worded and how much they show: settings come in, a `Shape` for the prompt builder goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from reclm.llm.models.tiny import TINY
from reclm.llm.prompts.messages import Shape

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

ENDPOINT_TOKENS = 2048
"""Budget of a prompt to an endpoint: its model reads more than one that is trained here."""


def style_of(settings: Settings, *, endpoint: bool = False) -> Literal["compact", "full"]:
    """The wording of prompts: `auto` means compact for `tiny`, full for a model from elsewhere, as an endpoint's is."""
    if settings.llm.style == "auto":
        return "compact" if settings.llm.base_model == TINY and not endpoint else "full"
    return settings.llm.style


def shape_of(settings: Settings, *, endpoint: bool = False) -> Shape:
    """How much is shown, and how; to an `endpoint`'s own model as much as a model from elsewhere can read."""
    llm, style = settings.llm, style_of(settings, endpoint=endpoint)
    least = ENDPOINT_TOKENS if endpoint and style == "full" else 0
    return Shape(style, llm.history, llm.neighbours, llm.neighbour_items, max(least, llm.max_prompt_tokens))
