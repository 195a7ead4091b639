"""What every section of the settings tree is made of."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.functional_validators import BeforeValidator
from pydantic_settings import NoDecode


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _split(value: Any) -> Any:
    """`a,b,c`, a JSON list or a real list."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    return json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",") if part.strip()]


def _whole(value: Any) -> Any:
    """One text, commas and all, or a JSON list, or a real list."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return json.loads(text) if text.startswith("[") else [text] if text else []
    except json.JSONDecodeError:  # a text that begins with a bracket, as the times of web servers do
        return [text]


def _parse(value: Any) -> Any:
    """Read a JSON object from a flag or variable; a table of a file is one already."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f'not a JSON object ({error}), such as {{"top_p": 0.9}}') from None


JsonObject = Annotated[dict[str, JsonValue], NoDecode, BeforeValidator(_parse)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Numbers = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_whole)]
