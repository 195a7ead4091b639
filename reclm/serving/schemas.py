"""What goes in and out over HTTP: each request and each answer as a type, from which the OpenAPI is made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MOST_CHARACTERS = 256
MOST_QUERY = 500


def _as_id(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("give text or a whole number")
    value = str(value) if isinstance(value, int) else value
    if isinstance(value, str) and not is_valid_id(value):
        raise ValueError(f"an id has 1 to {MOST_CHARACTERS} characters, none of them a control character")
    return value


def is_valid_id(text: str) -> bool:
    """Whether a text can be an id."""
    if not 0 < len(text) <= MOST_CHARACTERS or any(ord(c) < 32 or ord(c) == 127 for c in text):
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


Id = Annotated[
    str,
    BeforeValidator(_as_id),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS}, {"type": "integer"}]}),
]


class Strict(BaseModel):
    """Unknown fields are an error: a typing mistake should not pass for a filter that filters nothing."""

    model_config = ConfigDict(extra="forbid")


class RecommendationRequest(Strict):
    """Whom to recommend to, and what. Without user and history the most popular items come back, labelled so."""

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
        default_factory=list, description="Items that the person liked, besides those known of them."
    )
    k: int = Field(10, ge=1, strict=True, description="How many items; the settings bound it (serve.max_k).")
    categories: list[Id] = Field(
        default_factory=list, description="Only items of one of these categories, whatever their case."
    )
    created_after: Annotated[AwareDatetime, AfterValidator(_in_utc)] | None = Field(
        None, description="Only items made after this moment, with a time zone."
    )
    items: list[Id] = Field(default_factory=list, description="Only these items, ranked.")
    exclude: list[Id] = Field(default_factory=list, description="None of these items.")
    exclude_seen: bool = Field(
        True, description="Leave out what the champion was trained to know of the person, and the history given here."
    )


class SearchRequest(Strict):
    """A free text: what somebody is after, or who they are."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "slow mornings and good coffee"}]}
    )

    query: str = Field(min_length=1, max_length=MOST_QUERY, description="Any words.")
    k: int = Field(10, ge=1, strict=True, description="How many items; the settings bound it (serve.max_k).")


class Model(BaseModel):
    """The model that answered; `as_of` is its moment of knowledge."""

    version: str
    model: str
    variant: str
    as_of: str
    promoted_at: str


class Item(BaseModel):
    """`cold`: nobody was known to have touched it when the model was fitted."""

    item_id: str
    title: str
    categories: list[str]
    cold: bool


class Like(BaseModel):
    item_id: str
    title: str


class Reasons(BaseModel):
    """`phrases` of the person's profile that the item answers to; `like`: the item of theirs that it is nearest to."""

    phrases: list[str]
    like: Like | None


class Recommended(Item):
    score: float
    reasons: Reasons


class FeatureAges(BaseModel):
    """As of when the feature store's values are, and seconds since the newest of them."""

    profile_as_of: str | None
    activity_as_of: str | None
    vector_as_of: str | None
    age_seconds: float | None


class Recommendations(BaseModel):
    """`source`: `trained` vector, `folded_in` from a history, `profile` alone, or `popularity`: nothing is known. `degraded`
    says what was away. `unknown_items` of the history are no candidates and counted for nothing."""

    user_id: str | None
    source: str
    degraded: str | None
    model: Model
    features: FeatureAges
    unknown_items: list[str]
    items: list[Recommended]


class ScoredItem(Item):
    score: float


class ItemList(BaseModel):
    model: Model
    items: list[ScoredItem]


class PublishedProfile(BaseModel):
    """A profile as published."""

    text: str
    interests: list[str]
    engine: str
    flag: str
    as_of: str


class User(BaseModel):
    """What is published of a user. `known_items` is how many the champion knows of."""

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
    profile: str
    interests: list[str]
    n_users: int
    added_since_training: bool
    model: Model


class Problem(BaseModel):
    """Every error: what is wrong, what to do, and, of a request's body, where."""

    error: str
    remedy: str
    where: list[str] = Field(default_factory=list)


class Liveness(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    problems: list[str]
    model: Model
    items: int
    index: str
    recall: float
    loaded_at: str


class Reloaded(BaseModel):
    reloaded: bool
    problem: str
    model: Model
