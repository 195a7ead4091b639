"""Publish the marts of the current build to the feature store.

In: the marts as external parquet files. Out: checked features, offline and online. First every view is read, checked
and compared with what is online; only then is anything written. The checked files go to
`<workspace>/feast/offline/<version>/`, changed rows go online, and rows that no longer exist are deleted. Last, the
link `offline/current` is switched and `published.json` is written. A process killed in between leaves the old offline
files in force, while some rows online are already new. The next run finds out which and completes the rest.

A row whose features are those of the row online is not written again, however much later its as_of is. So the as_of of
an online row is the build since which its features have been what they are; how fresh the store is as a whole says the
as_of of each view in `published.json`. Offline every build has its rows with its own as_of, so that a point-in-time
join finds the features of then.

Newer data is protected twice. A view whose latest as_of is before the published one is refused: an old build must not
replace a new one. And an online row that is later than all of a view, which a killed publish of a newer build has left,
is not overwritten. Any other online row gives way, also to an earlier one: where a build has no row of somebody at its
latest as_of (a profile that does not parse), the newest that it has is served, as training reads it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reclm.errors import PublishError, WorkspaceError
from reclm.features import history, online, online_writer, store
from reclm.features.row_checks import ViewSchema, add_stamps, check_rows, latest_rows
from reclm.progress import detail, say
from reclm.settings.tree import Settings
from reclm.storage.erasures import erased_users
from reclm.storage.files import read_json, write_json, write_table
from reclm.storage.workspace import Workspace

MARTS = {
    "user_profile": "feast_user_profile",
    "item_profile": "feast_item_profile",
    "item_content": "feast_item_content",
    "user_activity": "feast_user_activity",
    "item_activity": "feast_item_activity",
}
ENCODER_DIMENSIONS = {"packaged-minilm": 384}
EMBEDDED_VIEWS = ("user_profile", "item_profile", "item_content")
READ_VIEW = "item_content"
"""The view whose vectors are wider than those of the others where a language model reads item texts."""


@dataclass(frozen=True)
class Change:
    """Hold what publishing a view will do: its whole history, the rows to write online, the keys to delete online.

    Keys of `replace` are deleted before their rows are written, because Redis keeps the later of two rows.
    """

    history: pa.Table
    write: pa.Table
    replace: list[online.Key]
    delete: list[online.Key]
    unchanged: int
    kept_newer: int


def published_path(workspace: Workspace) -> Path:
    """Return the file that describes the latest complete publish: `{version, views, …}`."""
    return workspace.feast / "published.json"


def publish(settings: Settings, *, rewind: bool = False) -> dict[str, Any]:
    """Publish the features of the current build; returns the content of `published.json`, and `reused`.

    Publishing the same rows again does nothing and says so. With `rewind` an older or empty build may replace a
    newer one. Raises PublishError before anything is written when a row is invalid, and
    WorkspaceError when there is no build.
    """
    workspace = settings.paths
    with store.writing(workspace):
        before = _complete_publish(settings)
        files = _mart_files(workspace, before)
        tables, contents = _changed_tables(settings, files, before)
        version = _version(contents)
        if before.get("version") == version:
            write_json(published_path(workspace), before | {"files": files})
            detail(f"features: reusing version {version}: its rows have not changed")
            return {**before, "files": files, "reused": True}
        feast = store.open_store(settings) if store.is_applied(settings) else None
        if feast:
            online_writer.claim_online_store(settings)
        changes = {view: _change(workspace, feast, *tables[view], rewind=rewind) for view in tables}
        if feast is None:
            feast = store.apply_definitions(settings)
            online_writer.claim_online_store(settings)
        _write_offline(workspace, version, changes)
        for view, change in changes.items():
            online_writer.delete_rows(feast, view, change.replace)
            online_writer.write_rows(feast, view, change.write)
            online_writer.delete_rows(feast, view, change.delete)
        _switch(workspace, version)
        published = {"version": version, "files": files, **_record(settings, changes, contents, before)}
        write_json(published_path(workspace), published)
        history.remove_others(workspace, settings.feast.keep_versions)
        return {**published, "reused": False}


def require_published(settings: Settings) -> dict[str, Any]:
    """Return the content of `published.json`. Raises WorkspaceError unless it describes the current build's rows."""
    workspace = settings.paths
    if not published_path(workspace).exists():
        raise WorkspaceError(f"{workspace.root} has no published features; run `reclm publish`")
    published = _published(workspace)
    _, contents = _changed_tables(settings, _mart_files(workspace, published), published)
    if published.get("version") != _version(contents):
        raise WorkspaceError("the published features are not those of the current build; run `reclm publish`")
    return published


def is_published(workspace: Workspace) -> bool:
    """Return whether the marts of the current build are those that were published last; reads no row."""
    published = _published(workspace)
    return bool(published) and _mart_files(workspace, published) == published["files"]


def _published(workspace: Workspace) -> dict[str, Any]:
    """Return `published.json`; empty when there is none, or that of an older release, which says less."""
    published: dict[str, Any] = read_json(published_path(workspace)) if published_path(workspace).exists() else {}
    return published if isinstance(published.get("files"), dict) else {}


def _mart_files(workspace: Workspace, published: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parquet file of each view: {view: its path in the workspace, size, time of change and digest}.

    A file that has not changed since it was published is not read. Raises WorkspaceError without a build, PublishError
    for a missing file.
    """
    if not workspace.current_build.exists():
        raise WorkspaceError(f"{workspace.root} holds no build; run `reclm build`")
    built, known = read_json(workspace.current_build).get("marts", {}), published.get("files", {})
    files = {}
    for view, mart in MARTS.items():
        path = workspace.root / built.get(mart, mart)
        if not path.is_file():
            raise PublishError(f"view {view}: {mart}.parquet does not exist; run `reclm build`; nothing was published")
        about = {"path": built[mart], "bytes": path.stat().st_size, "changed_ns": path.stat().st_mtime_ns}
        if about.items() <= known.get(view, {}).items():
            files[view] = known[view]
        else:
            with path.open("rb") as file:
                files[view] = about | {"digest": hashlib.file_digest(file, "sha256").hexdigest()[:16]}
    return files


def _complete_publish(settings: Settings) -> dict[str, Any]:
    """Return `published.json`; empty unless that publish is complete and still online. Does not import Feast."""
    published = _published(settings.paths)
    if not published or not store.is_applied(settings) or published["online_store"] != store.online_name(settings):
        return {}
    filled = [view for view, about in published["views"].items() if about["rows"]]
    return published if online_writer.is_filled(settings, filled) else {}


def _changed_tables(
    settings: Settings, files: Mapping[str, Mapping[str, Any]], published: Mapping[str, Any]
) -> tuple[dict[str, tuple[ViewSchema, pa.Table]], dict[str, str]]:
    """Return the checked rows of the views whose file is not the published one, and {view: hash of its rows} of all."""
    known = published.get("files", {})
    changed = {view for view, about in files.items() if known.get(view, {}).get("digest") != about["digest"]}
    contents = {view: published["views"][view]["content"] for view in files if view not in changed}
    embedded = {view: published["views"][view].get("width") for view in contents if view in EMBEDDED_VIEWS}
    widths = {_space(settings, view): width for view, width in embedded.items() if width}
    paths = {view: settings.paths.root / files[view]["path"] for view in MARTS if view in changed}
    tables = _checked_tables(settings, paths, widths) if paths else {}
    return tables, contents | {view: _content(table) for view, (_, table) in tables.items()}


def _content(table: pa.Table) -> str:
    """Hash the rows without their order and creation time, which change when the same data is built again."""
    rows = sorted(zip(table["as_of_us"].to_pylist(), table["row_hash"].to_pylist(), strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _version(contents: Mapping[str, str]) -> str:
    """Hash the rows of all views and the definitions of the views."""
    return hashlib.sha256(store.repository_digest() + repr(sorted(contents.items())).encode()).hexdigest()[:16]


def _space(settings: Settings, view: str) -> str:
    """Return the name of the vector space of a view: the vectors of one space have one width."""
    return "read" if settings.embedding.reader and view == READ_VIEW else "text"


def _checked_tables(
    settings: Settings, files: Mapping[str, Path], widths: Mapping[str, int]
) -> dict[str, tuple[ViewSchema, pa.Table]]:
    """Read and check views, as {view: (schema, rows)}; `widths` are those of the vectors in other views, by space.

    Raises PublishError for the first invalid row.
    """
    schemas = store.schemas(settings)
    dimensions: dict[str, int | None] = dict(widths)
    if settings.embedding.model in ENCODER_DIMENSIONS:
        dimensions["text"] = ENCODER_DIMENSIONS[settings.embedding.model]
    tables: dict[str, tuple[ViewSchema, pa.Table]] = {}
    with erased_users(settings.paths) as erased:
        rows = {view: erased.without(pq.read_table(file)) for view, file in files.items()}
    for view in files:
        schema = schemas[view]
        embedded, space = view in EMBEDDED_VIEWS, _space(settings, view)
        table, dropped = check_rows(schema, rows[view], dimensions.get(space) if embedded else None)
        if dropped and table.num_rows:
            say(f"warning: {view}: {dropped} rows without an id are left out")
        if embedded and dimensions.get(space) is None:
            dimensions[space] = _first_width(table)  # the encoder's width is not known, but all must have the same
        tables[view] = (schema, add_stamps(schema, table))
    return tables


def _first_width(table: pa.Table) -> int | None:
    widths = pc.list_value_length(table["embedding"]).drop_null()
    return widths[0].as_py() if len(widths) else None


def _change(
    workspace: Workspace, feast: store.Store | None, schema: ViewSchema, table: pa.Table, *, rewind: bool
) -> Change:
    """Compare a view's rows with the published and online ones. Raises PublishError when they are older, or missing."""
    latest = latest_rows(schema, table)
    keys = _keys(schema.keys, latest)
    current = _current(workspace, schema.name)
    published = pq.read_table(current, columns=[*schema.keys, "as_of_us"]) if current.exists() else None
    if published is not None and not rewind:
        _refuse_older_build(schema, table, published)
    stored = online_writer.stored_rows(feast, schema.name, keys) if feast else {}
    watermark = int(pc.max(table["as_of_us"]).as_py()) if table.num_rows else 0
    write: list[int] = []
    replace: list[online.Key] = []
    unchanged = kept_newer = 0
    rows = zip(keys, latest["as_of_us"].to_pylist(), latest["row_hash"].to_pylist(), strict=True)
    for row, (key, as_of_us, row_hash) in enumerate(rows):
        online_row = stored.get(key)
        later = online_row is not None and online_row.as_of_us > as_of_us
        if online_row is not None and online_row.as_of_us > watermark and not rewind:
            kept_newer += 1
        elif online_row is not None and online_row.row_hash == row_hash and not later:
            unchanged += 1
        else:
            write.append(row)
            if later:
                replace.append(key)
    deleted = sorted(set(_keys(schema.keys, published)) - set(keys)) if published is not None else []
    return Change(table, latest.take(pa.array(write, pa.int64())), replace, deleted, unchanged, kept_newer)


def _refuse_older_build(schema: ViewSchema, table: pa.Table, published: pa.Table) -> None:
    if published.num_rows == 0:
        return
    remedy = "publish the newest build, or `reclm publish --rewind` to go back on purpose; nothing was published"
    if table.num_rows == 0:
        raise PublishError(f"view {schema.name} has no rows, but {published.num_rows} are published; {remedy}")
    watermark, offered = pc.max(published["as_of_us"]).as_py(), pc.max(table["as_of_us"]).as_py()
    if offered < watermark:
        row = pc.index(table["as_of_us"], offered).as_py()
        key_text = ", ".join(f"{key} {table[key][row].as_py()!r}" for key in schema.keys)
        raise PublishError(
            f"view {schema.name}, column as_of, row {row + 1} ({key_text}): the latest as_of is {_iso(offered)}, "
            f"older than the published {_iso(watermark)}; {remedy}"
        )


def _keys(columns: tuple[str, ...] | list[str], table: pa.Table) -> list[online.Key]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()


def _current(workspace: Workspace, view: str) -> Path:
    return store.offline_path(workspace) / "current" / f"{view}.parquet"


def _write_offline(workspace: Workspace, version: str, changes: Mapping[str, Change]) -> None:
    final, partial = store.offline_path(workspace) / version, store.offline_path(workspace) / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    if final.exists() and _is_current(workspace, final):
        return
    partial.mkdir(parents=True)
    for view in MARTS:
        if view in changes:
            write_table(partial / f"{view}.parquet", changes[view].history)
        else:
            (partial / f"{view}.parquet").hardlink_to(_current(workspace, view).resolve())
    if not final.exists():
        partial.rename(final)
        return
    for file in partial.iterdir():  # an earlier publish of the same rows: what training kept beside them stays
        file.replace(final / file.name)
    shutil.rmtree(partial)  # a link to the very file that it should replace is left behind


def _is_current(workspace: Workspace, folder: Path) -> bool:
    link = store.offline_path(workspace) / "current"
    return link.is_symlink() and os.readlink(link) == folder.name  # noqa: PTH115 (a relative target, as written)


def _switch(workspace: Workspace, version: str) -> None:
    link = store.offline_path(workspace) / ".current.new"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    link.replace(store.offline_path(workspace) / "current")


def _record(
    settings: Settings, changes: Mapping[str, Change], contents: Mapping[str, str], before: Mapping[str, Any]
) -> dict[str, Any]:
    views = {
        view: {"content": contents[view]} | _numbers(changes[view], has_vectors=view in EMBEDDED_VIEWS)
        if view in changes
        else before["views"][view] | {"written": 0, "deleted": 0, "kept_newer": 0}
        for view in MARTS
    }
    for view, numbers in views.items():
        detail(f"{view}: {_summary(numbers)}")
    return {
        "online_store": store.online_name(settings),
        "views": views,
        "published_at": datetime.now(UTC).isoformat(),
    }


def _numbers(change: Change, *, has_vectors: bool) -> dict[str, Any]:
    width = {"width": _first_width(change.history)} if has_vectors else {}
    return width | {
        "rows": change.history.num_rows,
        "written": change.write.num_rows,
        "unchanged": change.unchanged,
        "kept_newer": change.kept_newer,
        "deleted": len(change.delete),
        "as_of": _iso(pc.max(change.history["as_of_us"]).as_py()) if change.history.num_rows else None,
    }


def _summary(numbers: Mapping[str, Any]) -> str:
    as_of = f" as of {numbers['as_of']}" if numbers["as_of"] else ""
    parts = [f"{numbers['rows']:,} rows{as_of}", f"{numbers['written']:,} written online"]
    parts += [f"{numbers['kept_newer']:,} not written: a newer row is online"] if numbers["kept_newer"] else []
    parts += [f"{numbers['deleted']:,} deleted"] if numbers["deleted"] else []
    return ", ".join(parts)


def features_version(settings: Settings) -> str:
    """Return the version of the published features; it is a parent of every model trained on them."""
    return str(read_json(settings.paths.feast / "published.json")["version"])


def sentence_width(settings: Settings) -> int:
    """Return the width of the sentence encoder's vectors among those published; 0 where that cannot be told.

    The vectors of item texts may be wider, where a language model reads them too.
    """
    published = read_json(published_path(settings.paths))
    views = ("user_profile", "item_profile") if settings.embedding.reader else EMBEDDED_VIEWS
    widths = (published["views"][view].get("width", published.get("width")) for view in views)  # formerly one of all
    return next(filter(None, widths), 0)


def has_profiles(settings: Settings) -> bool:
    """Return whether any profile of a user or an item is published: without item texts there are none."""
    views = read_json(published_path(settings.paths))["views"]
    return any(views[view]["rows"] for view in ("user_profile", "item_profile"))
