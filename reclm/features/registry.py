"""Store the registry file of the feature store with paths relative to the workspace, so that a workspace can be moved.

In: Feast's registry, which has absolute paths. Out: the file, which has relative ones; reading it makes them absolute
again. The class is named in `feature_repo/feature_store.yaml`, so a bare `feast apply` uses it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

CURRENT = "current"
"""The link to the offline files in force."""


class WorkspaceRegistryStore(FileRegistryStore):
    """Feast's registry in a file, `<workspace>/feast/registry.db`."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self.workspace = self._filepath.parent.parent
        self.version = CURRENT

    def get_registry_proto(self) -> Registry:
        """Read the registry; its file sources get absolute paths. Raises FileNotFoundError before `feast apply`.

        Sources under the link `current` get the files of `version`, where that is another one.
        """
        registry = super().get_registry_proto()
        _rewrite_paths(registry, self._of_version)
        return registry

    def _of_version(self, path: Path) -> Path:
        parts = (self.version if part == CURRENT else part for part in path.parts)
        return self.workspace.joinpath(*parts)

    def update_registry_proto(self, registry_proto: Registry) -> None:
        """Write the registry; its file sources get paths relative to the workspace, those outside it stay absolute."""
        written = Registry()
        written.CopyFrom(registry_proto)
        _rewrite_paths(
            written, lambda path: path.relative_to(self.workspace) if path.is_relative_to(self.workspace) else path
        )
        super().update_registry_proto(written)
        registry_proto.version_id = written.version_id
        registry_proto.last_updated.CopyFrom(written.last_updated)


def _rewrite_paths(registry: Registry, change: Callable[[Path], Path]) -> None:
    """Apply `change` to the path of every file source, also in the history of views, which Feast keeps as bytes."""
    for options in _file_options(registry):
        options.uri = change(Path(options.uri)).as_posix()
    for record in registry.feature_view_version_history.records:
        view = FeatureView.FromString(record.feature_view_proto)
        for options in _file_options(view):
            options.uri = change(Path(options.uri)).as_posix()
        record.feature_view_proto = view.SerializeToString()


def _file_options(message: Any) -> Iterator[Any]:
    """The options of every file source inside a protobuf message, at any depth."""
    if message.DESCRIPTOR.full_name == "feast.core.DataSource.FileOptions":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else [value]:
            yield from _file_options(part)
