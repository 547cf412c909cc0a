"""Every metric of the product, declared once with its help text and labels.

Counters and histograms live in the process that counts. Each process stores a copy of its samples with its heartbeat
(see `store/heartbeats.py`), so that one scrape of the API shows them all; gauges of the state in tables are computed
at the scrape (`flows/overview.py`). Company is never a label: the number of companies has no bound.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()
_DELAYS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"kylo_{name}", text, labels, registry=REGISTRY)


def _delay(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"kylo_{name}", text, labels, buckets=_DELAYS, registry=REGISTRY)


OUTBOX_PUBLISHED = _counter("outbox_published_total", "Events acknowledged by Kafka.", "topic")
OUTBOX_DELIVERED_DIRECTLY = _counter("outbox_delivered_directly_total", "Events handed over in process.", "topic")
OUTBOX_PUBLISH_FAILURES = _counter("outbox_publish_failures_total", "Events refused or not acknowledged.", "reason")
OUTBOX_PUBLISH_DELAY = _delay("outbox_publish_delay_seconds", "From emit to Kafka's acknowledgement.")
RELAY_LAST_SUCCESS = Gauge(
    "kylo_relay_last_success_timestamp_seconds", "When the relay last read its outbox.", ("store",), registry=REGISTRY
)
RELAY_IS_LEADER = Gauge(
    "kylo_relay_is_leader", "1 where this relay holds the lane.", ("store", "lane"), registry=REGISTRY
)
RELAY_BREAKER_OPEN = Gauge(
    "kylo_relay_breaker_open", "1 while Kafka does not answer this relay.", ("store", "lane"), registry=REGISTRY
)
CONSUMER_LAG_MESSAGES = Gauge(
    "kylo_consumer_lag_messages", "Records a group has not read.", ("group", "topic", "partition"), registry=REGISTRY
)
CONSUMER_LAG_SECONDS = Gauge(
    "kylo_consumer_lag_seconds", "Age of the oldest record a group has not read.", ("group", "topic"), registry=REGISTRY
)
CONSUMER_RECORDS = _counter(
    "consumer_records_total",
    "Records by how they ended: applied, duplicate, retried, held, dead.",
    "projector",
    "outcome",
)
PROJECTOR_APPLY = _delay("projector_apply_seconds", "One batch: effect, position and what it emits.", "projector")
PROJECTOR_DELAY = _delay("projector_delay_seconds", "From emit to applied.", "projector")
PROJECTOR_CIRCUIT = Gauge(
    "kylo_projector_circuit_open", "1 where most of what arrives fails.", ("projector",), registry=REGISTRY
)
CONSUMER_LOST = _counter(
    "consumer_lost_records_total", "Records that left the log before they were read.", "projector", "topic"
)
VERIFY_FOUND = _counter("verify_found_total", "Differences that the verifier found.", "part", "anomaly")
VERIFY_DIFFERENCES = Gauge(
    "kylo_verify_differences", "Differences that are open and not accepted.", ("part", "anomaly"), registry=REGISTRY
)
VERIFY_LAST_SUCCESS = Gauge(
    "kylo_verify_last_success_timestamp_seconds", "When a pass last compared every store.", registry=REGISTRY
)
DLQ_MESSAGES_TOTAL = _counter("dlq_messages_total", "Records set aside as dead letters.", "reason")
INGEST_REFUSED = _counter("ingest_refused_total", "Requests that were refused for the time being.", "reason")
TRIAGE_TRANSACTIONS = _counter("triage_transactions_total", "Transactions triaged.", "outcome")
SHEETS_REQUESTS = _counter("sheets_requests_total", "Calls to Google Sheets.", "kind", "code")
SHEETS_QUOTA_WAIT = _counter("sheets_quota_wait_seconds_total", "Time spent waiting for Google's quota.")
SHEETS_POSTS = _counter("sheets_posts_total", "Posts to tabs by outcome.", "tab", "outcome")

Sample = tuple[str, str, str, str, dict[str, str], float]
"""(family, type, help, sample name, labels, value): what a heartbeat stores and a scrape shows again."""


def samples() -> list[Sample]:
    """Every sample of this process, ready for JSON; creation times are left out (they differ by process)."""
    return [
        (family.name, family.type, family.documentation, sample.name, dict(sample.labels), float(sample.value))
        for family in REGISTRY.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
