"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reclm.settings.tree import Settings

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: "test_schedule" not in item.nodeid)


@pytest.fixture(autouse=True, scope="session")
def folder_of_erasures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The key of erased users is drawn outside workspaces: not in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def shared_data() -> Path:
    """The folder of development data: `RECLM_SHARED_DATA`, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("RECLM_SHARED_DATA", BESIDE_THE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; set RECLM_SHARED_DATA to the folder of development data")
    return folder


@pytest.fixture
def workspace_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings on an empty workspace under `tmp_path`: `workspace_settings(data={"importer": "columns"})`."""

    def make(**sections: Any) -> Settings:
        return Settings(workspace=tmp_path / "workspace", **sections)

    return make
