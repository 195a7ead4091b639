"""Open the feature store of a workspace.

In: settings. Out: a Feast store with the views of `feature_repo/`. The two YAML files of that folder are the only
configuration. A bare `feast apply` takes `${RECLM_WORKSPACE}` from the environment; this module takes it from the
settings. Both therefore use the same registry and files.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sqlite3
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from reclm.dataset import ENTITY_KINDS, EntityKind
from reclm.errors import WorkspaceError
from reclm.features.row_checks import ViewSchema
from reclm.progress import detail
from reclm.settings.tree import Settings
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone
from reclm.storage.workspace import Workspace, in_repository

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView
    from feast.repo_config import RepoConfig

CONFIGURATIONS = {"sqlite": "feature_store.yaml", "redis": "feature_store.redis.yaml"}
MODULES = ("entities", "sources", "feature_views", "services")
STAMPS = ("as_of_us", "row_hash")


_importing = threading.Lock()
_loading = threading.Lock()
_open: dict[tuple[Path, str, str], Store] = {}


class Store:
    """Hold an open feature store. `feast` is Feast's own object; views and services are listed once and cached."""

    def __init__(self, feast: FeatureStore, settings: Settings) -> None:
        self.feast = feast
        self.settings = settings

    @cached_property
    def views(self) -> dict[str, FeatureView]:
        return {view.name: view for view in self.feast.list_feature_views()}

    @cached_property
    def join_keys(self) -> dict[str, list[str]]:
        """Return the join keys of each view; Feast computes them again, slowly, at every access."""
        return {name: view.join_keys for name, view in self.views.items()}

    @cached_property
    def services(self) -> dict[str, FeatureService]:
        return {service.name: service for service in self.feast.list_feature_services()}


def applied_path(workspace: Workspace) -> Path:
    """Return the file of the applied definitions' hash and the id that marks this workspace in a Redis server."""
    return workspace.feast / "applied.json"


def offline_path(workspace: Workspace) -> Path:
    """Return the folder of the checked history.

    It holds `<version>/<view>.parquet` of this and some earlier publishes (`history.py`), the link `current` to the
    version in force, and `fused/<view>/<model version>.parquet`.
    """
    return workspace.feast / "offline"


def vector_file(workspace: Workspace, kind: EntityKind, model_version: str) -> Path:
    """Return the offline file of one model version's fused vectors."""
    return offline_path(workspace) / "fused" / f"{kind}_fused" / f"{model_version}.parquet"


def model_versions(workspace: Workspace) -> list[str]:
    """List the model versions with published vectors, complete or not, sorted."""
    folder = offline_path(workspace) / "fused"
    return sorted({file.stem for kind in ENTITY_KINDS for file in folder.glob(f"{kind}_fused/[!.]*.parquet")})


@contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Hold the write lock of the feature store; waits for another process to release it."""
    with alone(workspace.locks / "feast.lock", "another process writes the feature store", workspace.lock_timeout):
        yield


def redis_address(url: str) -> tuple[str, int, dict[str, str]]:
    """Parse a Redis connection string in Feast's form, `host:port,db=0,password=…`, to (host, port, options)."""
    address, *options = url.split(",")
    host, _, port = address.partition(":")
    return host, int(port or 6379), dict(option.split("=", 1) for option in options)


def online_name(settings: Settings) -> str:
    """Name the online store of the settings, for messages and to know it again: host, port and database.

    User, password and encryption are not part of the name: they may change while the features stay where they are.
    """
    if settings.feast.online_store == "sqlite":
        return "sqlite"
    host, port, options = redis_address(settings.feast.redis_url)
    return f"redis {host}:{port} db {options.get('db', '0')}"


def load_feast() -> ModuleType:
    """Import Feast quickly.

    At import, typeguard rewrites Feast's classes to check their arguments at run time, which doubles the import time.
    Our calls are checked by mypy, so this is switched off.
    """
    import typeguard

    with _loading:
        original = typeguard.typechecked
        typeguard.typechecked = lambda target: target  # type: ignore[assignment, misc]
        try:
            return importlib.import_module("feast")
        finally:
            typeguard.typechecked = original


def configuration(settings: Settings) -> RepoConfig:
    """Return Feast's configuration of this workspace: the repository's YAML with the settings filled in."""
    load_feast()
    from feast.repo_config import RepoConfig

    values = {"RECLM_WORKSPACE": str(settings.paths.root), "RECLM_FEAST__REDIS_URL": settings.feast.redis_url}

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        if isinstance(node, str):
            return re.sub(r"\$\{(\w+)\}", lambda match: values[match.group(1)], node)
        return node

    config = RepoConfig(
        **filled(yaml.safe_load((repository() / CONFIGURATIONS[settings.feast.online_store]).read_text()))
    )
    config.repo_path = repository()
    return config


def definitions(settings: Settings) -> list[Any]:
    """Return every Feast object of `feature_repo/`, with its paths inside this workspace.

    The modules import each other by bare name, as `feast apply` requires, and read the workspace from the environment
    when imported; so they are imported again here and removed from `sys.modules` afterwards.
    """
    load_feast()
    from feast import Entity, FeatureService, FeatureView, FileSource, PushSource

    folder = str(repository())
    with _importing:
        workspace, modules = os.environ.get("RECLM_WORKSPACE"), {name: sys.modules.pop(name, None) for name in MODULES}
        os.environ["RECLM_WORKSPACE"] = str(settings.paths.root)
        sys.path.insert(0, folder)
        try:
            found = [value for name in MODULES for value in vars(importlib.import_module(name)).values()]
        finally:
            sys.path.remove(folder)
            del os.environ["RECLM_WORKSPACE"]
            if workspace is not None:
                os.environ["RECLM_WORKSPACE"] = workspace
            for name, module in modules.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module
    kinds = (Entity, FileSource, PushSource, FeatureView, FeatureService)
    objects = {id(value): value for value in found if isinstance(value, kinds)}  # modules import one another's
    return list(objects.values())


def schemas(settings: Settings) -> dict[str, ViewSchema]:
    """Return the schema of each view, by view name, as `feature_repo/` declares it."""
    load_feast()
    from feast import FeatureView
    from feast.types import from_feast_to_pyarrow_type

    def schema_of(view: FeatureView) -> ViewSchema:
        features: dict[str, pa.DataType] = {
            field.name: from_feast_to_pyarrow_type(field.dtype) for field in view.features if field.name not in STAMPS
        }
        return ViewSchema(view.name, tuple(view.join_keys), features)

    views = [value for value in definitions(settings) if isinstance(value, FeatureView)]
    return {view.name: schema_of(view) for view in views}


def is_applied(settings: Settings) -> bool:
    """Return whether registry and online store already have the definitions of `feature_repo/`."""
    workspace = settings.paths
    if not applied_path(workspace).exists() or not (workspace.feast / "registry.db").exists():
        return False
    if settings.feast.online_store == "sqlite" and not (workspace.feast / "online.db").exists():
        return False
    return read_json(applied_path(workspace))["definitions"] == _fingerprint(settings)


def apply_definitions(settings: Settings) -> Store:
    """Run `feast apply` in this process unless the definitions are applied already; returns the open store."""
    workspace = settings.paths
    if is_applied(settings):
        return open_store(settings)
    detail("feast apply …")
    workspace.feast.mkdir(parents=True, exist_ok=True)
    load_feast().FeatureStore(config=configuration(settings)).apply(definitions(settings))
    if settings.feast.online_store == "sqlite":
        # Readers must not wait for a publish that is under way; the file remembers its journal mode.
        with sqlite3.connect(workspace.feast / "online.db") as connection:
            connection.execute("pragma journal_mode = wal")
        connection.close()
    else:
        for file in workspace.feast.glob("online.db*"):
            file.unlink()  # no longer read, and forgetting a user would not reach it
    owner = read_json(applied_path(workspace))["owner"] if applied_path(workspace).exists() else uuid.uuid4().hex
    write_json(applied_path(workspace), {"definitions": _fingerprint(settings), "owner": owner})
    _open.pop(_key(settings), None)
    return open_store(settings)


def open_store(settings: Settings) -> Store:
    """Open the workspace's feature store, once per process. Raises WorkspaceError when nothing was ever published."""
    if not is_applied(settings):
        raise WorkspaceError(
            f"the feature store of {settings.paths.root} has not been set up for feast.online_store="
            f"{settings.feast.online_store}, or its definitions changed; run `reclm publish`"
        )
    key = _key(settings)
    if key not in _open:
        _open[key] = Store(load_feast().FeatureStore(config=configuration(settings)), settings)
    return _open[key]


def open_version(settings: Settings, version: str) -> Store:
    """Open a feature store whose offline files are those of a published version, for point-in-time joins alone."""
    open_store(settings)
    feast: Any = load_feast().FeatureStore(config=configuration(settings))
    feast.registry._registry_store.version = version
    feast.refresh_registry()
    return Store(feast, settings)


def open_for_requests(settings: Settings, timeout: float) -> Store:
    """Open a separate feature store for a service: a Redis server gets `timeout` seconds to connect and to answer.

    Raises WorkspaceError when nothing was ever published.
    """
    open_store(settings)
    config = configuration(settings)
    config.registry.cache_ttl_seconds = 0  # never expire: a request must not wait for the registry to be read again
    if settings.feast.online_store == "redis":
        bounds = f",socket_timeout={timeout},socket_connect_timeout={timeout}"
        config.online_store.connection_string += bounds  # type: ignore[union-attr]
    opened = Store(load_feast().FeatureStore(config=config), settings)
    if settings.feast.online_store == "redis":
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        online: Any = opened.feast.provider.online_store
        online._get_client(config.online_store).set_retry(Retry(NoBackoff(), 0))  # the default waits ten seconds
    return opened


def _key(settings: Settings) -> tuple[Path, str, str]:
    return settings.paths.root, settings.feast.online_store, settings.feast.redis_url


def repository_digest() -> bytes:
    """Hash the definitions in `feature_repo/`."""
    digest = hashlib.sha256()
    for file in sorted(repository().iterdir()):
        if file.suffix in (".py", ".yaml"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.digest()


def _fingerprint(settings: Settings) -> str:
    about = "\n".join([metadata.version("feast"), online_name(settings)])
    return hashlib.sha256(about.encode() + repository_digest()).hexdigest()[:16]


def repository() -> Path:
    """Return the folder `feature_repo/` beside the package. Raises WorkspaceError when only the wheel is installed."""
    return in_repository("feature_repo", "entities.py")
