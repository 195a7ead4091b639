"""Keep the parsed dbt project between commands and processes: to parse it takes longer than to build a small shop.

In: the dbt project. Out: dbt's manifest, which says the same of every workspace: sources are named relative to it, and
variables are read when a model runs. It is kept in `dbt/target`, under a hash of the project's files and of dbt's
versions; where that folder cannot be written, each process parses anew. A file that cannot be read is written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.errors import BuildError
from reclm.storage.files import write_atomically
from reclm.warehouse.sources import project_files

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

PACKAGES = ("dbt-core", "dbt-adapters", "dbt-common", "dbt-duckdb")
_contents: dict[Path, bytes] = {}
"""{file: its content} of this process, which reads a file once. Each command gets a manifest of its own: running leaves
traces in it."""


def parsed(folders: Sequence[str]) -> Manifest:
    """Return dbt's manifest; `folders` are the arguments that tell dbt where it reads and writes.

    Raises BuildError when the project cannot be parsed.
    """
    file = _file()
    if file not in _contents:
        _contents.clear()
        with suppress(OSError):
            _contents[file] = file.read_bytes()
    manifest = _manifest(_contents.get(file, b""))
    if manifest is None:
        _contents[file] = _parse(folders, file)
        manifest = _manifest(_contents[file])
        assert manifest is not None
    return manifest


def _file() -> Path:
    files = project_files()
    digest = hashlib.sha256(" ".join(version(package) for package in PACKAGES).encode())
    for name, path in sorted(files.items()):
        digest.update(f"\n{name}\n".encode() + path.read_bytes())
    return files["dbt_project.yml"].parent / "target" / f"parsed-{digest.hexdigest()[:16]}.msgpack"


def _manifest(content: bytes) -> Manifest | None:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    try:
        manifest: Manifest = Manifest.from_msgpack(content, decoder=extended_mashumuro_decoder)
    except Exception:  # missing, cut off, or anything else: it can always be made again
        return None
    return manifest


def _parse(folders: Sequence[str], file: Path) -> bytes:
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumaro_encoder

    done = dbtRunner().invoke(["--quiet", "parse", "--no-partial-parse", *folders])
    if not done.success or not isinstance(done.result, Manifest):
        reason = " ".join(str(done.exception).split())
        raise BuildError(f"the dbt project {file.parents[1]} cannot be parsed: {reason}")
    content: bytes = done.result.to_msgpack(extended_mashumaro_encoder)
    with suppress(OSError):  # an installation that only its owner may write to
        write_atomically(file, content)
        for other in file.parent.glob("parsed-*.msgpack"):
            if other != file:
                other.unlink(missing_ok=True)
    return content
