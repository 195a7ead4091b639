"""Hide items from every answer, at once and until they are shown again.

In: item ids. Out: `<workspace>/serve/hidden.json`, replaced atomically, which every service process and `reclm
recommend` read; a reader looks at the file's stamp each time and reads it again when it has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reclm.storage import audit
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone

if TYPE_CHECKING:
    from pathlib import Path

    from reclm.storage.workspace import Workspace


class HiddenItems:
    """Read the hidden items of a workspace, again whenever the file changes.

    `position` maps an item id to its position among the candidates of an index, None for others.
    """

    def __init__(self, workspace: Workspace, position: Callable[[str], int | None]) -> None:
        self.path = path_of(workspace)
        self._position = position
        self._read: tuple[tuple[int, int] | None, NDArray[np.int64]] = (None, np.zeros(0, dtype=np.int64))

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of the hidden items, ascending."""
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return np.zeros(0, dtype=np.int64)
        stamp = (about.st_mtime_ns, about.st_ino)
        if stamp != self._read[0]:
            found = (self._position(item_id) for item_id in read_json(self.path))
            positions = sorted(position for position in found if position is not None)
            self._read = stamp, np.array(positions, dtype=np.int64)
        return self._read[1]


def path_of(workspace: Workspace) -> Path:
    """Return the file of the hidden items."""
    return workspace.root / "serve" / "hidden.json"


def hidden_items(workspace: Workspace) -> dict[str, str]:
    """Return {item id: since when it is hidden, ISO 8601}."""
    path = path_of(workspace)
    return dict(read_json(path)) if path.exists() else {}


def set_available(workspace: Workspace, item_id: str, available: bool, by: str = "") -> None:
    """Show an item in answers, or hide it from them, on behalf of `by`. Either twice changes nothing."""
    with alone(workspace.locks / "hidden.lock", "the hidden items are being changed", workspace.lock_timeout):
        before = hidden_items(workspace)
        after = {key: since for key, since in before.items() if key != item_id}
        if not available:
            after[item_id] = before.get(item_id, datetime.now(UTC).isoformat(timespec="seconds"))
        if after != before:
            write_json(path_of(workspace), after)
            audit.record(workspace, "show item" if available else "hide item", by=by, item_id=item_id)
