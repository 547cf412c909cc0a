"""Commits a thousand events a transaction at an even pace, through `emit_many`. Prints JSON: events and seconds."""

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


def main() -> int:
    """Write for a while; behind the pace it does not wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    words = parser.parse_args()
    events = [
        Event(topic=words.topic, key=f"c-{number % _KEYS}", type="BENCH", payload=payload(number))
        for number in range(_BATCH)
    ]
    written, begun = 0, time.monotonic()
    with psycopg.connect(words.dsn, application_name="bench writer") as connection:
        while (took := time.monotonic() - begun) < words.seconds:
            if (early := written / words.rate - took) > 0:
                time.sleep(early)
            emit_many(connection, events)
            connection.commit()
            written += _BATCH
    print(json.dumps({"events": written, "seconds": time.monotonic() - begun}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
