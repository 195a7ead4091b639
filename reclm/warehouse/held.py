"""Say which program holds a DuckDB file, in place of DuckDB's own message.

DuckDB lets one process write a file or several read it (https://duckdb.org/docs/stable/connect/concurrency).
"""

from __future__ import annotations

import re
from pathlib import Path

LOCKED = "Could not set lock"
HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")


def is_held(message: object) -> bool:
    """Return whether a message of DuckDB, or of dbt, is about a file that another program holds."""
    return LOCKED in str(message)


def held_by(path: Path, message: object) -> str:
    """Return the sentence for people: which program holds `path`, by such a message, and what to do."""
    found = HOLDER.search(" ".join(str(message).split()))
    holder = f"{found['program']} (process {found['pid']})" if found else "another program"
    return f"{path} is held open by {holder}; close the file there, or end that process, and run the same command again"
