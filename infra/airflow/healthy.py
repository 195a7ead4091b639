"""Health check of an Airflow service: `python healthy.py scheduler` ends with 0 when its heartbeat is fresh.

The API server knows every component's heartbeat, so one light question does for all; loading Airflow's command line
instead would cost seconds of a core each time. While the API server is down, the others count as unwell too.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.request import urlopen


def health(url: str) -> dict[str, str | None]:
    """{component: status} as the API server tells it."""
    with urlopen(f"{url}/api/v2/monitor/health", timeout=10) as answer:
        return {name: about["status"] for name, about in json.load(answer).items()}


if __name__ == "__main__":
    status = health(os.environ.get("AIRFLOW_API_SERVER", "http://api-server:8080")).get(sys.argv[1])
    print(f"{sys.argv[1]}: {status}")
    sys.exit(status != "healthy")
