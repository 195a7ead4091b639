"""A workspace that looks built and trained, small enough for unit tests: 90 users, 60 items of which 15 are zero-shot.

`World.backbones` are finished artifacts whose scores are the truth plus noise: augment the least noisy, base more,
shuffled the most. No dbt, no feature store, no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from reclm.dataset import EvaluationTask, Snapshot, TrainingData
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_json
from reclm.storage.version import LAYOUT
from reclm.training.tasks import load_tasks

N_USERS, N_ITEMS, N_COLD = 90, 60, 15
USER_IDS = np.array([f"u {n:03d} '<b>" for n in range(N_USERS)])
ITEM_IDS = np.array([f"i{(7 * n) % N_ITEMS:02d}" for n in range(N_ITEMS)])  # item_index is not the order of ids
COLD = np.arange(N_ITEMS) >= N_ITEMS - N_COLD
NOISE = {"augment": 0.6, "base": 1.2, "shuffled": 2.5}
KNOWN, TEST, ZERO = "known", "test", "zero"


def interactions(seed: int = 5) -> dict[str, np.ndarray]:
    """Disjoint Boolean matrices (N_USERS, N_ITEMS): known, full-shot truth, zero-shot truth."""
    rng = np.random.default_rng(seed)
    known = (rng.random((N_USERS, N_ITEMS)) < np.linspace(0.02, 0.3, N_USERS)[:, None]) & ~COLD
    test = (rng.random((N_USERS, N_ITEMS)) < 0.08) & ~COLD & ~known
    return {KNOWN: known, TEST: test, ZERO: (rng.random((N_USERS, N_ITEMS)) < 0.15) & COLD}


def _band(count: int) -> str:
    return next(
        name for name, top in (("0", 0), ("1-3", 3), ("4-10", 10), ("11-50", 50), ("51+", 10**9)) if count <= top
    )


def _fill_warehouse(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = {
        name: [(str(USER_IDS[u]), str(ITEM_IDS[i])) for u, i in zip(*np.nonzero(cells), strict=True)]
        for name, cells in interactions().items()
    }
    known = interactions()[KNOWN]
    setting_pairs = [("full_shot", p) for p in pairs[TEST]] + [("zero_shot", p) for p in pairs[ZERO]]
    setting_pairs += [("mixed", p) for p in pairs[TEST] + pairs[ZERO]]
    tables: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        "dim_users": (
            "user_id varchar, user_index bigint",
            [(user, index) for index, user in enumerate(sorted(map(str, USER_IDS)))][::-1],
        ),
        "dim_items": (
            "item_id varchar, item_index bigint, title varchar, full_text varchar, is_zero_shot boolean, "
            "is_pseudo_cold boolean",
            [
                (str(i), n, f"Item & {n}", f"word{n % 7} word{n % 5}", bool(COLD[n]), False)
                for n, i in enumerate(ITEM_IDS)
            ],
        ),
        "fct_truth": (
            "snapshot varchar, setting varchar, user_id varchar, item_id varchar",
            [("final", setting, str(u), str(i)) for setting, (u, i) in setting_pairs],
        ),
        "fct_mask": (
            "snapshot varchar, setting varchar, user_id varchar, item_id varchar",
            [("final", setting, str(u), str(i)) for setting in ("full_shot", "mixed") for u, i in pairs[KNOWN]],
        ),
        "fct_candidates": (
            "snapshot varchar, setting varchar, item_id varchar",
            [("final", "zero_shot" if COLD[n] else "full_shot", str(i)) for n, i in enumerate(ITEM_IDS)]
            + [("final", "mixed", str(i)) for i in ITEM_IDS],
        ),
        "fct_known_interactions": (
            "snapshot varchar, user_id varchar, item_id varchar, event_ts timestamp",
            [("final", str(u), str(i), None) for u, i in pairs[KNOWN]],
        ),
        "fct_user_status": (
            "snapshot varchar, user_id varchar, activity varchar, density_band varchar",
            [("final", str(u), _band(known[n].sum()), ("low", "mid", "high")[n % 3]) for n, u in enumerate(USER_IDS)],
        ),
        "fct_item_status": (
            "snapshot varchar, item_id varchar, coldness varchar",
            [("final", str(i), _band(known[:, n].sum())) for n, i in enumerate(ITEM_IDS)],
        ),
    }
    with duckdb.connect(str(path)) as connection:
        for name, (columns, rows) in tables.items():
            _create(connection, name, columns, rows)


def _create(connection: duckdb.DuckDBPyConnection, name: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
    names = [column.split()[0] for column in columns.split(", ")]
    connection.execute(f"create table {name} ({columns})")
    connection.register("rows", pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))
    connection.execute(f"insert into {name} select * from rows")


class Noisy:
    """A backbone whose scores are the truth plus noise."""

    def __init__(self, model: str, variant: str, user_ids: np.ndarray = USER_IDS) -> None:
        rng = np.random.default_rng([len(model), sum(map(ord, model + variant))])
        truth = interactions()[TEST] | interactions()[ZERO]
        self.table = (truth + NOISE[variant] * rng.standard_normal(truth.shape)).astype(np.float32)
        known = sparse.csr_matrix(interactions()[KNOWN].astype(np.float32))
        self.fitted = SimpleNamespace(user_ids=user_ids, item_ids=ITEM_IDS, known=known)
        self.calls = 0

    def score(self, users: np.ndarray, setting: str = "full_shot") -> np.ndarray:
        self.calls += 1
        return self.table[users]


@dataclass
class World:
    settings: Settings
    backbones: list[Artifact]
    loaded: list[Noisy]

    @property
    def tasks(self) -> list[EvaluationTask]:
        return load_tasks(self.settings, "final")


def training_data(settings: Settings, snapshot: Snapshot) -> TrainingData:
    texts = [f"word{n % 7} word{n % 5}" for n in range(N_ITEMS)]
    return TrainingData(
        snapshot, USER_IDS, ITEM_IDS, sparse.csr_matrix(interactions()[KNOWN].astype(np.float32)), texts
    )


def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "shop", **sections: Any) -> World:
    """Make the workspace, and let the evaluation stage find its training data and its models there."""
    import reclm.features.frame

    settings = Settings(
        workspace=tmp_path / "workspace",
        evaluation={"bootstrap": 60, "ks": (5, 20), **sections.pop("evaluation", {})},
        **sections,
    )
    batch = {"table": "interactions", "batch": "0", "rows": 1234, "source_file": "<script>alert(1)</script>.csv"}
    write_json(
        settings.paths.dataset,
        {
            "name": name,
            "layout": LAYOUT,
            "importer": "columns",
            "source": "log",
            "split_mode": "assigned",
            "has_event_ts": False,
            "batches": [batch],
        },
    )
    write_json(settings.paths.current_build, {"features_fingerprint": "f" * 16})
    _fill_warehouse(settings.paths.warehouse)
    found = []
    for model in ("biasmf", "lightgcn"):
        for variant in ("base", "augment", "shuffled"):
            parameters = {"model": model, "variant": variant, "seed": 42}
            with artifacts.writing(settings.paths, "backbone", parameters, {"warehouse": "f" * 16}) as draft:
                pq.write_table(pa.table({"item_id": ITEM_IDS}), draft.path / "items.parquet")
            found.append(
                artifacts.load(
                    settings.paths, "backbone", artifacts.version_of("backbone", parameters, {"warehouse": "f" * 16})
                )
            )
    loaded: list[Noisy] = []

    def load(path: Path) -> Noisy:
        parameters = next(artifact for artifact in found if artifact.path == path).manifest["parameters"]
        loaded.append(Noisy(parameters["model"], parameters["variant"]))
        return loaded[-1]

    monkeypatch.setattr("reclm.backbones.loading.load_backbone", load)
    monkeypatch.setattr(reclm.features.frame, "load_training_data", training_data)
    return World(settings, found, loaded)


def promote(world: World, model: str = "lightgcn", variant: str = "augment") -> None:
    """Make a model the champion, with its decision in `fct_promotions`."""
    version = next(
        artifact.version
        for artifact in world.backbones
        if (artifact.manifest["parameters"]["model"], artifact.manifest["parameters"]["variant"]) == (model, variant)
    )
    pointer = {"version": version, "model": model, "variant": variant, "seed": 42, "decision": "d1"}
    write_json(world.settings.paths.champion, pointer | {"selected_by": "policy", "promoted_at": "2025-01-02T03:04:05"})
    with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
        decision = [("d1", datetime(2025, 1, 2), f"{model}/{variant} is the best of today")]
        _create(connection, "fct_promotions", "version varchar, decided_at timestamp, reason varchar", decision)


def build_marts(world: World, evaluation: Artifact) -> None:
    """Make the tables that dbt builds from an evaluation, training curves, profiles and rejected rows."""
    marts = {"results": "fct_evaluation", "bands": "fct_evaluation_bands", "comparisons": "fct_comparisons"}
    rng = np.random.default_rng(1)
    curves = [
        (model, variant, 42, "select", epoch, 5.0 / (1 + epoch), setting, "ndcg@20", 0.2 - 0.2 / (epoch + 1) + shift)
        for model in ("biasmf", "lightgcn")
        for shift, variant in ((0.0, "base"), (0.03, "augment"), (-0.02, "shuffled"))
        for setting in ("full_shot", "zero_shot")
        for epoch in range(2, 41, 2)
    ]
    quality = [
        ("v", "serve", kind, severity, metric, float(rng.random()), 10, True)
        for kind in ("user", "item")
        for metric in ("coverage", "distinct", "nearest_similarity", "faithfulness")
        for severity in ("0", "1-3", "4-10", "11-50", "51+", "all")
    ]
    rejected = [("bad_timestamp", "event_ts", "31/02/2020", "write ISO 8601", "log.csv", 7, "{}")] * 12
    rejected += [("unknown_item", "item_id", "<img src=x onerror=alert(2)>", "add it", "<b>.csv", 9, "{}")]
    with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
        for file, table in marts.items():
            connection.execute(
                f"create table {table} as select * from read_parquet('{evaluation.path / file}.parquet')"
            )
        _create(
            connection,
            "fct_training_curves",
            "model varchar, variant varchar, seed bigint, snapshot varchar, "
            "epoch bigint, loss double, setting varchar, metric varchar, value double",
            curves,
        )
        for table, snapshot in (("dim_user_profiles", "serve"), ("fct_user_profiles", "final")):
            _create(
                connection,
                table,
                "user_id varchar, version varchar, snapshot varchar, profile varchar, parse_status varchar",
                [
                    (str(u), "v", snapshot, f"User identity: reader <{n}>; User interests: maps", "ok")
                    for n, u in enumerate(USER_IDS)
                ],
            )
        _create(
            connection,
            "fct_profile_quality",
            "version varchar, snapshot varchar, kind varchar, severity varchar, "
            "metric varchar, value double, n bigint, is_current boolean",
            quality,
        )
        _create(
            connection,
            "quarantine_interactions",
            "reason varchar, field varchar, value varchar, remedy varchar, "
            "source_file varchar, source_row bigint, raw varchar",
            rejected,
        )
