"""Write the landing folder: logs and tables as ingested, in parquet files of text that are never edited afterwards.

In: batches. A batch is a file, or a piece of the demo world, with SQL that says which landing column is what. Out: one
parquet file per batch. Its name is the hash of the source's content and of the mapping, so ingesting the same files
again does nothing, and a changed file adds a batch. All batches of one call appear together or not at all: they are
written under `.partial`, moved, and listed in `dataset.json` last. A file that is not listed there was replaced or left
by a killed run. It is deleted once no build runs: a running one reads what was listed when it began.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import duckdb

from reclm.errors import InputError, WorkspaceError
from reclm.ingest.entries import is_current, mark_older_logs, without_superseded
from reclm.ingest.files import LogFile, quote_text
from reclm.ingest.report import NOTHING, About, add_facts, report
from reclm.ingest.rows import copy_rows, copy_to, count_rows, with_unreadable
from reclm.ingest.scratch import READING, sweep
from reclm.ingest.texts import register
from reclm.progress import say, track
from reclm.settings.data import LOW_RATING
from reclm.settings.tree import Settings
from reclm.storage.artifacts import content_hash
from reclm.storage.erasures import Erasures, erased_users, identify, users_of
from reclm.storage.files import ensure_empty_table, move_durably, read_json, write_json
from reclm.storage.locks import alone, if_free
from reclm.storage.schemas import LANDING, REJECTED
from reclm.storage.version import LAYOUT
from reclm.storage.workspace import Workspace

Table = Literal["interactions", "items", "users", "impressions"]
SplitMode = Literal["temporal", "assigned"]
NO_TIMES = (
    "{file} has a time column without a single value; name the right one in data.timestamp_column, or remove it to "
    "have the log split by chance"
)


class Source(Protocol):
    """Where the rows of a batch come from."""

    @property
    def name(self) -> str:
        """The value of the column `source_file`."""

    @property
    def content(self) -> str:
        """Hash of the content."""

    @property
    def reading(self) -> dict[str, Any]:
        """What determines the rows besides the content."""


class MadeRows(Source, Protocol):
    """A source whose rows are computed, not read."""

    def register(self, con: duckdb.DuckDBPyConnection) -> str:
        """Register the rows with `con`; return the name of the relation."""


@dataclass(frozen=True)
class Batch:
    """One landing file to write.

    `columns` maps landing columns to SQL over `rows`, itself a query over `source`: the file's columns and
    `reclm_row`, the 1-based data row. Columns left out are null. Rows of a weight below `min_weight` are not
    likes: they are counted, and land as events of type `low_rating`. `collected` rows came through the service: what
    they hold exists nowhere else, so no later ingest replaces them. `about` is what a person should know.
    """

    table: Table
    source: LogFile | MadeRows
    columns: Mapping[str, str]
    rows: str = "select * from source"
    min_weight: float | None = None
    collected: bool = False
    about: About = NOTHING

    @property
    def name(self) -> str:
        what = {"reading": self.source.reading, "columns": dict(self.columns), "rows": self.rows}
        return content_hash(
            {"table": self.table, "content": self.source.content, "min_weight": self.min_weight, **what}
        )


@dataclass(frozen=True)
class Plan:
    """The batches that an importer found.

    `truth` writes the demo shop's true interests into a folder; `not_used` is {file: why, or ''}.
    """

    split_mode: SplitMode
    batches: list[Batch] = field(default_factory=list)
    truth: Callable[[duckdb.DuckDBPyConnection, Path], None] | None = None
    not_used: Mapping[str, str] = field(default_factory=dict)


def land(
    settings: Settings,
    plan: Plan,
    *,
    name: str,
    importer: str,
    source: str,
    delivery: bool = False,
    refused: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Land every batch of `plan` that has not landed yet; return the content of `dataset.json`.

    A `delivery` may come in another format than the data set it joins. Where `refused` is given, a file that cannot be
    used is put there with what is wrong with it, {file: message}, and the others land.

    Raises InputError when a file cannot be read (nothing is changed then) and WorkspaceError when the workspace holds
    another data set.
    """
    workspace = settings.paths
    landing, partial = workspace.landing, workspace.landing / ".partial"
    with alone(workspace.locks / "landing.lock", "another process lands files", workspace.lock_timeout):
        workspace.require_current_layout()
        before = _listed_batches(workspace, name, None if delivery else importer)
        shutil.rmtree(partial, ignore_errors=True)
        sweep(landing / READING)
        partial.mkdir(parents=True)
        try:
            listed = {entry["batch"] for entry in before}
            wanted: dict[str, Batch] = {}
            for batch in plan.batches:
                first = wanted.setdefault(batch.name, batch)
                if first is not batch:
                    say(f"{batch.source.name}: the same rows as {first.source.name}, landed once")
            fresh = [batch for key, batch in wanted.items() if key not in listed]
            with erased_users(workspace) as erased, _connect(settings, partial) as con:
                _write_empty(landing)
                writer = _BatchWriter(con, partial, erased)
                entries = writer.write_all(fresh, refused)
                entries = _usable(entries, writer.rows_read, before, plan.split_mode, refused)
                add_facts(con, entries, partial, has_min_weight=settings.data.min_weight is not None)
                if plan.truth and (fresh or not workspace.truth.exists()):
                    (partial / "truth").mkdir()
                    plan.truth(con, partial / "truth")
                kept = [
                    entry for entry in before if is_current(entry, wanted, entries, importer == "demo" and not delivery)
                ]
                mark_older_logs(before, kept, entries)
                kept = writer.without_superseded(kept, wanted, entries)
            _require_one_clock(workspace, plan, entries, kept)
            identify(workspace)
            content = _publish(workspace, kept + entries, plan, name, importer, source)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    report(entries, plan.not_used, name=name, n_unchanged=len(wanted) - len(fresh))
    return content


def _usable(
    entries: list[dict[str, Any]],
    read: Counter[str],
    before: list[dict[str, Any]],
    split_mode: SplitMode,
    refused: dict[str, str] | None,
) -> list[dict[str, Any]]:
    """Return the entries but for files of a table of which none has a row, and logs without one of their times.

    An empty part beside others is no fault. Raises InputError where nothing can be refused.
    """
    known = {entry["table"] for entry in before}
    usable = []
    for entry in entries:
        fault = ""
        if not read[entry["table"]] and entry["table"] not in known:
            fault = (
                f"{entry['source_file']} gives no rows for {entry['table']}: it is empty but for a header, or has none "
                "of the kind; export it again or remove it"
            )
        elif refused is not None and split_mode == "temporal" and entry["rows"] and entry.get("with_event_ts") == 0:
            fault = NO_TIMES.format(file=entry["source_file"])
        if fault and refused is None:
            raise InputError(fault)
        if fault:
            assert refused is not None
            refused[entry["source_file"]] = fault
        else:
            usable.append(entry)
    return usable


def _require_one_clock(
    workspace: Workspace, plan: Plan, entries: list[dict[str, Any]], kept: list[dict[str, Any]]
) -> None:
    before = read_json(workspace.dataset)["split_mode"] if workspace.dataset.exists() else plan.split_mode
    if before != plan.split_mode and any(entry["table"] == "interactions" for entry in kept):
        raise InputError(
            f"the log landed before is split {'by time' if before == 'temporal' else 'without times'}, this one is "
            "not; give it the same columns, or another --workspace"
        )
    logs = [entry for entry in entries if "with_event_ts" in entry]
    if plan.split_mode == "temporal" and logs and not any(entry["with_event_ts"] for entry in logs):
        raise InputError(NO_TIMES.format(file=logs[0]["source_file"]))


def _listed_batches(workspace: Workspace, name: str, importer: str | None) -> list[dict[str, Any]]:
    """Return the batches listed before and remove files of killed runs. `importer` None: any importer is accepted."""
    content = read_json(workspace.dataset) if workspace.dataset.exists() else {"batches": []}
    if content["batches"] and (content["name"], content["importer"]) != (
        name,
        importer or content["importer"],
    ):
        raise WorkspaceError(
            f"{workspace.root} already holds the data set {content['name']!r} (importer {content['importer']}); "
            f"one workspace holds one data set: give {name!r} (importer {importer}) another --workspace"
        )
    entries = [e for e in content["batches"] if (workspace.landing / e["table"] / f"{e['batch']}.parquet").exists()]
    _sweep(workspace, entries)
    return entries


def _sweep(workspace: Workspace, entries: list[dict[str, Any]]) -> None:
    """Remove the files that are not listed, where no build runs that may read them; the next landing does it then."""
    with if_free(workspace.locks / "warehouse.lock") as free:
        if free:
            _remove_unlisted(workspace, entries)


def _remove_unlisted(workspace: Workspace, entries: list[dict[str, Any]]) -> None:
    listed = {(entry["table"], entry["batch"]) for entry in entries}
    for table in LANDING:
        for path in (workspace.landing / table).glob("*.parquet"):
            if path.stem != "_empty" and (table, path.stem) not in listed:
                path.unlink()
    names = {batch for _, batch in listed}
    for path in (workspace.landing / "rejected").glob("*.parquet"):
        if path.stem != "_empty" and path.stem not in names:
            path.unlink()


def _connect(settings: Settings, partial: Path) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    register(con)
    con.execute("set TimeZone = 'UTC'")
    con.execute(f"set temp_directory = {quote_text(str(partial / 'spill'))}")
    if settings.runtime.threads:
        con.execute(f"set threads = {settings.runtime.threads}")
    return con


def _write_empty(landing: Path) -> None:
    """Write an empty batch of each table, so that dbt can read tables without a file."""
    for table, schema in {**LANDING, "rejected": REJECTED}.items():
        ensure_empty_table(landing / table / "_empty.parquet", schema)


class _BatchWriter:
    """Writes batches under `.partial`, one at a time."""

    def __init__(self, con: duckdb.DuckDBPyConnection, partial: Path, erased: Erasures) -> None:
        self.con = con
        self.partial = partial
        self.erased = erased
        self.rows_read = Counter[str]()

    def write_all(self, batches: Sequence[Batch], refused: dict[str, str] | None) -> list[dict[str, Any]]:
        """Write every batch; return their entries. Raises InputError for one that cannot be read, or refuses it."""
        entries = []
        for batch in track(batches, "landing"):
            try:
                entries.append(self.write(batch))
            except InputError as error:
                if refused is None:
                    raise
                refused[batch.source.name] = str(error)
        return entries

    def without_superseded(
        self, kept: list[dict[str, Any]], wanted: Mapping[str, Batch], fresh: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the earlier entries that no fresh one replaces, as a file of the same name."""

        def file_of(entry: Mapping[str, Any]) -> Path:
            root = self.partial if entry in fresh else self.partial.parent
            return root / entry["table"] / f"{entry['batch']}.parquet"

        def count(query: str) -> tuple[int, ...]:
            return tuple(self.con.execute(query).fetchall()[0])

        return without_superseded(kept, wanted, fresh, file_of, count)

    def write(self, batch: Batch) -> dict[str, Any]:
        """Write `.partial/<table>/<name>.parquet`; return the batch's entry of `dataset.json`."""
        path = self.partial / batch.table / f"{batch.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        n_rejected = self._stage(batch, path)
        self.rows_read[batch.table] += count_rows(self.con, path) + n_rejected
        self._filter_rows(batch, path, n_rejected)
        is_log = batch.table == "interactions"
        n_rows = count_rows(self.con, path)
        entry: dict[str, Any] = {"table": batch.table, "batch": batch.name, "rows": n_rows}
        entry |= {"source_file": batch.source.name, "content": batch.source.content, "unreadable": n_rejected}
        if isinstance(batch.source, LogFile) and batch.source.partition:
            entry |= {"partition": dict(batch.source.partition)}
        entry |= batch.about.entry
        if batch.collected:
            return entry | {"collected": True}
        if is_log:
            is_low = f"case when event_type = '{LOW_RATING}' then 1 end"
            entry |= {"with_event_ts": count_rows(self.con, path, "event_ts")}
            entry |= {"below_min_weight": count_rows(self.con, path, is_low)}
        return entry

    def _stage(self, batch: Batch, path: Path) -> int:
        """Write every readable row of the batch, unfiltered; return how many lines could not be read."""
        if isinstance(batch.source, LogFile):
            kept = self._unreadable(batch)
            return copy_rows(self.con, batch.source, batch.table, lambda rows: _landing_sql(batch, rows), path, kept)
        copy_to(self.con, _landing_sql(batch, batch.source.register(self.con)), path)
        return 0

    def _unreadable(self, batch: Batch) -> Path:
        return self.partial / "rejected" / f"{batch.name}.parquet"

    def _filter_rows(self, batch: Batch, path: Path, n_rejected: int) -> None:
        """Insert empty rows for unreadable lines and remove erased users."""
        gone = self._erased_users(path) if "user_id" in LANDING[batch.table].names else ()
        if not n_rejected and not gone:
            return
        rows = f"select * from {quote_text(str(path))}"
        if n_rejected:
            rows = with_unreadable(rows, self._unreadable(batch))
        known = f"coalesce(user_id not in ({', '.join(map(quote_text, gone))}), true)" if gone else "true"
        filtered = path.with_suffix(".filtered")
        copy_to(self.con, f"select * from ({rows}) where {known}", filtered)
        filtered.replace(path)

    def _erased_users(self, path: Path) -> list[str]:
        return sorted(self.erased.among(users_of(path))) if self.erased else []


def _landing_sql(batch: Batch, relation: str) -> str:
    columns = [name for name in LANDING[batch.table].names if name not in ("source_file", "source_row")]
    sql = {column: batch.columns.get(column, "null") for column in columns}
    if batch.min_weight is not None:
        low = f"coalesce(try_cast(({sql['weight']}) as double) < {batch.min_weight}, false)"
        sql["event_type"] = f"case when {low} then '{LOW_RATING}' else {sql['event_type']} end"
    fields = [f"({sql[column]})::varchar as {column}" for column in columns]
    return (
        f"with source as (select *, row_number() over () as reclm_row from {relation}), "
        f"picked as ({batch.rows}) "
        f"select {', '.join(fields)}, {quote_text(batch.source.name)} as source_file, reclm_row::bigint as source_row "
        "from picked"
    )


def _publish(
    workspace: Workspace, entries: list[dict[str, Any]], plan: Plan, name: str, importer: str, source: str
) -> dict[str, Any]:
    """Move the files of `.partial` into place, then list them, then remove those no longer listed."""
    partial = workspace.landing / ".partial"
    for entry in entries:
        for folder in (entry["table"], "rejected"):
            path = partial / folder / f"{entry['batch']}.parquet"
            if path.exists():
                move_durably(path, workspace.landing / folder / path.name)
    if (partial / "truth").exists():
        shutil.rmtree(workspace.truth, ignore_errors=True)
        (partial / "truth").replace(workspace.truth)
    content = {
        "layout": LAYOUT,
        "name": name,
        "importer": importer,
        "source": source,
        "split_mode": plan.split_mode,
        "has_event_ts": any(entry.get("with_event_ts") for entry in entries),
        "batches": entries,
    }
    landed = {entry["source_file"] for entry in entries}
    before = read_json(workspace.dataset).get("not_used", {}) if workspace.dataset.exists() else {}
    if not_used := {file: why for file, why in (before | dict(plan.not_used)).items() if file not in landed}:
        content["not_used"] = not_used
    if entries and (not workspace.dataset.exists() or read_json(workspace.dataset) != content):
        write_json(workspace.dataset, content)
    _sweep(workspace, entries)
    return content
