"""A workspace in which artifacts of any age are made, for the tests of maintenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reclm.maintenance import cleanup
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.files import read_json, write_json
from reclm.text.encoder import model_name, text_hash
from reclm.warehouse import sources

DAY = 86_400
NOBODY = 2**22 + 1
"""A number that no process has."""


class World:
    """A workspace in which artifacts are made with an age, oldest first unless said."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.made = 0

    def make(
        self,
        kind: str,
        days: float = 100,
        parents: dict[str, str] | None = None,
        files: Callable[[Path], None] = lambda folder: None,
        **parameters: Any,
    ) -> str:
        self.made += 1
        parameters |= {"number": self.made}
        with artifacts.writing(self.settings.paths, kind, parameters, parents or {}) as draft:
            (draft.path / "weights").write_bytes(b"0" * 1000)
            files(draft.path)
        version = artifacts.version_of(kind, parameters, parents or {})
        manifest = self.settings.paths.artifacts / kind / version / "manifest.json"
        created = datetime.now(UTC) - timedelta(days=days) + timedelta(seconds=self.made)
        write_json(manifest, read_json(manifest) | {"created_at": created.isoformat()})
        return version

    def backbone(self, days: float = 100, model: str = "als", **parents: str) -> str:
        return self.make("backbone", days, parents, model=model, variant="augment", seed=1)

    def served(self, days: float = 100, model: str = "als", **parents: str) -> str:
        return self.make("served", days, parents, model=model, variant="augment", seed=1)

    def profiles(
        self, texts: Sequence[str] = (), answers: Sequence[str] = (), asked: Sequence[str] = (), **more: Any
    ) -> str:
        """Profiles of these `texts`, made of the answers to the prompts `asked`; `answers` are those they hold."""

        def files(folder: Path) -> None:
            schema = pa.schema(
                [(name, pa.string()) for name in ("profile", "parse_status", "prompt_hash", "engine_version")]
            )
            rows = [{"profile": text, "parse_status": "ok"} for text in texts]
            rows += [{"profile": "said", "prompt_hash": prompt, "engine_version": "m1"} for prompt in asked]
            for kind, some in (("user", rows), ("item", [])):
                pq.write_table(pa.Table.from_pylist(some, schema=schema), folder / f"{kind}_profiles.parquet")
            if answers:
                shard = pa.table({"prompt_hash": list(answers), "model_version": ["m1"] * len(answers)})
                pq.write_table(shard, folder / "generations-00000.parquet")

        return self.make("profiles", files=files, **more)

    def embeddings(self, profiles: str, texts: Sequence[str], **more: Any) -> str:
        def files(folder: Path) -> None:
            table = pa.table({"text_hash": pa.array([text_hash(text) for text in texts], pa.string())})
            pq.write_table(table, folder / "vectors-00000.parquet")

        model = model_name(self.settings.embedding)
        return self.make("embeddings", parents={"profiles": profiles}, files=files, **{"model": model, **more})

    def promoted(self, version: str, days: float, decision: str = "promoted") -> str:
        def files(folder: Path) -> None:
            row = {
                "decision": decision,
                "served_version": version,
                "decided_at": datetime.now(UTC) - timedelta(days=days),
            }
            pq.write_table(pa.Table.from_pylist([row]), folder / "decision.parquet")

        return self.make("promotion", days, files=files)

    def champion(self, version: str) -> None:
        write_json(self.settings.paths.champion, {"version": version})

    def current(self, kind: str, *versions: str) -> None:
        sources.set_current_artifacts(self.settings.paths, kind, versions)

    def maintain(self, *, dry_run: bool = False, **rule: Any) -> dict[str, Any]:
        retention = self.settings.retention.model_copy(update={"keep": 1, **rule})
        return cleanup.maintain(self.settings.model_copy(update={"retention": retention}), dry_run=dry_run)

    def versions(self, kind: str) -> set[str]:
        return {artifact.version for artifact in artifacts.all_of(self.settings.paths, kind)}
