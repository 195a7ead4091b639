"""The columns of every artifact file, declared once: writers write them, dbt and readers rely on them."""

from __future__ import annotations

import pyarrow as pa

PROFILE_FILES = {"user": "user_profiles.parquet", "item": "item_profiles.parquet"}


def profile_schema(kind: str) -> pa.Schema:
    """The columns of `<kind>_profiles.parquet`."""
    return pa.schema(
        [
            ("dataset", pa.string()),
            ("snapshot", pa.string()),
            ("as_of", pa.timestamp("us", tz="UTC")),
            (f"{kind}_id", pa.string()),
            ("profile", pa.string()),
            ("engine", pa.string()),
            ("engine_version", pa.string()),
            ("prompt_hash", pa.string()),
            ("parse_status", pa.string()),
            ("flag", pa.string()),
            ("seed", pa.int64()),
            ("tokens", pa.int64()),
            ("latency_ms", pa.float64()),
            ("version", pa.string()),
        ]
    )
