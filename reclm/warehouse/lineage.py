"""Send what dbt read and wrote to a lineage service, by OpenLineage's own program `dbt-ol`.

In: the artifacts that dbt left in its target folder. Out: OpenLineage events, where OPENLINEAGE_URL or
OPENLINEAGE_CONFIG says to which service. A service that does not answer is said and never fails a build.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from reclm.progress import detail, say

WHERE = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
TIMEOUT = 60.0


def send_lineage(project: Path, target: Path, environment: Mapping[str, str]) -> None:
    """Send the events of the dbt run whose results are in `target`; nothing unless a variable of WHERE is set."""
    if not any(environment.get(name) for name in WHERE):
        return
    program = Path(sys.executable).with_name("dbt-ol")
    folders = ["--project-dir", str(project), "--profiles-dir", str(project), "--target-path", str(target)]
    try:
        done = subprocess.run(
            [str(program), "send-events", *folders],
            env={"OPENLINEAGE_NAMESPACE": "reclm", **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        problem = f"{program} does not exist; install the extra `lineage`, or unset {' and '.join(WHERE)}"
    except subprocess.TimeoutExpired:
        problem = f"no answer in {TIMEOUT:g} seconds"
    else:
        lines = done.stderr.strip().splitlines() or [f"dbt-ol ended with code {done.returncode}"]
        if done.returncode == 0:
            detail(lines[-1])
            return
        problem = lines[-1]
    say(f"warning: the lineage of this build was not sent: {problem}")
