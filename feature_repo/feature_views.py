"""The seven views: what is known of users and items, and the vectors a trained model made of it.

Each view ends with two columns that publishing adds: `as_of_us`, the row's as_of where online readers can see it (Feast's
online stores round or localise their own timestamp), and `row_hash`, by which unchanged rows are recognised.
No view has a time to live: a profile stays valid until a newer one takes its place.
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
)

USER_ID = Field(name="user_id", dtype=String, description="The user.")
ITEM_ID = Field(name="item_id", dtype=String, description="The item.")
MODEL_VERSION = Field(name="model_version", dtype=String, description="The backbone artifact the vector belongs to.")
STAMP = [
    Field(name="as_of_us", dtype=Int64, description="as_of in microseconds since 1970-01-01 UTC."),
    Field(name="row_hash", dtype=String, description="Fingerprint of the row, created_at aside."),
]
PROFILE = [
    Field(name="profile", dtype=String, description="The profile in its one grammar."),
    Field(
        name="embedding", dtype=Array(Float32), description="The profile's text embedding; NULL where there is no text."
    ),
    Field(name="quality", dtype=Float32, description="The profile's quality score, higher is better."),
    Field(name="engine", dtype=String, description="The engine that wrote the profile."),
    Field(name="flag", dtype=String, description="'' or why the profile is poor: no_history, no_text, …"),
]
VECTOR = Field(
    name="vector", dtype=Array(Float32), description="Fused vector; a user's and an item's dot product is the score."
)

# The user as a language model describes them.
user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    schema=[USER_ID, *PROFILE, *STAMP],
    source=user_profile_source,
    ttl=timedelta(0),
    online=True,
    description="Who a user is and what they like, as text and as its embedding.",
)

# The people an item is for.
item_profile = FeatureView(
    name="item_profile",
    entities=[item],
    schema=[ITEM_ID, *PROFILE, *STAMP],
    source=item_profile_source,
    ttl=timedelta(0),
    online=True,
    description="Who an item is for, as text and as its embedding.",
)

# The item's own words.
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
    description="What an item says of itself, embedded by the same encoder as the profiles.",
)

# How much is known of a user.
user_activity = FeatureView(
    name="user_activity",
    entities=[user],
    schema=[
        USER_ID,
        Field(name="n_interactions", dtype=Int64, description="Interactions known before as_of."),
        Field(name="n_categories", dtype=Int64, description="Distinct categories among them."),
        Field(name="days_since_last", dtype=Float64, description="Days from the last one to as_of."),
        Field(name="activity", dtype=String, description="Band of n_interactions: 0, 1-3, 4-10, 11-50, 51+."),
        *STAMP,
    ],
    source=user_activity_source,
    ttl=timedelta(0),
    online=True,
    description="How active a user was before as_of.",
)

# How much is known of an item.
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

# What a trained backbone made of a user.
user_fused = FeatureView(
    name="user_fused",
    entities=[user, model_version],
    schema=[USER_ID, MODEL_VERSION, VECTOR, *STAMP],
    source=user_fused_source,
    ttl=timedelta(0),
    online=True,
    description="A user's vector in the space of one model version.",
)

# What a trained backbone made of an item.
item_fused = FeatureView(
    name="item_fused",
    entities=[item, model_version],
    schema=[ITEM_ID, MODEL_VERSION, VECTOR, *STAMP],
    source=item_fused_source,
    ttl=timedelta(0),
    online=True,
    description="An item's vector in the space of one model version.",
)
