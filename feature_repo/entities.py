"""Define the entities that features describe. Ids are text everywhere in reclm, so all join keys are STRING."""

from feast import Entity, ValueType

# A user of the interaction log.
user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A user of the interaction log; the id is that of the log, as text.",
)

# An item of the catalogue.
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="An item of the catalogue; the id is that of the catalogue, as text.",
)

# The second key of fused vectors, so that the vector spaces of two models never mix.
model_version = Entity(
    name="model_version",
    join_keys=["model_version"],
    value_type=ValueType.STRING,
    description="Version of the backbone artifact that a fused vector belongs to.",
)
