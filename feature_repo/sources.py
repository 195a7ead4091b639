"""Define the source of each view: the validated parquet files that `reclm publish` writes into the workspace.

`offline/current` is a symbolic link that publishing switches in one step, so readers see one complete set of files. The
fused vectors of each model are a file of their own; all files of a view are read together.
"""

import os
from pathlib import Path

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat

WORKSPACE = Path(os.environ.get("RECLM_WORKSPACE", ""))
if not WORKSPACE.is_absolute():
    # Feast would read a relative path from this folder, and the registry's path in feature_store.yaml has no default.
    raise SystemExit("set RECLM_WORKSPACE to the absolute path of the workspace, e.g. RECLM_WORKSPACE=$PWD/workspace")

OFFLINE = WORKSPACE / "feast" / "offline"
OFFLINE.mkdir(parents=True, exist_ok=True)  # Feast makes no folder for its registry and online store


def parquet(name: str, path: Path, description: str) -> FileSource:
    """Return a source whose rows have two times: `as_of` (when they were known) and `created_at` (when written)."""
    return FileSource(
        name=name,
        path=str(path),
        file_format=ParquetFormat(),
        timestamp_field="as_of",
        created_timestamp_column="created_at",
        description=description,
    )


# One row per user and as_of, from the mart feast_user_profile.
user_profile_source = parquet(
    "user_profile_source",
    OFFLINE / "current" / "user_profile.parquet",
    "One row per user and as_of: the user's profile.",
)

# One row per item and as_of, from the mart feast_item_profile.
item_profile_source = parquet(
    "item_profile_source",
    OFFLINE / "current" / "item_profile.parquet",
    "One row per item and as_of: the item's profile.",
)

# One row per item and as_of, from the mart feast_item_content.
item_content_source = parquet(
    "item_content_source",
    OFFLINE / "current" / "item_content.parquet",
    "One row per item and as_of: its own text, embedded.",
)

# One row per user and as_of, from the mart feast_user_activity.
user_activity_source = parquet(
    "user_activity_source",
    OFFLINE / "current" / "user_activity.parquet",
    "One row per user and as_of: how active the user was.",
)

# One row per item and as_of, from the mart feast_item_activity.
item_activity_source = parquet(
    "item_activity_source",
    OFFLINE / "current" / "item_activity.parquet",
    "One row per item and as_of: how popular the item was.",
)

# One row per user and model version, written by a trained backbone.
user_fused_source = parquet(
    "user_fused_source",
    OFFLINE / "fused" / "user_fused" / "*.parquet",
    "One row per user and model version: the fused vector.",
)

# One row per item and model version, written by a trained backbone.
item_fused_source = parquet(
    "item_fused_source",
    OFFLINE / "fused" / "item_fused" / "*.parquet",
    "One row per item and model version: the fused vector.",
)

# One row per user, pushed by the recommender service when it receives an event. Events also land in the log, so no
# offline file is written: history is read from there.
user_recent_source = PushSource(
    name="user_recent_push",
    batch_source=parquet(
        "user_recent_source",
        OFFLINE / "user_recent.parquet",
        "One row per user: the latest events. Written online only.",
    ),
    description="The latest events of a user, pushed when they arrive.",
)
