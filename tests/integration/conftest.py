"""What integration tests share: a relay on a test's own database and the session's broker."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kylo_outbox.flows.relay import Relay, RelayState
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.model.errors import Transient
from kylo_outbox.store.session import LaneSession
from kylo_outbox.testing import ledger
from tests.helpers.broker import make_topic
from tests.helpers.projectors import TABLE
from tests.helpers.two_brokers import TwoBrokers
from tests.helpers.unread import far_behind
from tests.helpers.verifying import Books, Road


@pytest.fixture
def address(kafka_server):
    """Where the session's broker is."""
    return KafkaAddress(brokers=kafka_server.bootstrap)


@pytest.fixture
def two_brokers(own_folder):
    """A running cluster of two brokers of this test alone; both are gone afterwards."""
    cluster = TwoBrokers(own_folder)
    cluster.start()
    return cluster


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
def behind(control_db, kafka_server, make_relay, run_until):
    """A group that is behind by more than the outbox keeps."""
    made = far_behind(control_db, kafka_server, make_relay, run_until)
    yield made
    made.parts.close()


@pytest.fixture
def run_until():
    """Run a worker's turns until something holds, at most so many seconds."""

    def run(worker, holds, seconds=90.0):
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, "it did not come to hold"
            pause = worker.run_once().pause
            if pause:
                time.sleep(pause)

    return run


@pytest.fixture
def patiently():
    """Run a relay's turns until something holds, as its loop would: "not now" is waited out."""

    def run(worker, holds, seconds=180.0):
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, "it did not come to hold"
            try:
                pause = worker.run_once().pause
            except Transient as away:
                print(away)
                pause = 0.05
            if pause:
                time.sleep(pause)

    return run


@pytest.fixture
def make_home(make_database):
    """Databases with the table of `Collects`."""

    def make():
        database = make_database()
        with database.transaction() as tx:
            tx.execute(TABLE)
        return database

    return make


@pytest.fixture
def home(make_home):
    """One of them."""
    return make_home()


@pytest.fixture
def road(control_db, kafka_server, address, make_relay, run_until):
    """A store with a ledger of a topic of the test's own; nothing on it yet."""
    topic = make_topic(kafka_server.bootstrap, partitions=2)
    with control_db.transaction() as tx:
        tx.execute(ledger.TABLE)
    return Road(control_db, make_relay(), Books(topic), address, run_until)
