"""Read current features from the online store.

In: user or item ids. Out: their features. `reclm recommend` and the service read only through this module, with one
read per request. `online_writer.py` writes, and `recent.py` pushes what users did lately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reclm.dataset import EntityKind
from reclm.features.store import Store

if TYPE_CHECKING:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

Key = tuple[str, ...]

BATCH_SIZE = 2000
PROJECT = "reclm"  # as feature_store.yaml says; part of every table and key
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECENT_VIEW = "user_recent"
RECENT_FEATURES = ("item_ids", "event_types", "weights", "moments_us")
_UNREAD = ("as_of_us", "row_hash")  # read separately, or not needed by readers


class ViewRequest(NamedTuple):
    """Name the features and keys to read from a view."""

    view: str
    keys: Sequence[Key]
    features: list[str]


@dataclass(frozen=True)
class Profile:
    """Hold a published profile: text, embedding float32 (dim,) or None, and which engine wrote it.

    `as_of`, here and in the other features, is the build since which the content is what it is.
    """

    text: str
    embedding: NDArray[np.float32] | None
    quality: float | None
    engine: str
    flag: str
    as_of: datetime


class RecentEvent(NamedTuple):
    """What a user did lately; `weight` is that of the event's type, below 0 for a dislike."""

    item_id: str
    event_type: str
    weight: float
    moment_us: int


@dataclass(frozen=True)
class UserFeatures:
    """Hold a user's online features. `vector` is the fused vector float32 (dim,) of the requested model version.

    `recent` are the latest events that the service received, oldest first.
    """

    user_id: str
    profile: Profile | None
    n_interactions: int | None
    n_categories: int | None
    last_interaction: datetime | None
    activity: str | None
    activity_as_of: datetime | None
    vector: NDArray[np.float32] | None
    vector_as_of: datetime | None
    recent: tuple[RecentEvent, ...] = ()


@dataclass(frozen=True)
class ItemFeatures:
    """Hold an item's online features. `content` and `vector` are float32 (dim,)."""

    item_id: str
    title: str | None
    content: NDArray[np.float32] | None
    content_as_of: datetime | None
    profile: Profile | None
    n_interactions: int | None
    n_users_recent: int | None
    popularity_rank: int | None
    coldness: str | None
    activity_as_of: datetime | None
    vector: NDArray[np.float32] | None
    vector_as_of: datetime | None


def read_user(store: Store, user_id: str, model_version: str = "") -> UserFeatures | None:
    """Read one user's features by service `serving_v2`; None when nothing is published about the user.

    Without a model version the fused vector is left out.
    """
    return read_users(store, [user_id], model_version)[0]


def read_users(store: Store, user_ids: Sequence[str], model_version: str = "") -> list[UserFeatures | None]:
    """Read the features of several users at once, in their order; None for a user without features."""
    requested: list[ViewRequest] = []
    for view in store.services["serving_v2"].feature_view_projections:
        versioned = "model_version" in store.join_keys[view.name]
        keys = [(one, model_version) if versioned else (one,) for one in user_ids]
        requested.append(ViewRequest(view.name, keys, [one.name for one in view.features if one.name not in _UNREAD]))
    rows: list[dict[str, Any]] = [{} for _ in user_ids]
    for part, answers in zip(requested, _read_views(store, requested), strict=True):
        for row, found in zip(rows, answers, strict=True):
            row.update({f"{part.view}__{name}": _value(found and found[name]) for name in part.features})
            row[f"{part.view}__as_of_us"] = _value(found and found["as_of_us"])
    return [_user(*pair) for pair in zip(user_ids, rows, strict=True)]


def _read_views(store: Store, requested: Sequence[ViewRequest]) -> list[list[dict[str, Any] | None]]:
    """Read several views; from Redis in one round trip, where Feast would need one per view."""
    if store.settings.feast.online_store != "redis":
        return [rows_of(store, request.view, request.keys, request.features) for request in requested]
    from feast.infra.online_stores.helpers import _mmh3

    client: Any = store.feast.provider.online_store
    pipeline = client._get_client(store.feast.config.online_store).pipeline(transaction=False)
    for request in requested:
        fields = [_mmh3(f"{request.view}:{name}") for name in ("as_of_us", *request.features)]
        for key in request.keys:
            pipeline.hmget(encoded_key(store, request.view, key) + PROJECT.encode(), fields)
    answers = iter(pipeline.execute())
    return [[_parsed(("as_of_us", *request.features), next(answers)) for _ in request.keys] for request in requested]


def _parsed(names: Sequence[str], cells: Sequence[bytes | None]) -> dict[str, Any] | None:
    """Return the row of one key; None when Redis does not have it."""
    from feast.protos.feast.types.Value_pb2 import Value

    if cells[0] is None:
        return None
    return {name: None if cell is None else Value.FromString(cell) for name, cell in zip(names, cells, strict=True)}


def _value(value: Any) -> Any:
    """Return the content of a Feast value; None when it is empty."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None:
        return None
    content = getattr(value, kind)
    return content.val if kind.endswith("_list_val") else content


def _user(user_id: str, row: dict[str, Any]) -> UserFeatures | None:
    features = UserFeatures(
        user_id=user_id,
        profile=_profile(row, "user_profile"),
        n_interactions=row["user_activity__n_interactions"],
        n_categories=row["user_activity__n_categories"],
        last_interaction=_instant(row["user_activity__last_interaction_us"]),
        activity=row["user_activity__activity"],
        activity_as_of=_instant(row["user_activity__as_of_us"]),
        vector=_vector(row["user_fused__vector"]),
        vector_as_of=_instant(row["user_fused__as_of_us"]),
        recent=_recent(*(row[f"user_recent__{name}"] for name in RECENT_FEATURES)),
    )
    known = (features.profile, features.activity_as_of, features.vector_as_of, features.recent or None)
    return None if all(part is None for part in known) else features


def _recent(*columns: Sequence[Any] | None) -> tuple[RecentEvent, ...]:
    return tuple(RecentEvent(*event) for event in zip(*(column or () for column in columns), strict=True))


def read_recent(store: Store, user_ids: Sequence[str]) -> list[tuple[RecentEvent, ...]]:
    """Read the latest events of several users, in their order."""
    rows = rows_of(store, RECENT_VIEW, [(one,) for one in user_ids], list(RECENT_FEATURES))
    return [() if row is None else _recent(*(_value(row[name]) for name in RECENT_FEATURES)) for row in rows]


def read_items(store: Store, item_ids: Sequence[str], model_version: str = "") -> dict[str, ItemFeatures]:
    """Read items by service `catalogue_v1`, as {id: features}; items without published features are left out."""
    if not item_ids:
        return {}
    rows = _read(store, "catalogue_v1", {"item_id": list(item_ids), "model_version": [model_version] * len(item_ids)})
    found: dict[str, ItemFeatures] = {}
    for item_id, row in zip(item_ids, rows, strict=True):
        features = ItemFeatures(
            item_id=item_id,
            title=row["item_content__title"],
            content=_vector(row["item_content__embedding"]),
            content_as_of=_instant(row["item_content__as_of_us"]),
            profile=_profile(row, "item_profile"),
            n_interactions=row["item_activity__n_interactions"],
            n_users_recent=row["item_activity__n_users_recent"],
            popularity_rank=row["item_activity__popularity_rank"],
            coldness=row["item_activity__coldness"],
            activity_as_of=_instant(row["item_activity__as_of_us"]),
            vector=_vector(row["item_fused__vector"]),
            vector_as_of=_instant(row["item_fused__as_of_us"]),
        )
        known = (features.content_as_of, features.profile, features.activity_as_of, features.vector_as_of)
        if any(part is not None for part in known):
            found[item_id] = features
    return found


def read_fused(store: Store, kind: EntityKind, ids: Sequence[str], model_version: str) -> NDArray[np.float32]:
    """Read fused vectors of one model version, float32 (len(ids), dim); a row of NaN for an id without one.

    The shape is (len(ids), 0) when none of the ids has a vector of that version.
    """
    rows = rows_of(store, f"{kind}_fused", [(one, model_version) for one in ids], ["vector"])
    vectors = [None if row is None else np.array(row["vector"].float_list_val.val, dtype=np.float32) for row in rows]
    width = next((len(vector) for vector in vectors if vector is not None), 0)
    matrix = np.full((len(ids), width), np.nan, dtype=np.float32)
    for position, vector in enumerate(vectors):
        if vector is not None:
            matrix[position] = vector
    return matrix


def _read(store: Store, service: str, entities: dict[str, list[str]]) -> list[dict[str, Any]]:
    columns = store.feast.get_online_features(
        features=store.services[service], entity_rows=entities, full_feature_names=True
    ).to_dict()
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _profile(row: dict[str, Any], view: str) -> Profile | None:
    as_of = _instant(row[f"{view}__as_of_us"])
    if as_of is None:
        return None
    return Profile(
        text=row[f"{view}__profile"] or "",
        embedding=_vector(row[f"{view}__embedding"]),
        quality=row[f"{view}__quality"],
        engine=row[f"{view}__engine"] or "",
        flag=row[f"{view}__flag"] or "",
        as_of=as_of,
    )


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else EPOCH + timedelta(microseconds=microseconds)


def _vector(numbers: list[float] | None) -> NDArray[np.float32] | None:
    return np.array(numbers, dtype=np.float32) if numbers else None


def _entity_key(store: Store, view: str, key: Key) -> EntityKey:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=store.join_keys[view], entity_values=[Value(string_val=part) for part in key])


def encoded_key(store: Store, view: str, key: Key) -> bytes:
    """Return a key of a view in the encoding of the online store."""
    from feast.infra.key_encoding_utils import serialize_entity_key

    return serialize_entity_key(_entity_key(store, view, key), store.feast.config.entity_key_serialization_version)


def rows_of(store: Store, view: str, keys: Sequence[Key], features: list[str]) -> list[dict[str, Any] | None]:
    """Read feature values (protobuf) for each key; None where the view has no row.

    This calls one level below Feast's get_online_features, which takes twice as long for many rows. Redis returns empty
    values for an unknown key, so only a row with an as_of counts.
    """
    rows: list[dict[str, Any] | None] = []
    for start in range(0, len(keys), BATCH_SIZE):
        entity_keys = [_entity_key(store, view, key) for key in keys[start : start + BATCH_SIZE]]
        requested = ["as_of_us", *features]
        found = store.feast.provider.online_read(store.feast.config, store.views[view], entity_keys, requested)
        rows.extend(values if values and values["as_of_us"].WhichOneof("val") else None for _, values in found)
    return rows
