"""The columns of every parquet file of a workspace, declared once.

Writers pass these schemas to `reclm.storage.files.write_rows`; dbt's sources start as empty files of the same columns
(`READ_BY_DBT`). Times are UTC with microseconds. A schema that depends on a model's width is a function.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

TEXT, INTEGER, REAL, MOMENT = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")


def _columns(names: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    return [(name, kind) for name in names.split()]


def _landing(names: str) -> pa.Schema:
    """Landed values stay text; the last two columns say where a row was read."""
    return pa.schema([*_columns(names, TEXT), ("source_file", TEXT), ("source_row", INTEGER)])


LANDING: Mapping[str, pa.Schema] = {
    "interactions": _landing("user_id item_id event_ts weight split in_sparse_train event_type event_id request_id"),
    "items": _landing("item_id title text categories created_ts zero_shot full_shot_candidate"),
    "users": _landing("user_id text"),
    "impressions": _landing(
        "request_id user_id item_id position score propensity shown_at model_version model variant arm source"
    ),
}
"""{landing table: columns of each of its batches}."""

REJECTED = pa.schema([*_columns("table source_file", TEXT), ("source_row", INTEGER), *_columns("reason line", TEXT)])
"""`rejected/<batch>.parquet`: the lines of a batch that could not be read."""

PARAMETERS = pa.schema(
    [
        *_columns("dataset regime split_mode", TEXT),
        ("has_event_ts", pa.bool_()),
        ("seed", INTEGER),
        *_columns("train_share valid_share zero_shot_share pseudo_cold_share", REAL),
        *_columns("neighbours recent_items prompt_history prompt_neighbours max_text_length sparse_views", INTEGER),
        *_columns("as_of event_weights", TEXT),
        ("answer_days", REAL),
        *_columns("timestamp_format time_zone", TEXT),
    ]
)
"""`parameters.parquet`: one row, the settings that dbt's models depend on."""

BATCHES = pa.schema([*_columns("table_name batch", TEXT), ("batch_number", INTEGER), ("before_items", pa.bool_())])
"""`batches.parquet`: the landed batches that the tables are made of, in the order of `dataset.json`."""

ITEM_LIST = pa.schema(_columns("item_id", TEXT))
"""`serve/lists/<name>.parquet`: the items of a list that requests name, such as those in stock."""

DELIVERED_ITEMS = pa.schema(_columns("item_id", TEXT))
"""`delivered_items.parquet`: the items that a build writes which only adds items; empty for any other."""

CURRENT_ARTIFACTS = pa.schema([*_columns("kind version encoder", TEXT), ("position", INTEGER)])
"""`current_artifacts.parquet`: the artifacts that the warehouse's current tables show; of a kind that has several, the
rows of a later `position` replace those of an earlier one."""

PROFILE_FILES = {"user": "user_profiles.parquet", "item": "item_profiles.parquet"}


def profile_schema(kind: str) -> pa.Schema:
    """Return the columns of `<kind>_profiles.parquet`, one row per snapshot and user (or item)."""
    return pa.schema(
        [
            *_columns("dataset snapshot", TEXT),
            ("as_of", MOMENT),
            *_columns(f"{kind}_id profile", TEXT),
            ("identity", pa.list_(TEXT)),
            ("interests", pa.list_(TEXT)),
            *_columns("engine engine_version prompt_hash own_hash parse_status flag", TEXT),
            ("written_as_of", MOMENT),
            *_columns("seed tokens", INTEGER),
            ("latency_ms", REAL),
            ("version", TEXT),
        ]
    )


PROFILE_QUALITY = pa.schema([*_columns("version snapshot kind severity metric", TEXT), ("value", REAL), ("n", INTEGER)])
"""`quality.parquet` beside the profiles: one row per snapshot, kind, severity and metric."""

GENERATIONS = pa.schema(
    [
        *_columns("prompt_hash kind text", TEXT),
        ("tokens", INTEGER),
        ("latency_ms", REAL),
        ("parse_status", TEXT),
        ("attempts", INTEGER),
        *_columns("engine engine_version model_version", TEXT),
        ("seed", INTEGER),
    ]
)
"""`generations-00000.parquet` …: one row a distinct prompt, with its answer."""

VECTORS = pa.schema([("text_hash", TEXT), ("embedding", pa.list_(pa.float32())), *_columns("model version", TEXT)])
"""`vectors-00000.parquet` …: one row a distinct text, with its embedding."""

LANGUAGE_MODEL_CURVE = pa.schema([("step", INTEGER), ("metric", TEXT), ("value", REAL)])
"""`curve.parquet` of base, sft, reward and refine: one row a logged step and metric."""

HELD_OUT = pa.schema([*_columns("metric kind", TEXT), *_columns("value error", REAL), ("n", INTEGER)])
"""`held_out.parquet` of sft, reward and refine: one row per metric and kind; `error` is a standard error."""

DIALOGUES = pa.schema(_columns("dialogue_id user_id messages", TEXT))
"""`dialogues.parquet` of sft: one row a training dialogue, `messages` as JSON."""

BACKBONE_CURVE = pa.schema(
    [
        *_columns("model variant", TEXT),
        ("seed", INTEGER),
        ("snapshot", TEXT),
        ("epoch", INTEGER),
        ("loss", REAL),
        *_columns("setting metric", TEXT),
        ("value", REAL),
    ]
)
"""`curve.parquet` of a backbone: one row per snapshot, epoch, setting and metric."""

VALIDATION = pa.schema([*_columns("setting user_id", TEXT), *_columns("recall ndcg", REAL)])
"""`validation.parquet` of a backbone: one row per setting and user, values at 20."""


def backbone_schema(kind: str, widths: Mapping[str, int]) -> pa.Schema:
    """Return the columns of a backbone's `users.parquet` or `items.parquet`, one row per user (or item).

    `widths` maps each vector column to the length of its vectors.
    """
    vectors = [(name, pa.list_(pa.float32(), width)) for name, width in widths.items()]
    known = [("known_items", pa.list_(pa.int32()))] if kind == "user" else []
    return pa.schema([(f"{kind}_id", TEXT), ("index", INTEGER), *vectors, *known])


_TASK = _columns("dataset regime setting", TEXT)
_METRIC = [("metric", TEXT), ("k", INTEGER)]
EVALUATION: Mapping[str, pa.Schema] = {
    "results": pa.schema(
        [
            *_TASK,
            *_columns("model variant", TEXT),
            ("seed", INTEGER),
            *_METRIC,
            *_columns("value lo hi", REAL),
            ("n_users", INTEGER),
        ]
    ),
    "bands": pa.schema(
        [
            *_TASK,
            *_columns("model variant", TEXT),
            ("seed", INTEGER),
            *_columns("band_kind band", TEXT),
            *_METRIC,
            ("value", REAL),
            ("n", INTEGER),
        ]
    ),
    "comparisons": pa.schema(
        [
            *_TASK,
            *_columns("model variant other_model other_variant", TEXT),
            *_METRIC,
            ("seed", INTEGER),
            *_columns("diff lo_users hi_users lo_items hi_items", REAL),
        ]
    ),
}
"""{table: columns} of `results.parquet`, `bands.parquet` and `comparisons.parquet` of an evaluation."""

PROMOTION_DECISION = pa.schema(
    [
        ("decided_at", MOMENT),
        ("dataset", TEXT),
        ("as_of", MOMENT),
        *_columns(
            "decision decided_by reason candidate_version served_version candidate_model candidate_variant", TEXT
        ),
        ("candidate_seed", INTEGER),
        *_columns("champion_version champion_model champion_variant setting", TEXT),
        *_METRIC,
        *_columns("candidate_value candidate_lo candidate_hi candidate_cold champion_value diff diff_lo diff_hi", REAL),
        *_columns("guards candidates version", TEXT),
    ]
)
"""`decision.parquet` of a promotion: one row; `guards` and `candidates` are JSON."""

HEALTH_CHECKS = pa.schema(
    [
        ("checked_at", MOMENT),
        ("dataset", TEXT),
        ("as_of", MOMENT),
        *_columns("name subject", TEXT),
        *_columns("value lower_bound upper_bound", REAL),
        *_columns("status advice version", TEXT),
    ]
)
"""`checks.parquet` of a health check: one row a check and subject."""

ABLATION_RESULTS = pa.schema(
    [
        *_columns("dataset arm model variant setting metric", TEXT),
        *_columns("k n_users n_seeds", INTEGER),
        ("values", pa.list_(REAL)),
        *_columns("value sd lo hi diff diff_lo diff_hi seconds", REAL),
    ]
)
"""`results.parquet` of an ablation: one row an arm, model, variant, setting and metric."""

ABLATION_DIAGNOSTICS = pa.schema([*_columns("what name metric", TEXT), *_columns("value lo hi", REAL), ("n", INTEGER)])
"""`diagnostics.parquet` of an ablation."""

READ_BY_DBT: Mapping[str, pa.Schema] = {
    "profiles/user_profiles": profile_schema("user"),
    "profiles/item_profiles": profile_schema("item"),
    "profiles/quality": PROFILE_QUALITY,
    "embeddings/vectors-00000": VECTORS,
    "evaluation/results": EVALUATION["results"],
    "evaluation/bands": EVALUATION["bands"],
    "evaluation/comparisons": EVALUATION["comparisons"],
    "backbone/curve": BACKBONE_CURVE,
    "promotion/decision": PROMOTION_DECISION,
    "health/checks": HEALTH_CHECKS,
}
"""{artifact kind/file: columns} of the artifact files that are sources of the dbt project."""
