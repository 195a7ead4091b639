"""Define every request and response of the HTTP interface as a type; FastAPI makes the OpenAPI document from them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reclm.dataset import MAX_ID_CHARACTERS

MAX_QUERY_CHARACTERS = 500
MAX_FIELD_CHARACTERS = 50


def _as_id(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("use text or a whole number")
    value = str(value) if isinstance(value, int) else value
    if isinstance(value, str) and not is_valid_id(value):
        raise ValueError(f"an id has 1 to {MAX_ID_CHARACTERS} characters, none of them a control character")
    return value


def is_valid_id(text: str) -> bool:
    """Return whether a text can be an id: 1 to MAX_ID_CHARACTERS characters, valid Unicode, no control characters."""
    if not 0 < len(text) <= MAX_ID_CHARACTERS or any(ord(c) < 32 or ord(c) == 127 for c in text):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies outside the calendar") from None


def _as_iso_text(value: Any) -> Any:
    if value is not None and not isinstance(value, str | datetime):
        raise ValueError("use ISO 8601 text with a time zone, for example 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_iso_text)]
"""A moment with a time zone, as text: a bare number could be seconds or milliseconds."""
Id = Annotated[
    str,
    BeforeValidator(_as_id),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}, {"type": "integer"}]}
    ),
]


class Strict(BaseModel):
    """Reject unknown fields, so that a misspelt filter is an error and not ignored; say which field was meant."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_field_that_was_meant(cls, sent: Any) -> Any:
        """Refuse unknown fields. The message holds no text of the sender, only names of fields that exist."""
        unknown = sorted(sent.keys() - cls.model_fields.keys()) if isinstance(sent, dict) else []
        meant = [name for name in map(cls._nearest_field, unknown) if name]
        if meant:
            raise PydanticCustomError(
                "unknown_field", "a field does not exist; did you mean {meant}?", {"meant": ", ".join(meant)}
            )
        if unknown:
            raise PydanticCustomError(
                "unknown_field", "a field does not exist; use {fields}", {"fields": ", ".join(cls.model_fields)}
            )
        return sent

    @classmethod
    def _nearest_field(cls, name: str) -> str | None:
        """Return the field that a misspelt name is nearest to: `userId` is `user_id`."""
        plain = {re.sub(r"[^a-z]", "", field): field for field in cls.model_fields}
        near = get_close_matches(re.sub(r"[^a-z]", "", name.lower())[:MAX_FIELD_CHARACTERS], plain, n=1)
        return plain[near[0]] if near else None


class Pin(Strict):
    """Give an item a place in the list."""

    item_id: Id = Field(description="The item.")
    position: int | None = Field(None, ge=1, strict=True, description="Its place, from 1; null: the first free one.")


Boost = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Boosts(Strict):
    """Raise or lower scores, in standard deviations of the user's scores; the boosts of an item are added up."""

    categories: dict[Id, Boost] = Field(default_factory=dict, description="By category; upper and lower case are one.")
    items: dict[Id, Boost] = Field(default_factory=dict, description="By item id.")


class RecommendationRequest(Strict):
    """Name the user and the filters of a recommendation.

    Without user and history the most popular items are returned, with `source` set to `popularity`.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": "u00017", "k": 5},
                {"history": ["i00012", "i00040", "i00101"], "k": 10, "categories": ["Coffee"]},
            ]
        },
    )

    user_id: Id | None = Field(None, description="The user.")
    history: list[Id] = Field(
        default_factory=list, description="Items that the user liked, in addition to their known interactions."
    )
    k: int = Field(10, ge=1, strict=True, description="How many items; the settings bound it (serve.max_k).")
    categories: list[Id] | None = Field(
        None,
        description="Only items of one of these categories; upper and lower case do not matter. An empty list matches "
        "nothing.",
    )
    created_after: Annotated[Moment, AfterValidator(_in_utc)] | None = Field(
        None, description="Only items made after this moment, with a time zone."
    )
    items: list[Id] | None = Field(None, description="Only these items, ranked. An empty list matches nothing.")
    exclude: list[Id] = Field(default_factory=list, description="None of these items.")
    exclude_seen: bool = Field(True, description="Leave out the user's known items and the history of this request.")
    items_list: str | None = Field(None, max_length=64, description="Only items of this list (PUT /v1/lists/{name}).")
    exclude_list: str | None = Field(None, max_length=64, description="None of the items of this list.")
    diversity: float | None = Field(
        None, ge=0, le=1, description="0: by score alone; 1: as different as possible [default: serve.diversity]."
    )
    max_per_category: int | None = Field(
        None, ge=0, strict=True, description="Items of one category; 0: no limit [default: serve.max_per_category]."
    )
    pin: list[Pin] = Field(
        default_factory=list,
        description="Items with a place of their own. Filters and `exclude` hold for them, known items do not.",
    )
    boosts: Boosts = Field(default_factory=Boosts, description="In addition to serve.boosts.")


class SearchRequest(Strict):
    """Ask for items near a free text: a wish, or a description of a person."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "slow mornings and good coffee"}]}
    )

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="Any text.")
    k: int = Field(10, ge=1, strict=True, description="How many items; the settings bound it (serve.max_k).")


class Model(BaseModel):
    """Name the model that answered; it was trained on interactions before `as_of`."""

    version: str
    model: str
    variant: str
    as_of: str
    promoted_at: str


class Item(BaseModel):
    """Describe an item; a `cold` item had no known interaction when the model was fitted."""

    item_id: str
    title: str
    categories: list[str]
    cold: bool


class SimilarKnownItem(BaseModel):
    """Name an item of the user's history."""

    item_id: str
    title: str


class Reasons(BaseModel):
    """Explain a recommended item: matching phrases of the user's profile, and the most similar known item."""

    phrases: list[str]
    like: SimilarKnownItem | None


class RecommendedItem(Item):
    """Describe a recommended item with its score, boosts included, and reasons.

    `arm` is the model that it is of, `champion` or `challenger`. `propensity` is the probability with which it was in
    the list; null where the list could not be a random one.
    """

    score: float
    pinned: bool
    arm: str
    propensity: float | None
    reasons: Reasons


class FeatureAges(BaseModel):
    """Give the as-of moment since which each of the user's features has not changed, and the seconds since the newest.

    An old moment means that nothing changed, not that the feature is out of date.
    """

    profile_as_of: str | None
    activity_as_of: str | None
    vector_as_of: str | None
    age_seconds: float | None


class Recommendations(BaseModel):
    """Return recommended items, best first.

    `source` is where the user's vector came from: `trained`, `folded_in` from a history, `profile` alone, or
    `popularity` when nothing is known about the user. `degraded` says what was not available. `unknown_items` are ids
    of `history`, `items` and `pin` that are not among the candidates, `unknown_categories` those that no item has; they
    were ignored. `why_empty` explains an empty list. Events that answer it name its `request_id`. `arm` is `champion`,
    `challenger`, or `interleaved` for a list of both, whose second model is `challenger`.
    """

    request_id: str
    user_id: str | None
    source: str
    degraded: str | None
    arm: str
    model: Model
    challenger: Model | None
    features: FeatureAges
    unknown_items: list[str]
    unknown_categories: list[str]
    why_empty: str | None
    items: list[RecommendedItem]


class ScoredItem(Item):
    """Describe an item with its score."""

    score: float


class ItemList(BaseModel):
    """Return items, best first, and the model that ranked them."""

    model: Model
    items: list[ScoredItem]


class PublishedProfile(BaseModel):
    """Return a published profile: its text, interest phrases, and the engine that wrote it."""

    text: str
    interests: list[str]
    engine: str
    flag: str
    as_of: str


class User(BaseModel):
    """Return what is published about a user.

    `known_items` is the number of their items that the champion knows; `trained` is true when there are any.
    `days_since_last` counts from the latest published interaction until now.
    """

    user_id: str
    trained: bool
    known_items: int
    profile: PublishedProfile | None
    activity: str | None
    n_interactions: int | None
    days_since_last: float | None
    degraded: str | None
    model: Model
    features: FeatureAges


class ItemDetails(Item):
    """Describe an item with its profile and number of users."""

    profile: str
    interests: list[str]
    n_users: int
    added_since_training: bool
    model: Model


class Problem(BaseModel):
    """Describe an error: what is wrong, what to do, and where in the request."""

    error: str
    remedy: str
    where: list[str] = Field(default_factory=list)


class Liveness(BaseModel):
    """Report that the process answers."""

    status: str


class Readiness(BaseModel):
    """Report problems, the model, and the size and recall of the index; null while there is no model.

    `challenger` is the model that is tried beside it.
    """

    status: str
    problems: list[str]
    model: Model | None = None
    challenger: Model | None = None
    items: int = 0
    index: str | None = None
    recall: float | None = None
    loaded_at: str | None = None


class Reloaded(BaseModel):
    """Report whether the index was loaded again."""

    reloaded: bool
    problem: str
    model: Model
