"""What a publisher costs beside a raw producer that sends the very same records, headers included, from memory.

    python -m scripts.bench.publisher_cost [--rows 100000] [--rounds 3]

Uses KAFKA_BROKERS if set, else a broker of its own. Prints medians of rounds that alternate, after one to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kylo_outbox.kafka.client import KafkaAddress, KafkaFault
from kylo_outbox.kafka.fenced import FencedPublisher
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.local import paths
from kylo_outbox.local.kafka import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.store.outbox import Row

BATCH, DEPTH = 1000, 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--headers", help="headers of the writer, as JSON text")
    told = parser.parse_args()
    if brokers := os.environ.get("KAFKA_BROKERS"):
        measure(brokers, told.rows, told.rounds, told.headers)
        return
    with tempfile.TemporaryDirectory() as name:
        ports = paths.free_port(), paths.free_port()
        broker = LocalKafka(Path(name) / "kafka", *ports, log_file=Path(name) / "kafka.log")
        broker.start()
        try:
            measure(broker.bootstrap, told.rows, told.rounds, told.headers)
        finally:
            broker.kill()


def measure(brokers: str, count: int, rounds: int, headers: str | None) -> None:
    """Run the ways in turn."""
    topic = f"cost-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": brokers})
    for made in admin.create_topics([NewTopic(topic, 12, 1)]).values():
        made.result(60)
    rows = [
        (n, topic, b"key-%d" % (n % 200), "T", b"x" * 500, headers, str(uuid.uuid4()), 0.0, 1) for n in range(count)
    ]
    address = KafkaAddress(brokers)
    plain, fenced = Publisher(address, "cost"), FencedPublisher(address, uuid.uuid4().hex[:8])
    records = [
        (row[1], row[4], row[2], [("kylo", f"1;cost;1;{row[0]};{row[6]};T"), *json.loads(row[5] or "{}").items()])
        for row in rows
    ]
    # The raw producer has every setting of ours but the gap-less stop.
    settings = {**plain._config, "enable.gapless.guarantee": False}  # noqa: SLF001 - the very same settings
    ways: dict[str, Callable[[], None]] = {
        "raw": lambda: raw(Producer(settings), records),
        "publisher": lambda: ours(plain, rows),
        "fenced": lambda: ours(fenced, rows),
    }
    took: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, way in ways.items():
            began, cpu = time.perf_counter(), time.process_time()
            way()
            if number:
                took[name].append((time.perf_counter() - began, time.process_time() - cpu))
    base = statistics.median(wall for wall, _ in took["raw"])
    for name, times in took.items():
        wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
        spread = f"{count / max(t for t, _ in times):,.0f}-{count / min(t for t, _ in times):,.0f}"
        print(f"{name:10} {count / wall:9,.0f}/s ({spread})  {base / wall:.2f} of raw  {cpu / count * 1e6:.1f} us CPU")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {count} rows, {rounds} rounds")


def raw(producer: Producer, records: list[Any]) -> None:
    """Produce what the relay would, made beforehand, with one callback for all."""
    failed: list[object] = []

    def report(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    for topic, value, key, headers in records:
        producer.produce(topic, value, key, on_delivery=report, headers=headers)
    while producer.flush(1):
        pass
    if failed:
        raise SystemExit(str(failed[0]))


def ours(publisher: Publisher, rows: list[Row]) -> None:
    """Send in batches, eight in flight, as the relay does."""
    while True:
        try:
            publisher.exists(rows[0][1])
            break
        except KafkaFault:
            continue
    waiting, left = [], iter(rows)
    while batch := list(islice(left, BATCH)):
        while True:
            try:
                waiting.append(publisher.send(batch))
                break
            except KafkaFault:
                continue
        publisher.poll()
        waiting = [ticket for ticket in waiting if not ticket.done]
        while len(waiting) >= DEPTH:
            publisher.poll(0.005)
            waiting = [ticket for ticket in waiting if not ticket.done]
    while publisher.drain(1):
        pass


if __name__ == "__main__":
    main()
