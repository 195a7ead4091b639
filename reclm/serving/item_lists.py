"""Keep named lists of items, such as the items in stock, so that requests name a list instead of sending it.

In: a name and item ids. Out: a file `<workspace>/serve/lists/<name>.parquet`, which every serving process of the
workspace reads, and masks over the candidates. A list is replaced as a whole; it may name items that are no candidates
yet.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.storage.files import write_table
from reclm.storage.schemas import ITEM_LIST

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.storage.workspace import Workspace

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_MASKS = 64  # of a list and an index; the newest ones are kept in memory
Stamp = tuple[int, int]


class NoItemListError(Exception):
    """No list has this name."""


@dataclass(frozen=True)
class ItemListSummary:
    """Describe a list: its name, number of ids, and when it was written."""

    name: str
    items: int
    updated_at: datetime


@dataclass(frozen=True)
class _Mask:
    stamp: Stamp
    index: weakref.ref[CandidateIndex]
    mask: NDArray[np.bool_]


class ItemLists:
    """Write, list, delete and look up the lists of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.root / "serve" / "lists"
        self._masks: OrderedDict[tuple[str, int], _Mask] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, name: str, item_ids: Sequence[str]) -> ItemListSummary:
        """Write a list, or replace it; it is on the disk when this returns. Ids that occur twice count once."""
        ids = pa.array(list(dict.fromkeys(item_ids)), pa.string())
        write_table(self._path(name), pa.table({"item_id": ids}, schema=ITEM_LIST))
        return self._summary(self._path(name))

    def delete(self, name: str) -> None:
        """Delete a list. Raises NoItemListError when there is none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise NoItemListError from None

    def all(self) -> list[ItemListSummary]:
        """Describe all lists, by name."""
        return [self._summary(path) for path in sorted(self.folder.glob("*.parquet")) if path.name[0] != "."]

    def known_mask(self, name: str, index: CandidateIndex) -> NDArray[np.bool_] | None:
        """Return the mask of a list when it is in memory and current; None when `mask` has to make it."""
        kept = self._masks.get((name, id(index)))
        if kept is None or kept.index() is not index or kept.stamp != self._stamp(name):
            return None
        return kept.mask

    def mask(self, name: str, index: CandidateIndex) -> NDArray[np.bool_]:
        """Return which candidates are in a list (n_items,). Raises NoItemListError when there is none.

        Reading a large list takes a while; afterwards it is in memory until the list or the index changes.
        """
        with self._lock:
            kept = self.known_mask(name, index)
            if kept is not None:
                return kept
            stamp = self._stamp(name)
            position = index.backbone.fitted.item_position
            mask = np.zeros(len(index.item_ids), dtype=bool)
            for batch in pq.ParquetFile(self._path(name)).iter_batches(10_000):
                mask[[position[item] for item in batch["item_id"].to_pylist() if item in position]] = True
            self._masks[name, id(index)] = _Mask(stamp, weakref.ref(index), mask)
            self._masks.move_to_end((name, id(index)))
            if len(self._masks) > MAX_MASKS:
                self._masks.popitem(last=False)
            return mask

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise NoItemListError
        return self.folder / f"{name}.parquet"

    def _stamp(self, name: str) -> Stamp:
        try:
            about = self._path(name).stat()
        except FileNotFoundError:
            raise NoItemListError from None
        return about.st_mtime_ns, about.st_ino

    def _summary(self, path: Path) -> ItemListSummary:
        updated_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return ItemListSummary(path.stem, pq.read_metadata(path).num_rows, updated_at)
