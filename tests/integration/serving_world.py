"""A toy shop ready to serve: the three circles of `backbones_world`, a champion, published features and tables."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from fastapi.testclient import TestClient
from integration import feast_world as fw
from numpy.typing import NDArray
from unit import backbones_world as bw

from reclm.backbones.loading import create_backbone
from reclm.dataset import TrainingData
from reclm.features.publish import publish
from reclm.promotion import champion
from reclm.serving.api import create_app
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_json
from reclm.warehouse.reading import features_fingerprint

AS_OF = fw.T2
EVIL = "<script>alert('&')</script>"
FUSSY = "fussy"  # unknown to the model; disliked an item
NEWCOMER, SILENT = "newcomer", "silent"  # a profile and no vector; neither
TABLES = {
    "dim_users": "user_id varchar, user_index bigint",
    "dim_items": "item_id varchar, item_index bigint, title varchar, text varchar, categories varchar[], "
    "full_text varchar, created_ts timestamptz",
    "int_snapshots": "snapshot varchar, as_of timestamptz, ts_is_synthetic boolean",
    "fct_known_interactions": "snapshot varchar, user_id varchar, item_id varchar, event_ts timestamptz, "
    "recency_rank bigint",
    "fct_feedback": "user_id varchar, item_id varchar, event_ts timestamptz, weight double",
    "fct_user_status": "snapshot varchar, user_id varchar, activity varchar, n_interactions bigint",
    "fct_user_neighbours": "snapshot varchar, user_id varchar, neighbour_id varchar, score double, rank bigint",
    "dim_user_profiles": "user_id varchar, snapshot varchar, profile varchar",
    "fct_user_profiles": "user_id varchar, as_of timestamptz, engine varchar, profile varchar, quality double",
    "fct_item_profiles": "item_id varchar, as_of timestamptz, engine varchar, profile varchar, quality double",
    "fct_promotions": "decided_at timestamptz, decision varchar, candidate_model varchar, candidate_variant varchar, "
    "reason varchar",
    "fct_health": "checked_at timestamptz, name varchar, subject varchar, status varchar, advice varchar",
}


def settings_of(folder: Path, *flags: str) -> Settings:
    quick = ("runtime.threads=1", "train.dim=16", "train.epochs=12", "fusion.hidden=16", "train.factors=8")
    more = ("train.bpr_iterations=60", "train.learning_rate=0.02", "serve.search=false", "serve.store_timeout_ms=2000")
    return load([*quick, *more, *flags], workspace=folder, environment={})


def shop_data() -> TrainingData:
    """The toy data with embeddings of unit length, as wide as those of the packaged encoder."""

    def widened(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = np.pad(rows, ((0, 0), (0, fw.DIMENSION - rows.shape[1])))
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)

    return bw.with_features(bw.toy_data(), widened)


def open_shop(folder: Path, *flags: str, model: str = "biasmf") -> Settings:
    """A workspace whose champion is `model`/augment; `model`/base was trained beside it."""
    settings = settings_of(folder, *flags)
    data = shop_data()
    write_tables(settings, data)
    fw.write_marts(settings, marts(data))
    publish(settings)
    fit(settings, data, model, "base")
    promote(settings, fit(settings, data, model, "augment"))
    return settings


def interests(circle: int) -> str:
    return f"User identity: {bw.WORDS[circle].split()[0]} fan; User interests: {', '.join(bw.WORDS[circle].split())}"


def marts(data: TrainingData) -> fw.Marts:
    """The marts that dbt would make of the toy data and of one user that no model knows."""
    rows: fw.Marts = {view: [] for view in fw.VIEWS}
    assert data.user_profile is not None and data.item_profile is not None and data.item_content is not None
    clocks = {"as_of": AS_OF, "created_at": AS_OF}
    about = {**clocks, "quality": 0.5, "engine": "extractive", "flag": ""}
    users_of_circles = [*zip(data.user_ids.tolist(), bw.USER_CIRCLE.tolist(), data.user_profile, strict=True)]
    for user, circle, vector in [*users_of_circles, (NEWCOMER, 1, data.user_profile[bw.USERS_EACH])]:
        rows["user_profile"].append({"user_id": user, "profile": interests(circle), "embedding": vector, **about})
        counts = {"n_interactions": 7, "n_categories": 1, "last_interaction_us": 1, "activity": "4-10"}
        rows["user_activity"].append({"user_id": user, **clocks, **counts})
    for row, (item, circle) in enumerate(zip(data.item_ids.tolist(), bw.ITEM_CIRCLE.tolist(), strict=True)):
        text = {"profile": interests(circle), "embedding": data.item_profile[row]}
        rows["item_profile"].append({"item_id": item, **text, **about})
        content = {"title": title(row), "embedding": data.item_content[row]}
        rows["item_content"].append({"item_id": item, **clocks, **content})
        counts = {"n_interactions": 7, "n_users_recent": 1, "popularity_rank": row + 1, "coldness": "4-10"}
        rows["item_activity"].append({"item_id": item, **clocks, **counts})
    return rows


def title(row: int) -> str:
    return EVIL if row == 0 else f"title{row}"


def write_tables(settings: Settings, data: TrainingData) -> None:
    """Write the tables of the warehouse that the service and its pages read."""
    path = settings.paths.warehouse
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    known = data.interactions.tocoo()
    users, items = data.user_ids.tolist(), data.item_ids.tolist()
    user_profiles = [(user, interests(circle)) for user, circle in zip(users, bw.USER_CIRCLE.tolist(), strict=True)]
    item_profiles = [(item, interests(circle)) for item, circle in zip(items, bw.ITEM_CIRCLE.tolist(), strict=True)]
    created = [datetime(2000, 1, 1 + row % 3, tzinfo=UTC) for row in range(len(items))]
    rows: dict[str, list[tuple[Any, ...]]] = {
        "dim_items": [
            (item, row, title(row), EVIL, [bw.WORDS[circle].split()[0].title()], data.texts[row], created[row])
            for row, (item, circle) in enumerate(zip(items, bw.ITEM_CIRCLE.tolist(), strict=True))
        ],
        "dim_users": [(user, index) for index, user in enumerate(sorted(users))],
        "int_snapshots": [("select", fw.T1, False), ("serve", fw.T2, False)],
        "fct_known_interactions": [
            ("serve", users[u], items[i], fw.T1, 1) for u, i in zip(known.row.tolist(), known.col.tolist(), strict=True)
        ],
        "fct_feedback": [
            (FUSSY, item, fw.T1, weight) for item, weight in (("item '0'", -1.0), ("item '1'", 2.0), ("gone", -1.0))
        ],
        "fct_user_status": [("serve", user, "4-10", 7) for user in users],
        "fct_user_neighbours": [("serve", users[0], users[1], 0.9, 1)],
        "dim_user_profiles": [(user, "serve", text) for user, text in user_profiles],
        "fct_user_profiles": [(user, AS_OF, "extractive", text, 0.5) for user, text in user_profiles],
        "fct_item_profiles": [(item, AS_OF, "extractive", text, 0.5) for item, text in item_profiles],
        "fct_promotions": [(AS_OF, "promoted", "biasmf", "augment", "the first")],
        "fct_health": [(AS_OF, "volume", "", "warn", EVIL)],
    }
    with duckdb.connect(str(path)) as connection:
        for table, columns in TABLES.items():
            connection.execute(f"create table {table} ({columns})")
            placeholders = ", ".join("?" * len(rows[table][0]))
            connection.executemany(f"insert into {table} values ({placeholders})", rows[table])


def fit(settings: Settings, data: TrainingData, model: str, variant: str, seed: int = 1) -> Artifact:
    """Train a model and write its artifact, as `reclm train` does."""
    parameters = {"model": model, "variant": variant, "seed": seed}
    with artifacts.writing(settings.paths, "backbone", parameters, {"features": "toy"}) as draft:
        backbone = create_backbone(model, settings.train, settings.fusion, settings.runtime)
        backbone.refit(data, variant, backbone.default_selection(), seed)  # type: ignore[arg-type]
        backbone.learn_to_fold_in(data, seed)
        backbone.save(draft.path)
        draft.metrics = {"as_of": AS_OF.isoformat()}
    return artifacts.all_of(settings.paths, "backbone")[-1]


def promote(settings: Settings, chosen: Artifact) -> str:
    """Publish the model's vectors and make it champion, as promotion does. Returns the version that is served."""
    served = served_of(settings, chosen)
    champion.publish(settings, served)
    about = chosen.manifest["parameters"]
    pointer = {
        **about,
        "version": served.version,
        "measured": chosen.version,
        "as_of": AS_OF.isoformat(),
        "promoted_at": AS_OF.isoformat(),
    }
    write_json(settings.paths.champion, {**pointer, "setting": "full_shot", "decision": chosen.version})
    return served.version


def served_of(settings: Settings, chosen: Artifact) -> Artifact:
    """The artifact `served` of a model that was fitted on all there is."""
    parameters = chosen.manifest["parameters"]
    parents = {"features": "toy", "warehouse": features_fingerprint(settings.paths), "backbone": chosen.version}
    version = artifacts.version_of("served", parameters, parents)
    if artifacts.find(settings.paths, "served", version) is None:
        with artifacts.writing(settings.paths, "served", parameters, parents) as draft:
            shutil.copytree(chosen.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
            draft.metrics = chosen.metrics
    return artifacts.load(settings.paths, "served", version)


def without_cold(data: TrainingData) -> TrainingData:
    """The toy data without its cold items."""
    assert data.item_profile is not None and data.item_content is not None
    warm = ~bw.COLD
    return replace(
        data,
        item_ids=data.item_ids[warm],
        interactions=data.interactions[:, warm],
        texts=[text for text, kept in zip(data.texts, warm, strict=True) if kept],
        item_content=data.item_content[warm],
        item_profile=data.item_profile[warm],
    )


def circle_of(item_id: str) -> int:
    return int(item_id.strip("item '")) // bw.ITEMS_EACH


def circles(answer: dict[str, Any]) -> list[int]:
    return [circle_of(one["item_id"]) for one in answer["items"]]


def opened_client(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), base_url="http://localhost:8000", raise_server_exceptions=False)


def recommend(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def wait_until(found: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
