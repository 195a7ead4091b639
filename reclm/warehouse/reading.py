"""Read the published warehouse: a connection, the cut-off of a snapshot, and what the current build was made from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reclm.errors import WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.held import held_by, is_held

if TYPE_CHECKING:
    import duckdb


def connect(settings: Settings) -> duckdb.DuckDBPyConnection:
    """Open the published copy read-only, with times in UTC.

    Raises WorkspaceError when nothing has been built, and when another program holds the file for writing.
    """
    import duckdb

    path = settings.paths.warehouse
    if not path.exists():
        raise WorkspaceError(f"{path} does not exist; run `reclm build` first")
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        if not is_held(error):
            raise WorkspaceError(f"{path} cannot be opened ({error}); `reclm build --force` makes it anew") from None
        raise WorkspaceError(
            f"{held_by(path, error)} (a program that opens it read-only holds nobody up, and the next build puts a new "
            "file in its place)"
        ) from None
    connection.execute("set TimeZone = 'UTC'")
    root = str(settings.paths.root).replace("'", "''")
    connection.execute(f"set file_search_path = '{root}'")  # the Feast marts are views of files named relative to it
    return connection


def snapshot_as_of(settings: Settings, snapshot: str) -> datetime:
    """Return the cut-off of `select`, `final` or `serve` in UTC. Raises WorkspaceError when there is none."""
    with connect(settings) as connection:
        rows = connection.execute("select epoch_us(as_of) from int_snapshots where snapshot = ?", [snapshot]).fetchall()
    if not rows:
        raise WorkspaceError(f"the warehouse has no snapshot {snapshot!r}; it has `select`, `final` and `serve`")
    return datetime.fromtimestamp(rows[0][0] / 1e6, UTC)


def features_fingerprint(workspace: Workspace) -> str:
    """Return the fingerprint of the published tables of the features phase.

    Builds with the same known rows, code and settings have the same one. Raises WorkspaceError when nothing has been
    built.
    """
    build = read_json(workspace.current_build)
    return str(build.get("features_fingerprint") or build["fingerprint"])


def whole_fingerprint(workspace: Workspace) -> str:
    """Return the fingerprint of the last build that made all tables.

    What was only delivered since, items without interactions, changes nothing that a language model learns from.
    """
    build = read_json(workspace.current_build)
    return str(build.get("whole_fingerprint") or features_fingerprint(workspace))


def settings_of_build(settings: Settings) -> Settings:
    """Return the settings with the as-of of the current build, so that later stages know what the build knows."""
    if not settings.paths.current_build.exists():
        return settings
    as_of = read_json(settings.paths.current_build).get("as_of", "")
    return settings.model_copy(update={"data": settings.data.model_copy(update={"as_of": as_of})})
