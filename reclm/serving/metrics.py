"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS = Counter("reclm_requests_total", "Requests by route and status.", ["route", "status"])
REQUEST_SECONDS = Histogram("reclm_request_seconds", "Seconds from request to answer.", ["route"], buckets=BUCKETS)
IN_FLIGHT = Gauge("reclm_requests_in_flight", "Requests being worked on.")
SHED = Counter("reclm_requests_shed_total", "Requests turned away because too many were in flight.")
ANSWERS = Counter(
    "reclm_answers_total", "Recommendations by where the user's vector came from.", ["source", "degraded"]
)
STORE_SECONDS = Histogram("reclm_store_seconds", "Seconds of a look-up in the feature store.", buckets=BUCKETS)
STORE_AWAY = Gauge("reclm_store_away", "1 while the feature store is left alone after failures.")
RELOADS = Counter("reclm_reloads_total", "Indexes put in place or refused.", ["outcome"])
INDEX_ITEMS = Gauge("reclm_index_items", "Items that can be recommended.")
INDEX_RECALL = Gauge("reclm_index_recall", "Recall@20 of the approximate index against the exact answer; 1 when exact.")
MODEL_AS_OF = Gauge("reclm_model_as_of_seconds", "Moment of knowledge of the champion, seconds since 1970.")
