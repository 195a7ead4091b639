"""Files that appear whole or not at all: text, JSON and parquet, written to a temporary file and moved into place.

A reader sees the old content or the new, never half of one, whenever the writer is killed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reclm.errors import WorkspaceError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step; creates the folder above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The parsed file. Raises WorkspaceError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist; `reclm status` shows which stages have run") from None
    except json.JSONDecodeError as error:
        raise WorkspaceError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from None
