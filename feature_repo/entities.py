"""Who and what features describe. Ids are text everywhere in reclm, so every join key is a STRING."""

from feast import Entity, ValueType

# Someone whose interactions are in the log.
user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A person of the interaction log; the id is the log's own, as text.",
)

# Something that can be recommended.
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="An item of the catalogue; the id is the catalogue's own, as text.",
)

# The second key of fused vectors: two models' vector spaces never mix.
model_version = Entity(
    name="model_version",
    join_keys=["model_version"],
    value_type=ValueType.STRING,
    description="Version of the backbone artifact that a fused vector belongs to.",
)
