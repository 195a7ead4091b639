"""Health check of an Airflow service: `python healthy.py scheduler` ends with 0 when its heartbeat is fresh.

The API server knows every component's heartbeat, so one request is enough; starting Airflow's command line would take
seconds of CPU each time. While the API server is down, the other components count as unhealthy too.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.request import urlopen


def health(url: str) -> dict[str, str | None]:
    """Read {component: status} from the API server."""
    with urlopen(f"{url}/api/v2/monitor/health", timeout=10) as response:
        return {name: component["status"] for name, component in json.load(response).items()}


if __name__ == "__main__":
    status = health(os.environ.get("AIRFLOW_API_SERVER", "http://api-server:8080")).get(sys.argv[1])
    print(f"{sys.argv[1]}: {status}")
    sys.exit(status != "healthy")
