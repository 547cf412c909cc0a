"""The product's own reader and publisher, waiting for the acknowledgement of each batch before it reads the next.

What the relay would be without batches in flight; nothing else of it is left out. Prints JSON: rows and seconds, from
the first batch read to the last cursor stored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from scripts.bench.claims import claiming

_BATCH = 1_000
_ANSWER_SECONDS = 30.0


def main() -> int:
    """Drain a backlog."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "brokers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rows", type=int, required=True)
    words = parser.parse_args()
    with claiming(words.dsn) as claims:
        publisher = Publisher(KafkaAddress(brokers=words.brokers), claims.store_id)
        publisher.exists(words.topic)
        done, begun = 0, time.perf_counter()
        while done < words.rows:
            turn = claims.read(_BATCH)
            ticket = publisher.send(turn.rows)
            publisher.drain(_ANSWER_SECONDS)
            if not ticket.done:
                raise SystemExit(f"a batch was not acknowledged: {ticket.reason}")
            done += len(claims.store(turn))
        print(json.dumps({"rows": done, "seconds": time.perf_counter() - begun}))
        publisher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
