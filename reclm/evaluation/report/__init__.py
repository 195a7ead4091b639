"""The report: one self-contained HTML page of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def write_report(settings: Settings) -> Path:
    """Renders `<workspace>/report/index.html` from the published warehouse. See `reclm.evaluation.report.report`."""
    from reclm.evaluation.report.report import write_report as write

    return write(settings)
