"""Land logs of known formats, or the demo shop: the first stage.

In: a folder or a file. Out: landed batches. `ingest` finds out what a folder holds, lets that format's importer plan
the batches, and lands them. Nothing is typed, deduplicated or judged here; the warehouse does that and says why it sets
a row apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from reclm.errors import InputError
from reclm.ingest import assigned, columns, demo, mind, movielens
from reclm.ingest.files import stem_of
from reclm.ingest.landing import Plan, land
from reclm.ingest.tables import Tables, find_tables, tables_in
from reclm.settings.tree import Settings
from reclm.storage.files import read_json
from reclm.storage.schemas import LANDING

DEMO = "demo"
LAYOUTS: Mapping[str, Callable[[Settings, Path], Plan]] = {
    "movielens": movielens.plan,
    "mind": assigned.plan_mind,
    "mind_raw": mind.plan,
}
"""{importer: its plan} of the layouts that file names tell."""
TABLES: Mapping[str, Callable[[Settings, Path, Tables], Plan]] = {
    "columns": columns.plan,
    "presplit": assigned.plan_presplit,
}
"""{importer: its plan} of tables of any name."""


def ingest(
    settings: Settings, source: Path | None, *, delivery: bool = False, only: Literal["items"] | None = None
) -> dict[str, Any]:
    """Land what `source` (a folder or a file) holds, or the demo shop when it is None; return `dataset.json`.

    A `delivery` is added to the data set of the workspace, whatever its folder is called. With `only`, nothing but item
    tables is landed. Ingesting the same files again changes nothing. Raises InputError, which names file, problem and
    remedy, when something cannot be read; nothing is landed then.
    """
    if source is None or settings.data.importer == DEMO:
        return land(settings, demo.plan(settings), name=DEMO, importer=DEMO, source=DEMO)
    folder = source.expanduser().resolve()
    if not folder.exists():
        raise InputError(f"{source} does not exist; --data names a folder with a log in it, or the log itself")
    name = folder.name if folder.is_dir() else stem_of(folder)
    existing = read_json(settings.paths.dataset) if delivery and settings.paths.dataset.exists() else None
    importer, plan = _plan(settings, folder, existing)
    if only:
        plan = replace(plan, batches=[batch for batch in plan.batches if batch.table == only])
    if existing:
        name = existing["name"]
        # a demo shop with deliveries is one no more: made anew, it would sweep them away
        importer = importer if existing["importer"] == DEMO else existing["importer"]
    return land(settings, plan, name=name, importer=importer, source=folder.name, delivery=delivery)


def summary(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, rows of each table, and both in words, of the content of `dataset.json`."""
    rows: dict[str, int] = dict.fromkeys(LANDING, 0)
    for batch in dataset["batches"]:
        rows[batch["table"]] += batch["rows"]
    made = ", ".join(f"{count:,} {table}" for table, count in rows.items() if count)
    return {"dataset": dataset["name"], "rows": rows, "made": f"{dataset['name']}: {made}"}


def _plan(settings: Settings, folder: Path, existing: Mapping[str, Any] | None) -> tuple[str, Plan]:
    """Return the importer and its plan. A log is needed unless the data set exists."""
    importer: str = settings.data.importer
    layout = layout_of(folder) if folder.is_dir() else ""
    if importer == "auto" and layout:
        importer = layout
    if importer in LAYOUTS and (layout or not existing):
        return importer, LAYOUTS[importer](settings, folder)
    tables = find_tables(settings, folder, log_needed=not existing)
    if existing and not tables.interactions:
        return "columns", columns.plan_additions(settings, folder, tables, existing["split_mode"])
    if importer in LAYOUTS:
        return importer, LAYOUTS[importer](settings, folder)
    if importer == "auto":
        importer = "presplit" if assigned.has_split_column(tables.interactions[0]) else "columns"
    return importer, TABLES[importer](settings, folder, tables)


def layout_of(folder: Path) -> str:
    """Return the importer whose file names the folder has, '' when it has those of none."""
    if movielens.layout_of(folder):
        return "movielens"
    if (folder / mind.BEHAVIORS).is_file() and (folder / mind.NEWS).is_file():
        return "mind_raw"
    stems = {stem_of(path) for path in tables_in(folder)}
    return "mind" if "train" in stems and stems & {"test", "test_full_shot"} else ""
