"""A workspace with what the health checks read, without dbt, a language model or an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from unit.staging_world import stage

from reclm.health import checks
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_json
from reclm.text.encoder import text_hash
from reclm.warehouse import sources

CUT_OFF = datetime(2024, 3, 1, tzinfo=UTC)
TEXTS = [f"User identity: a{n}; User interests: b{n}" for n in range(6)]
Known = Sequence[tuple[str, str, datetime | None]]


def log(days_before: int = 40, per_day: int = 20, in_window: int = 20, item: str = "i{n}") -> Known:
    """`per_day` interactions on each day before the newest seven, `in_window` on each of those; ten items."""
    rows = []
    for day in range(days_before + 7):
        count, name = (per_day, "i{n}") if day < days_before else (in_window, item)
        moment = CUT_OFF - timedelta(days=days_before + 7 - day) + timedelta(hours=1)
        rows += [(f"u{n}", name.format(n=n % 10), moment + timedelta(minutes=n)) for n in range(count)]
    return rows


class World:
    """A workspace with what health reads: a warehouse, profiles, vectors; each part as a test wants it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        write_json(settings.paths.dataset, {"name": "by_hand", "batches": []})
        self.builds = 0
        self.warehouse(log())

    def warehouse(self, known: Known, neighbours: int = 20, categories: dict[str, list[str]] | None = None) -> None:
        file = self.settings.paths.warehouse
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self.builds += 1
        write_json(self.settings.paths.current_build, {"features_fingerprint": f"w{self.builds}"})
        items = sorted({item for _, item, _ in known})
        users = sorted({user for user, _, _ in known})
        with duckdb.connect(str(file)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(
                "create table int_snapshots as "
                "select 'serve' as snapshot, ?::timestamptz as as_of, false as ts_is_synthetic",
                [CUT_OFF],
            )
            connection.execute(
                "create table fct_known_interactions "
                "(snapshot varchar, user_id varchar, item_id varchar, event_ts timestamptz)"
            )
            stage(connection)
            connection.execute("create table dim_items (item_id varchar, categories varchar[], full_text varchar)")
            connection.execute(
                "create table fct_user_status (snapshot varchar, user_id varchar, n_interactions bigint)"
            )
            connection.execute("create table fct_user_neighbours (snapshot varchar, user_id varchar)")
            events = pa.table(
                dict(zip(("user_id", "item_id", "event_ts"), map(list, zip(*known, strict=True)), strict=True))
            )
            connection.register("events", events)  # row by row takes seconds
            connection.execute("insert into fct_known_interactions select 'serve', * from events")
            kinds = categories or {item: ["odd" if int(item[1:]) % 2 else "even"] for item in items}
            connection.executemany("insert into dim_items values (?, ?, '')", [[i, kinds.get(i, [])] for i in items])
            rows = [[user, 3] for user in users] + [["cold", 0]]
            connection.executemany("insert into fct_user_status values ('serve', ?, ?)", rows)
            if neighbours:
                rows = [[user] for user in users[:neighbours]] * 2
                connection.executemany("insert into fct_user_neighbours values ('serve', ?)", rows)

    def profiles(
        self,
        texts: Sequence[str] = TEXTS,
        *,
        similarity: float = 0.5,
        distinct: float = 1.0,
        broken: int = 0,
        empty: int = 0,
    ) -> Artifact:
        parameters = {"engine": "by hand", "texts": list(texts), "n": [similarity, distinct, broken, empty]}
        with artifacts.writing(self.settings.paths, "profiles", parameters, {"warehouse": "w1"}) as draft:
            for kind in ("user", "item"):
                rows = [{"snapshot": "serve", "profile": t, "parse_status": "ok", "flag": ""} for t in texts]
                rows += [{"snapshot": "serve", "profile": "x", "parse_status": "malformed", "flag": ""}] * broken
                rows += [{"snapshot": "serve", "profile": "", "parse_status": "empty", "flag": "no_text"}] * empty
                pq.write_table(pa.Table.from_pylist(rows), draft.path / f"{kind}_profiles.parquet")
            quality = [
                {"snapshot": snapshot, "kind": kind, "severity": severity, "metric": metric, "value": value}
                for snapshot, severity, shift in (("serve", "all", 0), ("select", "all", 9), ("serve", "0", 9))
                for kind in ("user", "item")
                for metric, value in (("distinct", distinct + shift), ("nearest_similarity", similarity + shift))
            ]
            pq.write_table(pa.Table.from_pylist(quality), draft.path / "quality.parquet")
        version = artifacts.version_of("profiles", parameters, {"warehouse": "w1"})
        sources.set_current_artifact(self.settings.paths, "profiles", version)
        return artifacts.load(self.settings.paths, "profiles", version)

    def embeddings(self, profiles: Artifact, vectors: dict[str, Sequence[float]], model: str = "m@8") -> None:
        parameters, parents = {"model": model, "texts": sorted(vectors)}, {"profiles": profiles.version}
        with artifacts.writing(self.settings.paths, "embeddings", parameters, parents) as draft:
            rows = [{"text_hash": text_hash(text), "embedding": vector} for text, vector in vectors.items()]
            schema = pa.schema([("text_hash", pa.string()), ("embedding", pa.list_(pa.float32()))])
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft.path / "vectors-00000.parquet")
        version = artifacts.version_of("embeddings", parameters, parents)
        sources.set_current_artifact(self.settings.paths, "embeddings", version)

    def refined(self, *looks: tuple[int, float, float], kept: int) -> None:
        """`looks` are (step, reward, ranking)."""
        with artifacts.writing(self.settings.paths, "refine", {"looks": looks}, {}) as draft:
            rows = [
                {"step": step, "metric": f"held_out/{name}", "value": value}
                for step, *values in looks
                for name, value in zip(("reward", "ranking"), values, strict=True)
            ]
            rows.append({"step": 1, "metric": "reward", "value": 99.0})
            pq.write_table(pa.Table.from_pylist(rows), draft.path / "curve.parquet")
            draft.metrics["kept_step"] = kept

    def check(self, name: str, **bounds: Any) -> dict[str, dict[str, Any]]:
        """{subject: row} of one check."""
        changed = self.settings.health.model_copy(update=bounds)
        artifact = checks.check_health(self.settings.model_copy(update={"health": changed}))
        return {row["subject"]: row for row in checks.check_rows(artifact) if row["name"] == name}

    def one(self, name: str, **bounds: Any) -> dict[str, Any]:
        (row,) = self.check(name, **bounds).values()
        return row


def vectors(texts: Sequence[str], direction: float = 0.0, length: float = 1.0) -> dict[str, Sequence[float]]:
    """Unit vectors in the plane, about `direction` (radians)."""
    angles = direction + np.linspace(-0.1, 0.1, len(texts))
    return {t: [length * np.cos(a), length * np.sin(a)] for t, a in zip(texts, angles, strict=True)}
