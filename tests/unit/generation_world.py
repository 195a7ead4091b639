"""A workspace whose profiles a stub of a language model writes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow.parquet as pq
import pytest
from llm_world import as_artifact
from stub_engine import Stub
from unit.profiles_world import workspace

from reclm.generation import writer
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact


def with_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stub: Stub, kind: str = "refine", **options: Any
) -> tuple[Settings, dict[str, str]]:
    """A workspace whose profiles `stub` writes in the name of a finished model."""
    profiles = {"engine": "transformers", "shard_size": 4, **options.pop("profiles", {})}
    settings, current = workspace(folder, monkeypatch, profiles=profiles, **options)
    if not artifacts.all_of(settings.paths, kind):
        as_artifact(settings, kind, model_folder())
    monkeypatch.setattr(writer, "open_engine", lambda *_: nullcontext(stub))
    return settings, current


@cache
def model_folder() -> Path:
    """A tokenizer and no model: what counts tokens when a stub writes."""
    from llm_world import documents

    from reclm.llm.models.tiny import train_tokenizer

    folder = Path(mkdtemp())
    train_tokenizer(documents(), 400).save_pretrained(folder)
    return folder


def rows_of(artifact: Artifact, kind: str, snapshot: str = "final") -> dict[str, dict[str, Any]]:
    rows = pq.read_table(artifact.path / f"{kind}_profiles.parquet").to_pylist()
    return {row[f"{kind}_id"]: row for row in rows if row["snapshot"] == snapshot}
