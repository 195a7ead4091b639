"""Make a workspace of a back-up: checked, without users who were erased since, with a filled online store.

In: a file that `reclm.maintenance.backup` wrote. Out: a workspace that serves what the backed-up one served. All work
is done in a folder beside it, which gets the workspace's name last, so that nothing is served before that.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import InputError
from reclm.maintenance.backup import unpack
from reclm.maintenance.forget import remove_again
from reclm.storage import audit
from reclm.storage.files import read_json, write_json
from reclm.storage.workspace import Workspace
from reclm.warehouse.reading import settings_of_build

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def restore(settings: Settings, file: Path, build: Callable[..., Any]) -> dict[str, Any]:
    """Restore a back-up as the workspace of the settings; return {"made_at", "files", "removed", "online"}.

    `build` is `stages.build`, which makes the warehouse again where users had to be removed; `removed` counts their
    rows by folder. `online` is the number of rows written to the online store. Raises InputError where the workspace
    exists, PublishError where a Redis database is that of another workspace, also of the one backed up, and as `unpack`
    does.
    """
    root = settings.paths.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} exists; a back-up is restored into a new folder: give another --workspace")
    folder = root.with_name(f".{root.name}.restoring")
    inside = settings.model_copy(update={"workspace": folder})
    killed_owner = _owner(inside.paths)
    shutil.rmtree(folder, ignore_errors=True)
    about = unpack(file.expanduser().resolve(), folder)
    _claim_online_store(inside, about["made_at"], killed_owner)
    removed = remove_again(inside)
    if any(removed.values()):
        build(settings_of_build(inside), force=True)
    online = _fill_online_store(inside)
    result = {"made_at": about["made_at"], "files": len(about["files"]), "removed": removed, "online": online}
    audit.record(inside.paths, "restore", file=file.name, **result)
    folder.replace(root)
    return result


def _owner(workspace: Workspace) -> str:
    from reclm.features.store import applied_path

    return str(read_json(applied_path(workspace))["owner"]) if applied_path(workspace).exists() else ""


def _claim_online_store(settings: Settings, made_at: str, killed_owner: str) -> None:
    """Give the restored workspace a mark of its own, so that it never shares a Redis database with the original.

    The original's may serve, or hold newer rows though its workspace is lost. A restore of the same back-up that was
    killed goes on with the mark that it had.
    """
    from reclm.features.online_writer import claim_online_store
    from reclm.features.store import applied_path

    if not _owner(settings.paths):
        return
    owner = killed_owner if killed_owner.endswith(made_at) else f"{uuid.uuid4().hex} of {made_at}"
    path = applied_path(settings.paths)
    write_json(path, read_json(path) | {"owner": owner})
    claim_online_store(settings)


def _fill_online_store(settings: Settings) -> int:
    from reclm.features.fused import restore_online
    from reclm.features.publish import publish, published_path
    from reclm.promotion.challenger import versions_in_use

    if not published_path(settings.paths).exists():
        return 0
    # it tells of another online store: without it, publish compares every row with this one
    published_path(settings.paths).unlink()
    views = publish(settings, rewind=True)["views"]
    return sum(view.get("written", 0) for view in views.values()) + sum(
        restore_online(settings, version) for version in versions_in_use(settings)
    )
