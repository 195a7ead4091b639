"""Check the inbox: files that were delivered and are in no table.

In: what the last look at the inbox found (`landing/inbox.json`). Out: the number of files that were refused, and of
those that are no table. Files that wait because they are not whole yet are no fault.
"""

from __future__ import annotations

from reclm.health.check_result import CheckResult
from reclm.ingest.inbox import not_taken, was_read
from reclm.storage.workspace import Workspace

NAME = "inbox_files"
SHOWN = 3
UNKNOWN = "The inbox has not been read yet: reclm_features reads it."


def measure(workspace: Workspace) -> list[CheckResult]:
    """Run `inbox_files`: one result for refused files and one for those that are no table."""
    if not was_read(workspace):
        return [CheckResult(NAME, "inbox", None, None, 0.0, "", UNKNOWN)]
    results = []
    for kind in ("refused", "unused"):
        found = [one for one in not_taken(workspace) if one.kind == kind]
        shown = " ".join(f"{one.file}: {one.why.rstrip('.')}." for one in found[:SHOWN])
        more = f" And {len(found) - SHOWN} more." if len(found) > SHOWN else ""
        results.append(CheckResult(NAME, kind, float(len(found)), None, 0.0, shown + more))
    return results
