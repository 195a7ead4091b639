"""Files that appear whole or not at all: text, JSON and parquet, written to a temporary file and moved into place.

A reader sees the old content or the new, never half of one, whenever the writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` in one step when the block ends without an exception.

    Creates the folder above. A killed writer leaves `.<name>.<process>.tmp`, which maintenance removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def move_durably(path: Path, target: Path) -> None:
    """Move a finished file to `target` in one step, once its content is on the disk; create the folder above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step; create the folder above it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as sorted, indented JSON."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the parquet file `path` by `table` in one step."""
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Replace the parquet file `path` by `rows`; a column that a row lacks is null."""
    import pyarrow as pa

    write_table(path, pa.Table.from_pylist(list(rows), schema=schema))


def has_columns(path: Path, schema: pa.Schema) -> bool:
    """Return whether `path` is a parquet file of exactly these columns; False when it does not exist."""
    import pyarrow.parquet as pq

    return path.exists() and pq.read_schema(path).equals(schema)


def ensure_empty_table(path: Path, schema: pa.Schema) -> None:
    """Make `path` an empty parquet file of these columns, unless it has them; an older release wrote others."""
    if not has_columns(path, schema):
        write_table(path, schema.empty_table())


def read_json(path: Path) -> Any:
    """Return the parsed JSON file. Raises WorkspaceError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist; `reclm status` shows which stages have run") from None
    except json.JSONDecodeError as error:
        raise WorkspaceError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from None


def content_of_folder(folder: Path, patterns: Iterable[str]) -> str:
    """Return 16 hex digits of the SHA-256 of the files in `folder` that match `patterns`, with their names."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
