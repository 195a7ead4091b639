"""Define the metrics of the service, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable; prometheus_client keeps its values in files of this folder when it is set at import."""
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS = Counter("reclm_requests_total", "Requests by route and status.", ["route", "status"])
REQUEST_SECONDS = Histogram("reclm_request_seconds", "Seconds from request to answer.", ["route"], buckets=BUCKETS)
IN_FLIGHT = Gauge("reclm_requests_in_flight", "Requests in progress.", multiprocess_mode="livesum")
SHED = Counter("reclm_requests_shed_total", "Requests refused because too many were in progress.")
ANSWERS = Counter("reclm_answers_total", "Recommendations by the source of the user's vector.", ["source", "degraded"])
STORE_SECONDS = Histogram("reclm_store_seconds", "Seconds of one read of the feature store.", buckets=BUCKETS)
STORE_AWAY = Gauge(
    "reclm_store_away", "1 while the feature store is not used after failures.", multiprocess_mode="livemax"
)
RELOADS = Counter("reclm_reloads_total", "Indexes loaded, by outcome.", ["outcome"])
INDEX_ITEMS = Gauge("reclm_index_items", "Items that can be recommended.", multiprocess_mode="livemin")
INDEX_RECALL = Gauge(
    "reclm_index_recall",
    "Recall@20 of the approximate index against exact ranking; 1 when exact.",
    multiprocess_mode="livemin",
)
MODEL_AS_OF = Gauge(
    "reclm_model_as_of_seconds", "As-of moment of the champion, seconds since 1970.", multiprocess_mode="livemin"
)
PUBLISHED_AT = Gauge(
    "reclm_published_at_seconds",
    "Moment of the last publish of features, changed or not, seconds since 1970.",
    multiprocess_mode="livemax",
)
HEALTH_CHECKS = Gauge(
    "reclm_health_checks", "Checks of the last `reclm health`, by status.", ["status"], multiprocess_mode="livemax"
)
SET_APART = Gauge(
    "reclm_set_apart_share",
    "Share of the landed rows of a table that could not be used, at the last `reclm health`.",
    ["table"],
    multiprocess_mode="livemax",
)
EVENTS = Counter("reclm_events_total", "Events received, by outcome: accepted, duplicates or erased.", ["outcome"])
IMPRESSIONS = Counter("reclm_impressions_total", "Shown items, by outcome: logged or dropped.", ["outcome"])
PUSHES = Counter(
    "reclm_pushes_total",
    "Pushes of events to the feature store: done or failed; and users whose events were dropped after failures.",
    ["outcome"],
)


def exposition(folder: str = "") -> bytes:
    """Return all metrics as text: those of this process, or of all processes that share a `folder` (`workers.py`)."""
    if not folder:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
