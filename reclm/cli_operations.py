"""Commands of the running system: promotion, health, maintenance. Registered by `reclm.cli`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
