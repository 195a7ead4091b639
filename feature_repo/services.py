"""Define which features are read together. A reader that needs other features gets a service with a new version."""

from feast import FeatureService
from feature_views import (
    item_activity,
    item_content,
    item_fused,
    item_profile,
    user_activity,
    user_fused,
    user_profile,
    user_recent,
)

# Read for training, point-in-time: the three embeddings that fusion turns into initial vectors.
training_v1 = FeatureService(
    name="training_v1",
    features=[user_profile[["embedding"]], item_profile[["embedding"]], item_content[["embedding"]]],
    description="Embeddings of user profiles, item profiles and item texts, for training.",
)

# Read online for one request, in one look-up: the user's profile, activity, latest events and vector of the champion's
# version.
serving_v2 = FeatureService(
    name="serving_v2",
    features=[user_profile, user_activity, user_recent, user_fused],
    description="All features of one user, to answer a request.",
)

# Read online for pages about items: all their features, with their vectors of the champion's version.
catalogue_v1 = FeatureService(
    name="catalogue_v1",
    features=[item_profile, item_content, item_activity, item_fused],
    description="All features of some items, to show them and to give reasons.",
)
