"""Writes the report: `<workspace>/report/index.html`, one file without any outside reference.

In: the published warehouse and the workspace's records. Out: the path of the page. Everything that came from data is
escaped by the template engine; the only markup let through is the plots', which this package draws.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reclm.evaluation.report import language, plots, sections, sources
from reclm.evaluation.report.sources import Sources
from reclm.settings.tree import Settings
from reclm.storage.files import write_atomically
from reclm.storage.version import VERSION

TEMPLATE = "page.html"


def write_report(settings: Settings) -> Path:
    """Renders the page and returns its path. Raises WorkspaceError when nothing has been ingested or built."""
    write_atomically(settings.paths.report, render(sources.read(settings), settings))
    return settings.paths.report


def render(found: Sources, settings: Settings) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(context(found, settings))


def context(found: Sources, settings: Settings) -> dict[str, Any]:
    """Everything the template prints."""
    severity = sections.severity(found)
    metrics = [row["metric"] for row in found.curves if row["snapshot"] == "select" and row["metric"]]
    k = severity["k"]
    return {
        "version": VERSION,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "dataset": found.dataset,
        "regime": settings.data.regime,
        "seed": settings.seed,
        "bootstrap": settings.evaluation.bootstrap,
        "counts": found.counts,
        "quarantine": found.quarantine,
        "tables": sections.comparison_tables(found),
        "published": sections.published_table(found),
        "random_lists": sections.random_lists(found),
        "skipped": found.evaluation.metrics.get("skipped_baselines", {}) if found.evaluation else {},
        "headline": sections.headline(found),
        "verdicts": sections.verdicts(found),
        "severity": severity,
        "gain_plots": plots.gain_by_severity(severity["gains"], f"Recall@{k}"),
        "curve_plots": plots.training_curves(found.curves, metrics[0]) if metrics else [],
        "quality_plots": plots.profile_quality(found.quality),
        "bias_plots": plots.popularity_bias(found.results, k),
        "language": language.section(settings),
        "ablation": language.ablation_section(settings),
        "runs": found.runs,
        "artifacts": found.artifacts,
        "packages": found.packages,
    }
