"""Which index answers: it looks at the workspace every `serve.reload_seconds`, and puts a new one in place when it changed.

The new index is made whole beside the old one and takes its place by one assignment: a request keeps the one it began
with. When making it fails, the old one goes on answering and `problem` says why.
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
from reclm.promotion import champion
from reclm.serving import candidate_index
from reclm.serving.metrics import INDEX_ITEMS, INDEX_RECALL, MODEL_AS_OF, RELOADS

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.settings.tree import Settings

log = logging.getLogger("reclm.serve")
Fingerprint = tuple[object, ...]
PATIENCE = 10  # looks until what could not be read is tried again


class IndexReloader:
    """Holds `index`. `problem` is '' or why the newest state could not be taken in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problem = ""
        self.loaded_at = datetime.now(UTC)
        self._stamp: Fingerprint = ()
        self._refused: Fingerprint = ()
        self._again = 0.0
        self._task: asyncio.Task[None] | None = None
        self._making = asyncio.Lock()
        self._index: CandidateIndex | None = None

    @property
    def index(self) -> CandidateIndex:
        """The index that answers."""
        assert self._index is not None
        return self._index

    def start(self) -> None:
        """Makes the first index. Raises ReclmError when there is no champion, or it cannot be read."""
        stamp = self._look()
        try:
            made = candidate_index.load(self.settings)
        except ReclmError:
            raise
        except Exception as error:
            raise ArtifactError(
                f"the champion cannot be read ({type(error).__name__}: {error}); `reclm rollback` goes back to the one before, "
                "`reclm train` makes another"
            ) from None
        self._put(made, stamp)

    def watch(self) -> None:
        """Begins to look for changes; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Ends the watch."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def refresh(self, force: bool = False) -> bool:
        """Looks once; True when another index was put in place. While one is being made, nobody waits for a second."""
        if self._making.locked():
            return False
        async with self._making:
            stamp: Fingerprint = ()
            try:
                stamp = self._look()
                if stamp == self._stamp and not force:
                    self.problem = ""
                    return False
                if stamp == self._refused and time.monotonic() < self._again and not force:
                    return False
                made = await asyncio.to_thread(candidate_index.load, self.settings)
            except Exception as error:  # whatever is wrong with what was promoted, the old index goes on
                problem = f"{type(error).__name__}: {error}"
                if problem != self.problem:
                    log.error("the old index goes on answering: %s", problem)
                self.problem, self._refused = problem, stamp
                self._again = time.monotonic() + PATIENCE * self.settings.serve.reload_seconds
                RELOADS.labels("refused").inc()
                return False
            self._put(made, stamp)
            return True

    def _put(self, made: CandidateIndex, stamp: Fingerprint) -> None:
        self._index, self._stamp, self.problem, self.loaded_at = made, stamp, "", datetime.now(UTC)
        gc.freeze()  # an index is millions of objects that live long: walking them again and again would be felt
        RELOADS.labels("done").inc()
        INDEX_ITEMS.set(len(made.item_ids))
        INDEX_RECALL.set(1 if made.ann_recall is None else made.ann_recall)
        MODEL_AS_OF.set(datetime.fromisoformat(made.pointer["as_of"]).timestamp())
        about = made.pointer
        log.info("%s/%s %s answers, %d items", about["model"], about["variant"], made.version, len(made.item_ids))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.serve.reload_seconds)
            await self.refresh()

    def _look(self) -> Fingerprint:
        """Changes when another index would come of it."""
        from reclm.features.store import offline_path, vector_file

        workspace = self.settings.paths
        pointer = champion.current(self.settings)
        model = workspace.artifacts / "backbone" / str(pointer["version"])
        files = (
            vector_file(workspace, "item", pointer["version"]),
            workspace.current_build,
            model / "users.parquet",  # who was forgotten is gone from it
        )
        current = offline_path(workspace) / "current"
        return (
            pointer["version"],
            pointer.get("decision"),
            *(file.stat().st_mtime_ns if file.exists() else None for file in files),
            str(current.readlink()) if current.is_symlink() else None,
        )
