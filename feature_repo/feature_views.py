"""Define the eight feature views: what is known of users and items, and the vectors that a trained model made of it.

Publishing adds two columns at the end of each view: `as_of_us`, the as_of of the row for online readers (the timestamps
of Feast's online stores are rounded or local), and `row_hash`, by which rows whose features have not changed are
recognised: they are not written online again and keep their as_of. So no view may have a time to live, by which Feast
would call them outdated: a feature is valid until another one replaces it.
"""

from datetime import timedelta

from entities import item, model_version, user
from feast import FeatureView, Field
from feast.types import Array, Float32, Float64, Int64, String
from sources import (
    item_activity_source,
    item_content_source,
    item_fused_source,
    item_profile_source,
    user_activity_source,
    user_fused_source,
    user_profile_source,
    user_recent_source,
)

USER_ID = Field(name="user_id", dtype=String, description="The user.")
ITEM_ID = Field(name="item_id", dtype=String, description="The item.")
MODEL_VERSION = Field(name="model_version", dtype=String, description="The `served` artifact the vector belongs to.")
STAMP = [
    Field(
        name="as_of_us",
        dtype=Int64,
        description="as_of in microseconds since 1970-01-01 UTC; online: since when unchanged.",
    ),
    Field(name="row_hash", dtype=String, description="Fingerprint of the keys and features."),
]
PROFILE = [
    Field(name="profile", dtype=String, description="Text of the profile."),
    Field(
        name="embedding", dtype=Array(Float32), description="The profile's text embedding; NULL where there is no text."
    ),
    Field(name="quality", dtype=Float32, description="The profile's quality score, higher is better."),
    Field(name="engine", dtype=String, description="The engine that wrote the profile."),
    Field(
        name="flag",
        dtype=String,
        description="Why the profile is empty or special (no_history, no_text …); empty for all others.",
    ),
]
VECTOR = Field(
    name="vector", dtype=Array(Float32), description="Fused vector; a user's and an item's dot product is the score."
)

# The profile of a user.
user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    schema=[USER_ID, *PROFILE, *STAMP],
    source=user_profile_source,
    ttl=timedelta(0),
    online=True,
    description="Profile of the user: the text and its embedding.",
)

# The profile of an item: the users it is for.
item_profile = FeatureView(
    name="item_profile",
    entities=[item],
    schema=[ITEM_ID, *PROFILE, *STAMP],
    source=item_profile_source,
    ttl=timedelta(0),
    online=True,
    description="Profile of the item: the text and its embedding.",
)

# The text of an item.
item_content = FeatureView(
    name="item_content",
    entities=[item],
    schema=[
        ITEM_ID,
        Field(name="title", dtype=String, description="The item's title."),
        Field(
            name="embedding",
            dtype=Array(Float32),
            description="Embedding of title, categories and text; NULL without text.",
        ),
        *STAMP,
    ],
    source=item_content_source,
    ttl=timedelta(0),
    online=True,
    description="Title of the item and the embedding of its text, by the encoder of the profiles.",
)

# The activity of a user.
user_activity = FeatureView(
    name="user_activity",
    entities=[user],
    schema=[
        USER_ID,
        Field(name="n_interactions", dtype=Int64, description="Interactions known before as_of."),
        Field(name="n_categories", dtype=Int64, description="Distinct categories among them."),
        Field(
            name="last_interaction_us", dtype=Int64, description="Time of the latest one, microseconds since 1970 UTC."
        ),
        Field(name="activity", dtype=String, description="Band of n_interactions: 0, 1-3, 4-10, 11-50, 51+."),
        *STAMP,
    ],
    source=user_activity_source,
    ttl=timedelta(0),
    online=True,
    description="How active a user was before as_of.",
)

# The popularity of an item.
item_activity = FeatureView(
    name="item_activity",
    entities=[item],
    schema=[
        ITEM_ID,
        Field(name="n_interactions", dtype=Int64, description="Interactions known before as_of."),
        Field(name="n_users_recent", dtype=Int64, description="Distinct users in the recent window before as_of."),
        Field(name="popularity_rank", dtype=Int64, description="1 is the most popular item."),
        Field(name="coldness", dtype=String, description="Band of n_interactions: 0, 1-3, 4-10, 11-50, 51+."),
        *STAMP,
    ],
    source=item_activity_source,
    ttl=timedelta(0),
    online=True,
    description="How popular an item was before as_of.",
)

# The vector of a user by a trained backbone.
user_fused = FeatureView(
    name="user_fused",
    entities=[user, model_version],
    schema=[USER_ID, MODEL_VERSION, VECTOR, *STAMP],
    source=user_fused_source,
    ttl=timedelta(0),
    online=True,
    description="A user's vector in the space of one model version.",
)

# The vector of an item by a trained backbone.
item_fused = FeatureView(
    name="item_fused",
    entities=[item, model_version],
    schema=[ITEM_ID, MODEL_VERSION, VECTOR, *STAMP],
    source=item_fused_source,
    ttl=timedelta(0),
    online=True,
    description="An item's vector in the space of one model version.",
)

# What a user did lately, pushed by the service within a request; bounded, oldest first.
user_recent = FeatureView(
    name="user_recent",
    entities=[user],
    schema=[
        USER_ID,
        Field(name="item_ids", dtype=Array(String), description="Items of the latest events, oldest first."),
        Field(name="event_types", dtype=Array(String), description="Type of each event: click, purchase, skip …"),
        Field(name="weights", dtype=Array(Float64), description="Weight of each event's type; below 0 a dislike."),
        Field(name="moments_us", dtype=Array(Int64), description="Time of each event, microseconds since 1970 UTC."),
        *STAMP,
    ],
    source=user_recent_source,
    ttl=timedelta(0),
    online=True,
    description="The latest events of a user that the service received.",
)
