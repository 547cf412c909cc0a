"""The same effect without the runtime: rows that lie in memory copied in, or one transaction for each message.

`--way copy` is the bound: a plain COPY of a thousand rows a transaction, nothing checked and no position. `--way whole`
is the same in one transaction. `--way single` is the projector that everybody writes first: a message, its row and
its position in one transaction, then the next. Prints JSON: events and seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from typing import Any

import psycopg
from confluent_kafka import Consumer

from kylo_outbox.model.events import origin_of
from scripts.bench.ledger import copy_in

_BATCH = 1_000
_POSITIONS = "create table public.bench_position (key text primary key, outbox_id bigint not null)"
_MOVE = """
insert into public.bench_position (key, outbox_id) values (%s, %s)
on conflict (key) do update set outbox_id = excluded.outbox_id where excluded.outbox_id > bench_position.outbox_id
"""
_INSERT = "insert into public.bench_ledger (outbox_id, key, payload) values (%s, %s, %s)"
_ROWS = """
select id, convert_from(key, 'UTF8'), payload from kylo.outbox_log where topic = %s order by id
"""


def main() -> int:
    """Work in one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "source", "brokers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--way", choices=("copy", "whole", "single"), required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    words = parser.parse_args()
    with psycopg.connect(words.dsn) as connection:
        connection.execute("set synchronous_commit = on")
        connection.commit()
        found = _single(connection, words) if words.way == "single" else _copied(connection, words)
    print(json.dumps({"events": found[0], "seconds": found[1]}))
    return 0


def _copied(connection: psycopg.Connection[Any], words: argparse.Namespace) -> tuple[int, float]:
    with psycopg.connect(words.source) as source:
        rows = [(number, key, bytes(payload)) for number, key, payload in source.execute(_ROWS, (words.topic,))]
    size = len(rows) if words.way == "whole" else _BATCH
    begun = time.perf_counter()
    for start in range(0, len(rows), size):
        copy_in(connection, rows[start : start + size])
        connection.commit()
    return len(rows), time.perf_counter() - begun


def _single(connection: psycopg.Connection[Any], words: argparse.Namespace) -> tuple[int, float]:
    connection.execute(_POSITIONS)
    connection.commit()
    consumer = Consumer(
        {
            "bootstrap.servers": words.brokers,
            "group.id": f"bench-{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([words.topic])
    found, begun = 0, 0.0
    while not begun or time.perf_counter() - begun < words.seconds:
        message = consumer.poll(1.0)
        if message is None or message.error() is not None:
            continue
        begun = begun or time.perf_counter()
        headers: dict[str, Any] = dict(message.headers() or [])
        origin = origin_of(headers["kylo"])
        if origin is None:
            continue
        key = (message.key() or b"").decode()
        connection.execute(_INSERT, (origin.outbox_id, key, (message.value() or b"").decode()))
        connection.execute(_MOVE, (key, origin.outbox_id))
        connection.commit()
        found += 1
    took = time.perf_counter() - begun
    consumer.close()
    return found, took


if __name__ == "__main__":
    sys.exit(main())
