"""The relay when its client breaks for good: built anew at once, and everything arrives in order."""

from __future__ import annotations

import threading
import time

import pytest

from kylo_outbox import emit
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher, Ticket
from kylo_outbox.runtime.loop import Pulse, run
from kylo_outbox.runtime.stop import Stop
from tests.helpers.broker import outbox_rows
from tests.helpers.mock_broker import PRODUCE, MockBroker

TOO_LARGE, OUT_OF_ORDER = 10, 45


class _Timed(Publisher):
    """Notes when its client turned out to be broken and when it was built anew."""

    broke_at = 0.0

    def __init__(self, *args):
        super().__init__(*args)
        self.rebuilt_after: list[float] = []

    def _serve(self, call, *args):
        whole = self.fatal is None
        super()._serve(call, *args)
        if whole and self.fatal is not None:
            self.broke_at = time.monotonic()

    def rebuild(self, *, smaller=False):
        super().rebuild(smaller=smaller)
        self.rebuilt_after.append(time.monotonic() - self.broke_at)


@pytest.fixture
def mock():
    """A mock cluster: a real broker breaks no client on demand."""
    cluster = MockBroker()
    cluster.topic("t")
    yield cluster
    cluster.close()


def test_a_broken_client_is_built_anew_within_a_second_and_the_relay_goes_on(control_db, mock, make_relay):
    """Three fatal errors under callbacks: the loop lives, each time a new client stands within a second."""
    made: list[_Timed] = []

    def open_publisher(store_id):
        made.append(_Timed(KafkaAddress(mock.bootstrap), store_id))
        return made[-1]

    relay, stop = make_relay(open_publisher=open_publisher), Stop()
    worker = threading.Thread(target=run, args=(relay, stop, Pulse()))
    worker.start()
    try:
        for number in range(1, 5):
            with control_db.transaction() as tx:
                emit(tx, topic="t", key="k", type="T", payload={"n": number})
            wait(lambda number=number: relay.state.published == number, worker)
            if number < 4:
                mock.fail(PRODUCE, OUT_OF_ORDER)
    finally:
        stop.set()
        worker.join(60)
    assert not worker.is_alive()
    assert len(made) == 1
    assert len(made[0].rebuilt_after) == 3
    assert min(made[0].rebuilt_after) < 1.0
    assert relay.state.held_keys == set()


def test_a_client_that_breaks_while_rows_are_handed_over_says_why(mock):
    """Later rows meet a broken client: they are not blamed, and the refusal that broke it is still known."""
    publisher = Publisher(KafkaAddress(mock.bootstrap), "s")
    mock.fail(PRODUCE, TOO_LARGE)
    tickets: list[Ticket] = []
    until = time.monotonic() + 60
    while publisher.fatal is None:
        assert time.monotonic() < until
        tickets.append(publisher.send(outbox_rows("t", [b"k"], start=len(tickets) + 1)))
    assert publisher.fatal.code == "_GAPLESS_GUARANTEE"
    first = next(ticket for ticket in tickets if not ticket.done)
    assert first.refuses_record(publisher.fatal)
    assert first.refused_for_size(publisher.fatal)
    assert {ticket.failure.name() for ticket in tickets if ticket.failure} <= {"MSG_SIZE_TOO_LARGE"}
    publisher.close()


def wait(holds, worker):
    """Look again and again until it holds, as long as the worker lives."""
    until = time.monotonic() + 60
    while not holds():
        assert worker.is_alive(), "the relay's loop died"
        assert time.monotonic() < until
        time.sleep(0.005)
