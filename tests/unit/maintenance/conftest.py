"""The fixture of the tests of maintenance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from unit.maintenance_world import World

from reclm.settings.tree import Settings


@pytest.fixture
def world(workspace_settings: Callable[..., Settings]) -> World:
    return World(workspace_settings())
