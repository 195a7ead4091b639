"""Write a workspace into one file, and make a workspace of such a file again.

In: a workspace, also while stages and services run. Out: a tar file, compressed with zstandard, that appears whole or
not at all. Its last member lists the SHA-256 of every other one. Files of a workspace are replaced, never changed in
place, so that hard links to them, made while nothing is landed, built or published, are a state of one moment. (Logs
grow; readers pass over a line that is cut.) Left out is what can be made again or is not the workspace's own: the
online store, the database that dbt builds in, locks, unfinished work, Airflow's records and the inbox.

Restoring checks every file, removes who was erased since the back-up, fills the online store from the offline files,
and only then gives the workspace its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reclm.errors import InputError, WorkspaceError
from reclm.progress import track
from reclm.storage import audit
from reclm.storage.erasures import identify
from reclm.storage.files import replacing
from reclm.storage.locks import alone
from reclm.storage.runs import recorded
from reclm.storage.version import LAYOUT, VERSION
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

INDEX = "backup.json"
LEFT_OUT = ("locks", "airflow", "inbox", "artifacts/.partial", "landing/.partial")
LOCKS = {"events": "events land", "landing": "files land", "warehouse": "a build runs", "feast": "rows go to Feast"}
"""{lock: what is done by who holds it}, in the order in which stages take them."""
BEGINNINGS_LEFT_OUT = ("feast/online.db", "warehouse/build.duckdb")


def back_up(settings: Settings, file: Path) -> dict[str, Any]:
    """Write the workspace into `file`; return {"files", "bytes", "seconds_held"}.

    Waits until nothing is landed, built or published, and keeps that away while links are made: moments. Raises
    WorkspaceError without data, InputError where `file` lies inside the workspace.
    """
    workspace = settings.paths
    workspace.require_dataset()
    file = file.expanduser().resolve()
    if file.is_relative_to(workspace.root):
        raise InputError(f"{file} lies inside the workspace; write the back-up to another disk, or another folder")
    with recorded(workspace, "backup") as run:
        run |= _back_up(settings, file)
        run["made"] = f"{run['files']:,} files, {run['bytes']:,} bytes"
    return run


def _back_up(settings: Settings, file: Path) -> dict[str, Any]:
    workspace = settings.paths
    identify(workspace)
    links = workspace.artifacts / ".partial" / f"backup-{os.getpid()}"
    shutil.rmtree(links, ignore_errors=True)
    try:
        held = _link_all(settings, links)
        with replacing(file) as temporary:
            temporary.touch(0o600)  # it holds what users did, and hashes of keys
            with _compressed(temporary, "wb") as stream:
                index = _write(links, stream)
    finally:
        shutil.rmtree(links, ignore_errors=True)
    about: dict[str, Any] = {"files": len(index), "bytes": file.stat().st_size, "seconds_held": held}
    audit.record(workspace, "back up", file=file.name, **about)
    return about


def unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Write the files of a back-up into the new folder `folder` and check them; return what the back-up says of itself.

    Raises InputError when the file is no back-up, or is damaged, and WorkspaceError for one of another layout.
    """
    found: dict[str, str] = {}
    about: dict[str, Any] = {}
    try:
        with _compressed(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name == INDEX:
                    content = archive.extractfile(member)
                    assert content is not None
                    about = json.load(content)
                elif member.isfile():
                    archive.extract(member, folder, filter="data")
                    found[member.name] = _digest(folder / member.name)
                elif member.issym():
                    archive.extract(member, folder, filter="data")
    except FileNotFoundError:
        raise InputError(f"{file} does not exist") from None
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{file} is no whole back-up ({error}); use another one") from None
    if found != about.get("files"):
        listed = about.get("files", {})
        wrong = sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))
        raise InputError(f"{file} is damaged: {', '.join(wrong[:5]) or INDEX} is not what was written; use another one")
    if about["layout"] != LAYOUT:
        raise WorkspaceError(
            f"{file} was written by reclm {about['reclm']} (layout {about['layout']}; reclm {VERSION} reads {LAYOUT}); "
            "restore it with that version, then run `reclm migrate`"
        )
    workspace = Workspace(folder)
    if workspace.warehouse.exists():
        shutil.copyfile(workspace.warehouse, workspace.build_database)  # the published file is a copy of that one
    return about


def _link_all(settings: Settings, links: Path) -> float:
    """Link every file of the workspace under `links` while nothing replaces one; return for how many seconds."""
    workspace = settings.paths
    with ExitStack() as locks:
        for name, busy in LOCKS.items():
            locks.enter_context(alone(workspace.locks / f"{name}.lock", busy, workspace.lock_timeout))
        began = datetime.now(UTC)
        for file in _files(workspace):
            target = links / file.relative_to(workspace.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.is_symlink():
                target.symlink_to(file.readlink())
            else:
                _link(file, target)
        return round((datetime.now(UTC) - began).total_seconds(), 3)


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except FileNotFoundError:
        return  # a pointer that was removed at this moment, such as that of a challenger
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)


def _files(workspace: Workspace) -> Iterator[Path]:
    for path in sorted(workspace.root.rglob("*")):
        name = path.relative_to(workspace.root).as_posix()
        left_out = any(name == one or name.startswith(f"{one}/") for one in LEFT_OUT)
        if left_out or name.startswith(BEGINNINGS_LEFT_OUT) or path.name.endswith(".tmp"):
            continue
        if path.is_symlink() or path.is_file():
            yield path


def _write(folder: Path, stream: IO[bytes]) -> dict[str, str]:
    """Write the files of a folder as a tar stream, then the list of their digests, which is returned."""
    index: dict[str, str] = {}
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in track(sorted(folder.rglob("*")), "backing up"):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                archive.add(path, name)
            elif path.is_file():
                member = archive.gettarinfo(path, name)
                member.type, member.size = tarfile.REGTYPE, path.stat().st_size  # a link is written as its content
                with path.open("rb") as content:
                    hashed = _Hashed(content)
                    archive.addfile(member, hashed)  # type: ignore[arg-type]
                index[name] = hashed.digest.hexdigest()
        about = {"layout": LAYOUT, "reclm": VERSION, "made_at": datetime.now(UTC).isoformat(), "files": index}
        content_of_index = json.dumps(about).encode()
        member = tarfile.TarInfo(INDEX)
        member.size = len(content_of_index)
        archive.addfile(member, BytesIO(content_of_index))
    return index


class _Hashed:
    """A file that is read once, and its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _compressed(file: Path, mode: str) -> Any:
    import pyarrow as pa

    if mode == "wb":
        return pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), "zstd")
    return pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "zstd")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
