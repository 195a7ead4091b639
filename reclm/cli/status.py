"""Print what ran in a workspace, for `reclm status`.

In: run records, champion and artifacts. Out: lines of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reclm.ingest.report import described
from reclm.storage import artifacts, runs
from reclm.storage.files import read_json

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

SHOWN_RUNS = 20
HIDDEN = {"began", "reused", "files", "published_at"}


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Return one record per stage run, oldest first."""
    return runs.history(settings.paths)


def _about(record: dict[str, Any]) -> str:
    if "error" in record:
        return str(record["error"]).splitlines()[0][:100]
    if made := record["about"].get("made"):
        return str(made)
    plain = {key: value for key, value in record["about"].items() if isinstance(value, str | int) and value != ""}
    return ", ".join(f"{key} {value}" for key, value in plain.items() if key not in HIDDEN)[:100]


def lines(settings: Settings) -> list[str]:
    """Return the lines that a person reads."""
    records = rows(settings)
    text = [f"workspace {settings.paths.root}"]
    if settings.paths.dataset.exists():
        dataset = read_json(settings.paths.dataset)
        text.append(f"data set  {dataset['name']} ({dataset['importer']}, {dataset['split_mode']} split)")
        text.extend(f"          {line}" for line in described(dataset))
    if settings.paths.champion.exists():
        champion = read_json(settings.paths.champion)
        model = f"{champion['model']}/{champion['variant']} {champion['version']}"
        text.append(f"champion  {model} since {champion['promoted_at'][:19]}")
    else:
        text.append("champion  none yet")
    counts = {kind: len(artifacts.all_of(settings.paths, kind)) for kind in artifacts.KINDS}
    text.append("artifacts " + (", ".join(f"{kind} {n}" for kind, n in counts.items() if n) or "none yet"))
    text.append("")
    text.append(f"{'started (UTC)':<20}{'stage':<11}{'status':<12}{'seconds':>8}  about")
    text.extend(
        f"{record['started'][:19].replace('T', ' '):<20}{record['stage']:<11}{record['status']:<12}"
        f"{record.get('seconds', ''):>8}  {_about(record)}"
        for record in records[-SHOWN_RUNS:]
    )
    return text
