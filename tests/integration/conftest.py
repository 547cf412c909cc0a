"""What integration tests share: a relay on a test's own database and the session's broker."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kylo_outbox.flows.relay import Relay, RelayState
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.store.session import LaneSession


@pytest.fixture
def address(kafka_server):
    """Where the session's broker is."""
    return KafkaAddress(brokers=kafka_server.bootstrap)


@pytest.fixture
def make_relay(control_db, address):
    """Build relays of the test's database; whatever is still open is closed in the end."""
    made: list[Relay] = []

    def make(**changes):
        wiring: dict[str, Any] = {
            "state": RelayState(store="test", lane=0),
            "holder": f"test {len(made)}",
            "open_session": lambda: LaneSession(control_db.dsn, "test"),
            "open_publisher": lambda store_id: Publisher(address, store_id),
        } | changes
        relay = Relay(**wiring)
        made.append(relay)
        return relay

    yield make
    for relay in made:
        relay.close()


@pytest.fixture
def run_until():
    """Run a worker's turns until something holds, at most so many seconds."""

    def run(worker, holds, seconds=20.0):
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, "it did not come to hold"
            pause = worker.run_once().pause
            if pause:
                time.sleep(pause)

    return run
