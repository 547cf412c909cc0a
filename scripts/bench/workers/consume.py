"""Reads a topic from its beginning to its end, with the product's settings or with the client's own.

Nothing is done with the records: whoever works on each leaves the client time to fetch. The clock runs from the first
record. Prints JSON: records, seconds, and CPU seconds of this process and of the broker meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid

import psutil
from confluent_kafka import Consumer

from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.consumer import reading
from scripts.bench.stage import cpu_seconds

_AT_ONCE = 1_000
_PATIENCE = 60.0


def main() -> int:
    """Read, then print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("brokers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--way", choices=("ours", "defaults"), required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--broker", type=int, required=True, help="its process")
    words = parser.parse_args()
    group = f"bench-{uuid.uuid4().hex}"
    settings = (
        reading(KafkaAddress(brokers=words.brokers), group)
        if words.way == "ours"
        else {"bootstrap.servers": words.brokers, "group.id": group, "auto.offset.reset": "earliest"}
    )
    consumer = Consumer(settings)
    consumer.subscribe([words.topic])
    broker = psutil.Process(words.broker)
    found, begun, cpu, served, until = 0, 0.0, 0.0, 0.0, time.monotonic() + _PATIENCE
    while found < words.rows:
        first = consumer.poll(0.2)
        if first is None:
            if time.monotonic() > until:
                return 1
            continue
        if not begun:
            begun, cpu, served = time.perf_counter(), time.process_time(), cpu_seconds(broker)
        until = time.monotonic() + _PATIENCE
        found += sum(message.error() is None for message in (first, *consumer.consume(_AT_ONCE - 1, 0)))
    took, spent, served = time.perf_counter() - begun, time.process_time() - cpu, cpu_seconds(broker) - served
    consumer.close()
    print(json.dumps({"records": found, "seconds": took, "cpu": spent, "broker": served}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
