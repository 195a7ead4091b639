"""Bring the workspace of an earlier release to the layout that this one reads.

In: a workspace. Out: the same workspace under the current layout number. There is one migration for each number, in
their order. A migration replaces whole files, does nothing where it finds its work done, and the number is written
last: one that was killed is run again from its beginning and comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from reclm.errors import WorkspaceError
from reclm.storage import runs
from reclm.storage.artifacts import KINDS
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone
from reclm.storage.version import OLDEST_LAYOUT
from reclm.storage.workspace import Workspace

BUSY = "another process works in the workspace"


@dataclass(frozen=True)
class Migration:
    """The step from layout `to - 1` to layout `to`; `what` says in words what `apply` changes."""

    to: int
    what: str
    apply: Callable[[Workspace], None]


def _name_artifact_layouts(workspace: Workspace) -> None:
    """Write the layout of each artifact into its manifest, where some kinds had it among their parameters."""
    for kind in KINDS:
        for path in sorted((workspace.artifacts / kind).glob("*/manifest.json")):
            manifest = read_json(path)
            if "layout" not in manifest:
                parameters = manifest["parameters"]
                write_json(path, manifest | {"layout": parameters.get("layout", parameters.get("file_format", 1))})


MIGRATIONS = (Migration(4, "manifests name the layout of their artifact", _name_artifact_layouts),)
"""One for each layout from the one after `OLDEST_LAYOUT` to `LAYOUT`."""


def pending(workspace: Workspace) -> list[Migration]:
    """Return the migrations that this workspace needs, in order; none where it is current or holds no data.

    Raises WorkspaceError when no migration leads from its layout to the current one.
    """
    layout = workspace.layout
    if layout is None:
        return []
    if not OLDEST_LAYOUT <= layout <= MIGRATIONS[-1].to:
        workspace.require_current_layout()
    return [migration for migration in MIGRATIONS if migration.to > layout]


def migrate(workspace: Workspace) -> list[Migration]:
    """Run the migrations that this workspace needs and return them.

    Waits for a landing or a build. Raises WorkspaceError while a stage is running, and as `pending` does.
    """
    with ExitStack() as held:
        for lock in ("run.lock", "landing.lock", "warehouse.lock"):
            held.enter_context(alone(workspace.locks / lock, BUSY, workspace.lock_timeout))
        needed = pending(workspace)
        if needed and (busy := runs.at_work(workspace)):
            raise WorkspaceError(f"{busy} in {workspace.root}; run `reclm migrate` when it has ended")
        for migration in needed:
            with runs.recorded(workspace, "migrate", layout=migration.to) as about:
                migration.apply(workspace)
                write_json(workspace.dataset, read_json(workspace.dataset) | {"layout": migration.to})
                about["made"] = f"layout {migration.to}: {migration.what}"
    return needed
