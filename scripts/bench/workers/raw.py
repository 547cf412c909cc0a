"""A plain idempotent producer that sends the very records of an outbox from memory: what the relay is held against.

Everything that can be made ready before is: rows are read, headers are built, the client is connected. The clock runs
from the first `produce` to the last acknowledgement; every delivery report is looked at, as an honest sender must.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import psycopg
from confluent_kafka import Producer

ROWS = """
select topic, key, type, payload, id, event_id::text from kylo.outbox_log where id > %s order by id limit %s
"""
_WARM_UP = 200


class Reports:
    """Counts delivery reports; one object for all records, as the relay does."""

    def __init__(self) -> None:
        self.good = 0
        self.failed = ""

    def __call__(self, error: Any, _message: Any) -> None:
        """One report."""
        if error is None:
            self.good += 1
        else:
            self.failed = str(error)


def producer(brokers: str, **more: Any) -> Producer:
    """The plain client: idempotent, acks from all, nothing else but room for the records."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 2_000_000,
            **more,
        }
    )


def records(dsn: str, after: int, count: int, *, headers: bool) -> list[tuple[bytes, bytes, list[Any]]]:
    """(key, value, headers) of the rows behind an id, as the relay would send them."""
    with psycopg.connect(dsn) as connection, connection.cursor(binary=True) as cursor:
        found = cursor.execute(ROWS, (after, count)).fetchall()
        [store, generation] = connection.execute("select store_id, generation from kylo.store").fetchone() or ("", 1)
    prefix = f"1;{store};{generation};"
    return [
        (key, payload, [("kylo", f"{prefix}{number};{event_id};{kind}".encode())] if headers else [])
        for _, key, kind, payload, number, event_id in found
    ]


def send(client: Producer, topic: str, prepared: list[tuple[bytes, bytes, list[Any]]]) -> float:
    """Send everything and wait for every acknowledgement; the seconds it took.

    Raises:
        RuntimeError: a record was not acknowledged.
    """
    reports = Reports()
    produce, poll = client.produce, client.poll
    begun = time.perf_counter()
    for number, (key, value, headers) in enumerate(prepared):
        while True:
            try:
                if headers:
                    produce(topic, value, key, on_delivery=reports, headers=headers)
                else:
                    produce(topic, value, key, on_delivery=reports)
                break
            except BufferError:
                poll(0.01)
        if number % 1000 == 0:
            poll(0)
    client.flush()
    took = time.perf_counter() - begun
    if reports.good != len(prepared):
        raise RuntimeError(f"{reports.good} of {len(prepared)} acknowledged; {reports.failed}")
    return took


def main() -> int:
    """Read, warm up, send, and print rows, seconds and CPU seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "brokers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--after", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--headers", type=int, choices=(0, 1), required=True)
    words = parser.parse_args()
    prepared = records(words.dsn, words.after, words.rows, headers=bool(words.headers))
    client = producer(words.brokers)
    send(client, words.topic, prepared[:_WARM_UP])
    cpu = time.process_time()
    took = send(client, words.topic, prepared)
    print(json.dumps({"rows": len(prepared), "seconds": took, "cpu": time.process_time() - cpu}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
