"""Commits a thousand events at a time, through `emit_many` or as plain inserts. Prints JSON: events and seconds."""

from __future__ import annotations

import argparse
import json
import sys
import time

import psycopg

from kylo_outbox import Event, emit_many
from scripts.bench.workers.writer import payload

_BATCH = 1_000
_KEYS = 200
PLAIN = "insert into public.plain_outbox (topic, key, type, payload) values (%s, %s, %s, %s)"


def main() -> int:
    """Write for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--way", choices=("plain", "many"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    words = parser.parse_args()
    made = [(words.topic, f"c-{number % _KEYS}", "BENCH", payload(number)) for number in range(_BATCH)]
    events = [Event(topic=topic, key=key, type=kind, payload=text) for topic, key, kind, text in made]
    written, begun = 0, time.monotonic()
    with psycopg.connect(words.dsn, application_name="bench writer") as connection:
        while (took := time.monotonic() - begun) < words.seconds:
            if words.way == "many":
                emit_many(connection, events)
            else:
                with connection.cursor() as cursor:
                    cursor.executemany(PLAIN, made)
            connection.commit()
            written += _BATCH
    print(json.dumps({"events": written, "seconds": took}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
