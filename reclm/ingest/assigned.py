"""Import data that comes with its own split: `presplit` (a split column) and `mind` (a file per split).

In: a folder or a file. Out: a plan of batches. `presplit` is a log with `split` (train, valid, test, zero_shot) and
optionally `in_sparse_train`, and items with an optional `zero_shot`. `mind` is the data published with RecLM (arXiv
2412.19302) as parquet: `train`, `test_full_shot`, `items` with `in_test` and `in_zero_shot`; or `train` and `test`
alone, with or without `items`.
"""

from __future__ import annotations

from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.columns import item_batch, log_batch, user_batch
from reclm.ingest.files import LogFile, quote_name, stem_of
from reclm.ingest.landing import Plan
from reclm.ingest.tables import Tables, open_file, tables_in
from reclm.settings.tree import Settings

SPLIT_FILES = {"train": "train", "valid": "valid", "test": "test", "test_full_shot": "test"}
FLAGS = ("zero_shot", "full_shot_candidate", "in_train", "in_test", "in_zero_shot")


def has_split_column(file: LogFile) -> bool:
    """Return whether a log has a split column."""
    return "split" in file.columns


def _flag(file: LogFile, *names: str) -> str:
    """SQL of the first of `names` the file has, as 'true', 'false' or null."""
    found = next((name for name in names if name in file.columns), "")
    return f"lower({quote_name(found)}::varchar)" if found else "null"


def _items(settings: Settings, file: LogFile, flags: dict[str, str]) -> dict[str, str]:
    return {landing: _flag(file, landing, other) for landing, other in flags.items()}


def plan_presplit(settings: Settings, source: Path, tables: Tables) -> Plan:
    """Plan the batches of one log with a split column."""
    data = settings.data
    for file in tables.interactions:
        if "split" not in file.columns:
            raise InputError(
                f"{file.path} has no column 'split' (its columns are {', '.join(file.columns)}); "
                "set data.importer to columns, which splits by time"
            )
    flags = {"zero_shot": "in_zero_shot", "full_shot_candidate": "in_test"}
    return Plan(
        "assigned",
        [
            log_batch(data, file, {"split": '"split"', "in_sparse_train": _flag(file, "in_sparse_train")})
            for file in tables.interactions
        ]
        + [item_batch(data, file, _items(settings, file, flags), flags=FLAGS, published=True) for file in tables.items]
        + [user_batch(data, file) for file in tables.users],
    )


def plan_mind(settings: Settings, source: Path) -> Plan:
    """Plan the batches of a folder with one file a split."""
    tables = {stem_of(path): path for path in tables_in(source)}
    if "test_full_shot" in tables:
        tables.pop("test", None)
    logs = {label: open_file(settings, tables[stem]) for stem, label in SPLIT_FILES.items() if stem in tables}
    if not {"train", "test"} <= set(logs):
        raise InputError(
            f"{source} lacks train or test: looked for train.parquet with test.parquet or test_full_shot.parquet, "
            f"found {', '.join(path.name for path in tables_in(source)) or 'nothing'}"
        )
    batches = [log_batch(settings.data, file, {"split": f"'{label}'"}) for label, file in logs.items()]
    if "items" in tables:
        file = open_file(settings, tables["items"])
        flags = _items(settings, file, {"zero_shot": "in_zero_shot", "full_shot_candidate": "in_test"})
        if {"category", "subcategory"} <= set(file.columns):
            flags["categories"] = "nullif(concat_ws('|', category, subcategory), '')"
        batches.append(
            item_batch(settings.data, file, flags, flags=(*FLAGS, "category", "subcategory"), published=True)
        )
    return Plan("assigned", batches)
