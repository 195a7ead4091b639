"""Reload the candidate index when the workspace has a new champion, new items or a new build.

In: the settings. Out: `IndexReloader.index`, at any time the index of the newest state that could be loaded. The
workspace is checked every `serve.reload_seconds`. When it changed, a new index is loaded beside the old one, from what
is new and what the old one has already, in a thread that never keeps the interpreter for long. It replaces the old one
by one assignment, so that a request keeps the index it started with. When loading fails, the old index stays in use and
`problem` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reclm.errors import ArtifactError, ReclmError
from reclm.promotion import challenger, champion
from reclm.serving.candidate_index import load_index
from reclm.serving.metrics import INDEX_ITEMS, INDEX_RECALL, MODEL_AS_OF, RELOADS
from reclm.serving.workspace_metrics import WorkspaceMetrics

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.settings.tree import Settings

log = logging.getLogger("reclm.serve")
Fingerprint = tuple[object, ...]
CHECKS_BEFORE_RETRY = 10  # checks until an index that could not be loaded is tried again


class NoIndexError(Exception):
    """No index could be loaded since the service started."""


class IndexReloader:
    """Hold the current `index` and replace it when the workspace changes.

    `problem` is '' or the reason why the newest state could not be loaded. `challenger` is the index of the model that
    is tried beside the champion, None without one; `challenger_problem` says why it could not be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problem = ""
        self.loaded_at = datetime.now(UTC)
        self._fingerprint: Fingerprint = ()
        self._refused: Fingerprint = ()
        self._retry_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._index: CandidateIndex | None = None
        self.challenger: CandidateIndex | None = None
        self.challenger_problem = ""
        self._metrics = WorkspaceMetrics(settings.paths)

    @property
    def index(self) -> CandidateIndex:
        """Return the index in use. Raises NoIndexError while there is none."""
        if self._index is None:
            raise NoIndexError
        return self._index

    def start(self) -> None:
        """Load the first index.

        Raises ReclmError when there is no champion or it cannot be read; with `serve.wait` that becomes the `problem`.
        """
        try:
            fingerprint = self._read_fingerprint()
            indexes = self._load()
        except ReclmError as error:
            if not self.settings.serve.wait:
                raise
            log.warning("no recommendations yet: %s", error)
            self.problem = str(error)
            return
        except Exception as error:
            raise ArtifactError(
                f"the champion cannot be read ({type(error).__name__}: {error}); "
                "run `reclm rollback` to go back to the previous champion, or `reclm train` to train a new one"
            ) from None
        self._replace(*indexes, fingerprint)

    def watch(self) -> None:
        """Start checking for changes; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop checking for changes."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def refresh(self, force: bool = False) -> bool:
        """Check once for changes; returns True when the index was replaced.

        Does nothing while another check is running. With `force` the index is loaded again in any case.
        """
        if self._loading.locked():
            return False
        async with self._loading:
            fingerprint: Fingerprint = ()
            try:
                fingerprint = self._read_fingerprint()
                if fingerprint == self._fingerprint and not force:
                    self.problem = ""
                    return False
                if fingerprint == self._refused and time.monotonic() < self._retry_at and not force:
                    return False
                before = (None, None) if force else (self._index, self.challenger)
                indexes = await asyncio.to_thread(self._load, *before)
            except Exception as error:  # the old index must stay in use whatever is wrong with the new one
                problem = f"{type(error).__name__}: {error}"
                if problem != self.problem:
                    log.error("the workspace could not be loaded: %s", problem)
                self.problem, self._refused = problem, fingerprint
                self._retry_at = time.monotonic() + CHECKS_BEFORE_RETRY * self.settings.serve.reload_seconds
                RELOADS.labels("refused").inc()
                return False
            self._replace(*indexes, fingerprint)
            return True

    def _load(
        self, before: CandidateIndex | None = None, tried_before: CandidateIndex | None = None
    ) -> tuple[CandidateIndex, CandidateIndex | None]:
        """Load both indexes; the champion answers alone where the challenger cannot be read."""
        index, tried, problem = load_index(self.settings, before), None, ""
        try:
            pointer = challenger.find(self.settings)
            tried = load_index(self.settings, tried_before, pointer) if pointer else None
        except Exception as error:  # whatever is wrong with it, people must be answered
            problem = f"{type(error).__name__}: {error}"
            log.error("the challenger could not be loaded: %s", problem)
        self.challenger_problem = problem
        return index, tried

    def _replace(self, index: CandidateIndex, tried: CandidateIndex | None, fingerprint: Fingerprint) -> None:
        self._index, self.challenger = index, tried
        self._fingerprint, self.problem, self.loaded_at = fingerprint, "", datetime.now(UTC)
        gc.freeze()  # an index is millions of long-lived objects; collecting over them would slow requests
        RELOADS.labels("done").inc()
        INDEX_ITEMS.set(len(index.item_ids))
        INDEX_RECALL.set(1 if index.ann_recall is None else index.ann_recall)
        MODEL_AS_OF.set(datetime.fromisoformat(index.pointer["as_of"]).timestamp())
        pointer = index.pointer
        log.info(
            "%s/%s %s is in use, %d items", pointer["model"], pointer["variant"], index.version, len(index.item_ids)
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.to_thread(self._metrics.update)
            await asyncio.sleep(self.settings.serve.reload_seconds)
            await self.refresh()

    def _read_fingerprint(self) -> Fingerprint:
        """Return values that change whenever loading would give another index."""
        from reclm.features.store import offline_path, vector_file

        workspace = self.settings.paths
        pointer, tried = champion.current(self.settings), challenger.find(self.settings)
        versions = [str(one["version"]) for one in (pointer, tried) if one is not None]
        files = [workspace.current_build]
        for version in versions:
            files.append(vector_file(workspace, "item", version))
            files.append(workspace.artifacts / "served" / version / "users.parquet")  # changes with a forgotten user
        current = offline_path(workspace) / "current"
        return (
            *versions,
            pointer.get("decision"),
            *(file.stat().st_mtime_ns if file.exists() else None for file in files),
            str(current.readlink()) if current.is_symlink() else None,
        )
