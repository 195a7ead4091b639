"""Write the report: `<workspace>/report/index.html`, and CSV files of its long tables beside it.

In: the published warehouse and the records of the workspace. Out: the path of the page. The page refers to nothing
outside its folder. The template engine escapes every text that came from data; the only markup it lets through is
that of the plots, which this package draws.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reclm.evaluation.report import answers, language, plots, sections, sources
from reclm.evaluation.report.example import example_user
from reclm.evaluation.report.findings import findings
from reclm.evaluation.report.sources import Sources
from reclm.settings.tree import Settings
from reclm.storage.files import write_atomically
from reclm.storage.version import VERSION

TEMPLATE = "page.html"
SHOWN_ROWS = 40
"""A table with more rows is shown by its first ones, and whole as a CSV file."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class FoldedTable:
    """The rows that the page shows of a table; `file` is the CSV with all `total` rows, '' when all are shown."""

    rows: Sequence[Row]
    total: int
    file: str


class CsvFiles:
    """The CSV files that belong to the page: {file name: content}."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}

    def fold(self, name: str, rows: Sequence[Row]) -> FoldedTable:
        """Return what the page shows of `rows`; a long table becomes the file `<name>.csv` too."""
        if len(rows) <= SHOWN_ROWS:
            return FoldedTable(rows, len(rows), "")
        file = f"{name}.csv"
        stream = io.StringIO()
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.contents[file] = stream.getvalue()
        return FoldedTable(rows[:SHOWN_ROWS], len(rows), file)


def write_report(settings: Settings) -> Path:
    """Write the page and its CSV files and return the page's path.

    CSV files that an earlier report left behind are removed. Raises WorkspaceError when nothing has been ingested or
    built.
    """
    page = settings.paths.report
    files = CsvFiles()
    html = render(sources.read(settings), settings, files)
    for name, content in files.contents.items():
        write_atomically(page.parent / name, content)
    write_atomically(page, html)
    for path in page.parent.glob("*.csv"):
        if path.name not in files.contents:
            path.unlink()
    return page


def render(found: Sources, settings: Settings, files: CsvFiles) -> str:
    """Return the page as text; its long tables are added to `files`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(context(found, settings, files))


def context(found: Sources, settings: Settings, files: CsvFiles) -> dict[str, Any]:
    """Return everything that the template prints."""
    severity = sections.severity(found)
    metrics = [row["metric"] for row in found.curves if row["snapshot"] == "select" and row["metric"]]
    k = severity["k"]
    ablation = language.ablation_section(settings)
    return _first_screen(found, settings) | {
        "version": VERSION,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "dataset": found.dataset,
        "regime": settings.data.regime,
        "seed": settings.seed,
        "bootstrap": settings.evaluation.bootstrap,
        "counts": found.counts,
        "quarantine": files.fold("set_aside", found.quarantine),
        "tables": sections.comparison_tables(found),
        "published": sections.published_table(found),
        "random_lists": sections.random_lists(found),
        "foretold": sections.foretold(found),
        "skipped": found.evaluation.metrics.get("skipped_baselines", {}) if found.evaluation else {},
        "headline": sections.headline(found),
        "verdicts": files.fold("comparisons_of_profiles", sections.verdicts(found)),
        "raw_tables": [
            files.fold(name, rows)
            for name, rows in (
                ("results", found.results),
                ("bands", found.bands),
                ("comparisons", found.comparisons),
            )
        ],
        "severity": severity,
        "sign_changes": files.fold("sign_changes", severity["sign_changes"]),
        "gain_plots": plots.gain_by_severity(severity["gains"], f"Recall@{k}"),
        "curve_plots": plots.training_curves(found.curves, metrics[0]) if metrics else [],
        "quality_plots": plots.profile_quality(found.quality),
        "bias_plots": plots.popularity_bias(found.results, k),
        "language": language.section(settings),
        "ablation": ablation,
        "diagnostics": files.fold("ablation_diagnostics", ablation["diagnostics"] if ablation else []),
        "runs": files.fold("runs", [_flat_run(run) for run in found.runs]),
        "artifacts": files.fold("artifacts", found.artifacts),
        "packages": found.packages,
    }


def _first_screen(found: Sources, settings: Settings) -> dict[str, Any]:
    screen = findings(found, settings)
    subject = screen.subject
    return {
        "answers": answers.answers(found, screen),
        "example": example_user(settings, found.evaluation, subject.model, subject.seed) if subject else None,
        "steps": answers.next_steps(found, screen),
    }


def _flat_run(run: Row) -> dict[str, Any]:
    described = ", ".join(f"{key}={str(value)[:120]}" for key, value in run["about"].items())
    return {
        "stage": run["stage"],
        "started": run["started"][:19].replace("T", " "),
        "seconds": run.get("seconds", ""),
        "status": run["status"],
        "about": described,
    }
