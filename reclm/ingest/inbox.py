"""Land what was delivered into the inbox, a folder that others write into while it is read.

In: the folder. Out: landed batches, and for every file that was not taken the reason. Each file counts for itself: one
that cannot be used is refused and the others land. A file that is still being written waits for the next time. What
became of a file is kept in `landing/inbox.json` beside its size, time and inode: while these stay the same, it is
neither hashed nor read again.

A folder of a known layout (MovieLens, MIND, a log with its split) is one delivery: it lands as a whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from reclm.errors import InputError
from reclm.ingest import columns, ingest, layout_of, summary
from reclm.ingest.files import KINDS, LogFile
from reclm.ingest.landing import Batch, Plan, SplitMode, land
from reclm.ingest.tables import ITEM_NAMES, LOG_NAMES, USER_NAMES, Part, Role, is_data, open_part, role_of, tables_of
from reclm.progress import say
from reclm.settings.tree import Settings
from reclm.storage.artifacts import content_hash
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone
from reclm.storage.version import VERSION
from reclm.storage.workspace import Workspace

UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", ".swp", "~")
"""Endings of the names under which programs write files that are not whole yet."""
DOUBTFUL_SECONDS = 2.0
"""A file that changed so shortly before could change again within the resolution of its time: it is not remembered."""
NOT_WHOLE = "it is still being written, or the files that it belongs to are; it is looked at again the next time"
NO_TABLE = f"its suffix is none of {', '.join(KINDS)}, or its content is no table; convert it, or move it away"
NO_ROLE = (
    "its name tells no table (such as "
    + ", ".join(names.split()[0] for names in (LOG_NAMES, ITEM_NAMES, USER_NAMES))
    + ")"
)

Kind = Literal["refused", "unused", "waiting"]
"""Why a file was not taken: a person must act; it is no table; it is not whole yet."""
Became = dict[str, str]
"""What became of a file: its `batch`, or `kind` and `why` of one that was not taken."""


@dataclass(frozen=True)
class NotTaken:
    """A file of the inbox that did not land."""

    file: str
    kind: Kind
    why: str


@dataclass(frozen=True)
class Delivery:
    """What became of the inbox. `dataset` is the content of `dataset.json`, None where nothing has ever landed."""

    dataset: dict[str, Any] | None
    not_taken: list[NotTaken]

    @property
    def refused(self) -> list[NotTaken]:
        """The files about which a person must do something."""
        return [one for one in self.not_taken if one.kind == "refused"]

    @property
    def summary(self) -> dict[str, Any]:
        """The data set in numbers and words, and {file: why it was not taken}."""
        about = summary(self.dataset) if self.dataset else {"made": "nothing yet"}
        made = f"{about['made']}; {len(self.not_taken)} files not taken" if self.not_taken else about["made"]
        return about | {"made": made, "not_taken": {one.file: one.why for one in self.not_taken}}


@dataclass(frozen=True)
class _File:
    """A file of a table; `role` is None where only its columns can tell. `state` tells whether it has changed since
    it was `seen`, in seconds since 1970."""

    part: Part
    role: Role | None
    state: Mapping[str, int]
    seen: float

    @property
    def label(self) -> str:
        return self.part.label

    @property
    def age(self) -> float:
        """Seconds from the last change until it was seen."""
        return self.seen - self.state["mtime_ns"] / 1e9

    @property
    def is_doubtful(self) -> bool:
        return self.age < DOUBTFUL_SECONDS or _state(self.part.path) != self.state


def not_taken(workspace: Workspace) -> list[NotTaken]:
    """Return the files that the last look at the inbox did not take."""
    return [NotTaken(**one) for one in _memory(workspace)["not_taken"]]


def was_read(workspace: Workspace) -> bool:
    """Return whether the inbox of a workspace has ever been looked at."""
    return _memory_path(workspace).exists()


def land_inbox(
    settings: Settings, folder: Path, *, only: Role | None = None, wait: Callable[[float], None] = time.sleep
) -> Delivery:
    """Land the new files of `folder`; with `only`, those of one table. Files that stay out are named with the reason.

    Waits once, up to `schedule.settle_seconds`, where a new file has changed shortly before. Raises InputError when a
    folder of a known layout cannot be read.
    """
    workspace = settings.paths
    with alone(workspace.locks / "inbox.lock", "another process reads the inbox", workspace.lock_timeout):
        found, strays = _look(settings, folder)
        memory, dataset = _memory(workspace), _dataset(workspace)
        key = content_hash([settings.data.model_dump(), settings.split.model_dump(), settings.seed, VERSION])
        records = {file.label: memory["files"][file.label] for file in found if file.label in memory["files"]}
        wanted = [file for file in found if only in (None, file.role)]
        fresh = [file for file in wanted if not _is_known(file, records.get(file.label), key, dataset)]
        whole, waiting = _settled(fresh, settings.schedule.settle_seconds, wait)
        layout = _layout(settings, folder, dataset, whole)
        if layout and whole and not waiting:
            dataset = ingest(settings, folder, delivery=True, only="items" if only == "items" else None)
            became = _of_layout(layout, whole, dataset)
        elif layout:
            became, waiting = {}, [*waiting, *(NotTaken(file.label, "waiting", NOT_WHOLE) for file in whole)]
        else:
            dataset, became, more = _land_each(settings, folder, whole, dataset)
            waiting += more
        for file in whole:
            if file.label in became:
                records[file.label] = {"state": file.state, "key": key} | became[file.label]
        out = [NotTaken(label, one["kind"], one["why"]) for label, one in records.items() if "kind" in one]
        out = sorted([*out, *waiting, *strays], key=lambda one: one.file)
        doubtful = {file.label for file in whole if file.is_doubtful}
        records = {label: one for label, one in records.items() if label not in doubtful}
        write_json(_memory_path(workspace), {"files": records, "not_taken": [asdict(one) for one in out]})
    for one in out:
        say(f"not taken ({one.kind}): {one.file}: {one.why}")
    return Delivery(dataset, out)


def _land_each(
    settings: Settings, folder: Path, files: Sequence[_File], dataset: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Became], list[NotTaken]]:
    """Land every file that can be; return the data set, what became of the files, and those that wait for a log."""
    batches, refused, split_mode = _plan(settings, files, dataset["split_mode"] if dataset else None)
    if dataset is None and not any(batch.table == "interactions" for batch in batches.values()):
        waiting = [NotTaken(label, "waiting", "the data set begins with the first log") for label in batches]
        batches = {}
    else:
        waiting = []
    if batches:
        name, importer = (dataset["name"], dataset["importer"]) if dataset else (folder.name, "columns")
        plan = Plan(split_mode, list(batches.values()))
        dataset = land(settings, plan, name=name, importer=importer, source=folder.name, delivery=True, refused=refused)
    listed = _listed(dataset)
    became: dict[str, Became] = {label: {"kind": "refused", "why": why} for label, why in refused.items()}
    for label, batch in batches.items():
        if batch.name in listed:
            became[label] = {"batch": batch.name}
        else:
            became.setdefault(label, {"kind": "refused", "why": "its content is that of another refused file"})
    if dataset and not dataset["batches"]:
        dataset = None  # nothing could be used
    return dataset, became, waiting


def _plan(
    settings: Settings, files: Sequence[_File], split_mode: SplitMode | None
) -> tuple[dict[str, Batch], dict[str, str], SplitMode]:
    """Return {file: batch}, {file: why it is refused}, and how the log is split: as before, else by its columns."""
    batches: dict[str, Batch] = {}
    refused: dict[str, str] = {}
    logs: dict[str, tuple[LogFile, bool]] = {}
    for file in files:
        try:
            opened = open_part(settings, file.part, file.role or "interactions")
            if file.role in (None, "interactions"):
                logs[file.label] = opened, columns.has_clock(settings.data, opened)
                columns.log_roles(settings.data, opened)
            else:
                is_items = file.role == "items"
                batches[file.label] = (
                    columns.item_batch_of(settings, opened) if is_items else columns.user_batch(settings.data, opened)
                )
        except (InputError, OSError) as error:
            refused[file.label] = f"{error}" if file.role else f"{NO_ROLE}; taken for a log, {error}"
            logs.pop(file.label, None)
    mode: SplitMode = split_mode or ("temporal" if any(clock for _, clock in logs.values()) else "assigned")
    for label, (opened, clock) in logs.items():
        if clock == (mode == "temporal"):
            batches[label] = columns.log_batch_of(settings, opened, mode)
        else:
            refused[label] = (
                f"it has no time column among {', '.join(opened.columns)}, and the log is split by time; name the "
                "column in data.timestamp_column"
                if mode == "temporal"
                else "it has times, and the log that landed before has none; give it another --workspace"
            )
    return batches, refused, mode


def _layout(settings: Settings, folder: Path, dataset: Mapping[str, Any] | None, files: Sequence[_File]) -> str:
    """Return the importer that reads the folder as a whole, '' where each file counts for itself."""
    if settings.data.importer != "auto":
        return "" if settings.data.importer == "columns" else settings.data.importer
    if found := layout_of(folder):
        return found
    if dataset:
        return "presplit" if dataset["importer"] == "presplit" else ""
    for file in files:
        with suppress(InputError, OSError):
            if file.role == "interactions" and "split" in open_part(settings, file.part, "interactions").columns:
                return "presplit"
    return ""


def _of_layout(layout: str, files: Sequence[_File], dataset: Mapping[str, Any]) -> dict[str, Became]:
    batches = {entry["source_file"]: entry["batch"] for entry in dataset["batches"]}
    unused: Became = {"kind": "unused", "why": f"not a file of the layout {layout}, as which the inbox is read"}
    return {file.label: {"batch": batches[file.label]} if file.label in batches else unused for file in files}


def _look(settings: Settings, folder: Path) -> tuple[list[_File], list[NotTaken]]:
    """Return the files of tables in a folder, and what else lies there."""
    files: list[_File] = []
    now = time.time()
    for table in tables_of(folder):
        states = {part: _state(part.path) for part in table.parts}
        files += [
            _File(part, role_of(settings.data, table), state, now)
            for part, state in states.items()
            if state and (state["size"] or len(states) == 1) and not part.path.name.endswith(UNFINISHED)
        ]
    inside = {folder / Path(file.label).parts[0] for file in files}
    strays = []
    for path in sorted(folder.iterdir()):
        if path.name.endswith(UNFINISHED) or not is_data(path):
            strays.append(NotTaken(path.name, "waiting", "its name says that it is not whole; rename it when it is"))
        elif path not in inside:
            strays.append(NotTaken(path.name, "unused", "no table: " + NO_TABLE))
    return files, strays


def _settled(
    files: Sequence[_File], seconds: float, wait: Callable[[float], None]
) -> tuple[list[_File], list[NotTaken]]:
    """Return the files that nobody writes any more, and the others. Waits where one has changed shortly before."""
    youngest = min((file.age for file in files), default=seconds)
    if youngest >= seconds:
        return list(files), []
    wait(seconds - max(youngest, 0.0))
    whole = [file for file in files if _state(file.part.path) == file.state]
    return whole, [NotTaken(file.label, "waiting", NOT_WHOLE) for file in files if file not in whole]


def _is_known(file: _File, record: Mapping[str, Any] | None, key: str, dataset: Mapping[str, Any] | None) -> bool:
    """Return whether a file is as it was when something was found out about it, by the same settings and release."""
    if record is None or (record["state"], record["key"]) != (file.state, key):
        return False
    return "kind" in record or record["batch"] in _listed(dataset)


def _listed(dataset: Mapping[str, Any] | None) -> set[str]:
    return {entry["batch"] for entry in dataset["batches"]} if dataset else set()


def _state(path: Path) -> dict[str, int]:
    """Return what tells whether a file has changed; empty where it is gone."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return {}
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns, "inode": about.st_ino}


def _memory_path(workspace: Workspace) -> Path:
    return workspace.landing / "inbox.json"


def _memory(workspace: Workspace) -> dict[str, Any]:
    path = _memory_path(workspace)
    return read_json(path) if path.exists() else {"files": {}, "not_taken": []}


def _dataset(workspace: Workspace) -> dict[str, Any] | None:
    return read_json(workspace.dataset) if workspace.dataset.exists() else None
