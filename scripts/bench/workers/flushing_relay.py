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
from kylo_outbox.store.session import LaneSession

_BATCH = 1_000
_ANSWER_SECONDS = 30.0


def main() -> int:
    """Drain a backlog."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "brokers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rows", type=int, required=True)
    words = parser.parse_args()
    session = LaneSession(words.dsn, "bench")
    publisher = Publisher(KafkaAddress(brokers=words.brokers), *session.identity())
    publisher.exists(words.topic)
    if not session.take(0, "bench"):
        raise SystemExit("another relay holds the lane")
    done, begun = 0, time.perf_counter()
    while done < words.rows:
        turn = session.read(_BATCH)
        ticket = publisher.send(turn.rows)
        publisher.drain(_ANSWER_SECONDS)
        if not ticket.done:
            raise SystemExit(f"a batch was not acknowledged: {ticket.reason}")
        session.advance(turn.cursor, len(turn.rows))
        done += len(turn.rows)
    print(json.dumps({"rows": done, "seconds": time.perf_counter() - begun}))
    publisher.close()
    session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
